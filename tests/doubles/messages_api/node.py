"""A simulated server that speaks only the Messages API.

Its models answer like those of a mistral.rs node, with three additions: a model reads a failed
tool's result as "Error: " and the text, and a user's `stop:refusal` or `stop:pause_turn` ends the
answer for that reason. It has no lifecycle: a model that is not loaded does not exist.
"""

import dataclasses
import re

from klein import Klein
from msgspec.structs import replace
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import Request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from cortexd.testing.answering.answers import Answer, answer_chat
from cortexd.testing.answering.inference import Inference
from cortexd.testing.answering.prompt import (
    EngineRefusedError,
    PromptTooLongError,
    prompt_of,
)
from cortexd.testing.answering.replies import body_of, json_reply
from cortexd.testing.answering.requests import BodyRefusedError, ChatRequest, RequestRefusedError
from cortexd.testing.answering.wire import Heading, Json
from cortexd.testing.model import SimulatedModel
from cortexd.testing.node import SimulatedNode
from cortexd.testing.server import Server
from tests.doubles.messages_api.requests import (
    Block,
    MessagesRequest,
    Source,
    Turn,
    chat_of,
    envelope,
    refused,
    result_text,
)
from tests.doubles.messages_api.rules import checked, own_tools
from tests.doubles.messages_api.shapes import FullMessagesShape, MessageTerms

# When a model came out says nothing of when the server started.
CREATED_AT = "2026-01-15T00:00:00Z"
MODELS_A_PAGE = 20
PICTURE = Source("base64", media_type="image/png", data="iVBORw0KGgo=")
MOST_MODELS_A_PAGE = 1000

_TOLD_REASON = re.compile(r"\bstop:(refusal|pause_turn)\b", re.ASCII)


class SimulatedMessagesNode(SimulatedNode):
    """A server of only the Messages API, with its parent's constructor, faults and journal."""

    def _routes(self) -> Resource:
        return MessagesRoutes(self).resource()


class MessagesRoutes:
    """The Klein application of a Messages-only server."""

    app = Klein()

    def __init__(self, server: Server) -> None:
        self._server = server
        self._inference = Inference(server)

    def resource(self) -> Resource:
        """Return the application as a resource."""
        resource: Resource = self.app.resource()
        return resource

    @app.route("/v1/models", methods=["GET"])
    def list_models(self, request: Request) -> bytes:
        """List the models, a page at a time."""
        _require_version(request)
        ids = self._ids()
        after_id = _argument(request, b"after_id")
        if after_id is not None:
            if after_id not in ids:
                raise refused(f"after_id: there is no model '{after_id}'")
            ids = ids[ids.index(after_id) + 1 :]
        limit = _argument(request, b"limit") or str(MODELS_A_PAGE)
        if not limit.isdecimal() or not 1 <= int(limit) <= MOST_MODELS_A_PAGE:
            raise refused(f"limit: Input should be a number from 1 to {MOST_MODELS_A_PAGE}")
        page = ids[: int(limit)]
        listing = {
            "data": [_model(model_id) for model_id in page],
            "has_more": len(page) < len(ids),
            "first_id": page[0] if page else None,
            "last_id": page[-1] if page else None,
        }
        return json_reply(request, 200, listing)

    @app.route("/v1/messages", methods=["POST"])
    async def answer(self, request: Request) -> bytes | None:
        """Answer a conversation, streamed or whole."""
        _require_version(request)
        body = checked(body_of(request, MessagesRequest), betas=_betas(request))
        model = self._model(body.model)
        chat = _chat_of(body)
        answer = _answer_of(chat, body, model)

        def shape(heading: Heading) -> FullMessagesShape:
            return FullMessagesShape(heading, self._terms(heading, body, model, answer))

        return await self._inference.generate(
            request,
            model=model.id,
            stream=bool(body.stream),
            make=lambda _: (answer,),
            shape=shape,
        )

    @app.route("/v1/messages/count_tokens", methods=["POST"])
    def count_tokens(self, request: Request) -> bytes:
        """Count a prompt's tokens, with the same result as in an answer."""
        _require_version(request)
        body = checked(body_of(request, MessagesRequest), betas=_betas(request), generates=False)
        model = self._model(body.model)
        counted = {"input_tokens": prompt_of(_chat_of(body), model).tokens}
        return json_reply(request, 200, counted)

    def _model(self, name: str) -> SimulatedModel:
        if name not in self._ids():
            raise RequestRefusedError(404, f"model: {name}")
        # This server is no mistral.rs node: how it renders a conversation is its own affair.
        model = self._server.running_process.models.configured(name)
        return dataclasses.replace(model, render=None)

    def _ids(self) -> list[str]:
        """Give the ids of the models that are there: those that chat and are loaded."""
        models = self._server.running_process.models
        return [name for name in models.loaded if models.configured(name).kind == "chat"]

    def _terms(
        self, heading: Heading, body: MessagesRequest, model: SimulatedModel, answer: Answer
    ) -> MessageTerms:
        message_digest, *digests = self._inference.digests(heading)
        return MessageTerms(
            id=f"msg_{message_digest[:24]}",
            model=body.model,
            prompt_tokens=answer.prompt.tokens,
            context_tokens=model.context_tokens,
            call_ids=[f"toolu_{digest[:24]}" for digest in digests],
            stop_reason=_told_reason(body.messages[-1]) or "end_turn",
            error_status=self._server.faults.error_status,
        )

    @app.handle_errors(BodyRefusedError, RequestRefusedError)
    def refuse(self, request: IRequest, failure: Failure) -> bytes:
        """Answer in the envelope; an invalid body gets 400, like an unparseable one."""
        error = failure.value
        assert isinstance(error, BodyRefusedError | RequestRefusedError)
        status = 400 if error.status in (415, 422) else error.status
        return _refusal(request, status, str(error))

    @app.handle_errors(HTTPException)
    def refuse_route(self, request: IRequest, failure: Failure) -> bytes:
        """Answer 405 for a wrong method and 404 for every other miss, in the envelope."""
        if isinstance(failure.value, MethodNotAllowed):
            return _refusal(request, 405, "Method Not Allowed")
        return _refusal(request, 404, "Not found")


def _require_version(request: Request) -> None:
    if not request.getHeader("anthropic-version"):
        raise refused("anthropic-version: header is required")
    _tell_id(request)


def _tell_id(request: IRequest) -> str:
    """Give the request's id, and tell it the client by the name that this API has for it."""
    names: list[bytes] = request.responseHeaders.getRawHeaders(b"x-request-id", [b""])
    request.setHeader(b"request-id", names[0])
    return names[0].decode()


def _betas(request: Request) -> str:
    return ",".join(map(str, request.requestHeaders.getRawHeaders("anthropic-beta", [])))


def _argument(request: Request, name: bytes) -> str | None:
    values = request.args.get(name) if request.args else None
    return values[-1].decode(errors="replace") if values else None


def _refusal(request: IRequest, status: int, message: str) -> bytes:
    return json_reply(
        request, status, {**envelope(status, message), "request_id": _tell_id(request)}
    )


def _model(model_id: str) -> Json:
    return {
        "type": "model",
        "id": model_id,
        "display_name": model_id.rpartition("/")[2],
        "created_at": CREATED_AT,
    }


def _answer_of(chat: ChatRequest, body: MessagesRequest, model: SimulatedModel) -> Answer:
    choice = body.tool_choice
    one_call = choice is not None and choice.disable_parallel_tool_use
    try:
        (answer,) = answer_chat(chat, model, most_calls=1 if one_call else None)
    except PromptTooLongError as error:
        raise refused(
            f"prompt is too long: {prompt_of(chat, model).tokens} tokens > "
            f"{model.context_tokens} maximum"
        ) from error
    except EngineRefusedError as error:
        raise refused(str(error)) from error
    return answer


def _chat_of(body: MessagesRequest) -> ChatRequest:
    """Give the chat that the models here answer in place of the conversation."""
    turns = [
        Turn(turn.role, [_heard(block) for block in turn.blocks()] or "") for turn in body.messages
    ]
    return chat_of(
        replace(body, messages=turns, tools=own_tools(body)),
        tool_choice_any="required",
        enable_thinking=bool(body.wants_thinking()),
    )


def _heard(block: Block) -> Block:
    """Give a block as the models here take it."""
    match block.type:
        case "tool_result" if block.is_error:
            return replace(block, content=f"Error: {result_text(block)}")
        case "image":
            # Where a picture comes from is its own affair too.
            return replace(block, source=PICTURE)
        case "document":
            source = block.source
            text = source.data if source is not None and source.type == "text" else None
            return Block("text", text=text or "[document]")
        case "search_result":
            return Block("text", text=result_text(block))
        case "thinking" | "redacted_thinking":
            # A turn may well be of thoughts alone.
            return Block("text", text="")
    return block


def _told_reason(turn: Turn) -> str | None:
    """Give the reason for which a user's turn tells the answer to end."""
    if turn.role != "user":
        return None
    found = [_TOLD_REASON.search(block.text or "") for block in turn.blocks()]
    return next((match[1] for match in found if match), None)
