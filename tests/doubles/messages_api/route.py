"""The Messages API of a mistral.rs node, with all its omissions.

A request becomes a chat. The node turns `tool_choice` of `any` into `auto`, drops thoughts in the
history and `is_error`, and replaces an image in a tool's result by `[image]`. This route answers
400 where the chat route refuses.
"""

from twisted.web.server import Request

from cortexd.testing.answering.answers import answer_chat
from cortexd.testing.answering.inference import Inference
from cortexd.testing.answering.prompt import EngineRefusedError, prompt_of
from cortexd.testing.answering.replies import body_of, empty_reply, json_reply
from cortexd.testing.answering.requests import ChatRequest, EngineFailedError, RequestRefusedError
from cortexd.testing.answering.wire import Heading
from cortexd.testing.model import DEFAULT_MODEL, NotAvailableError
from cortexd.testing.server import Server
from tests.doubles.messages_api.requests import MessagesRequest, chat_of, envelope, refused
from tests.doubles.messages_api.shapes import MistralrsMessagesShape

FIRST_WITH_MESSAGES = (0, 8, 4)


class MistralrsMessages:
    """The Messages API of a mistral.rs node; its caller handles BodyRefusedError."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._inference = Inference(server)

    async def answer(self, request: Request) -> bytes | None:
        """Answer a conversation; return None after a stream."""
        if self._server.version < FIRST_WITH_MESSAGES:
            return empty_reply(request, 404)
        body = body_of(request, MessagesRequest)

        def shape(heading: Heading) -> MistralrsMessagesShape:
            call_ids = [f"call-{digest}" for digest in self._inference.digests(heading)]
            return MistralrsMessagesShape(heading, call_ids)

        try:
            chat = _chat_of(body)
            return await self._inference.generate(
                request,
                model=body.model,
                stream=bool(body.stream),
                make=lambda model: answer_chat(chat, model),
                shape=shape,
            )
        except (NotAvailableError, RequestRefusedError) as error:
            return self._refuse(request, body, error)

    def count_tokens(self, request: Request) -> bytes:
        """Count a prompt's tokens, always with the default model's tokenizer."""
        if self._server.version < FIRST_WITH_MESSAGES:
            return empty_reply(request, 404)
        body = body_of(request, MessagesRequest)
        models = self._server.running_process.models
        try:
            chat = _chat_of(body)
            model = models.configured(models.resolve(DEFAULT_MODEL))
            counted = {"input_tokens": prompt_of(chat, model).tokens}
        except (NotAvailableError, EngineRefusedError) as error:
            return json_reply(request, 500, envelope(500, str(error)))
        except RequestRefusedError as error:
            return self._refuse(request, body, error)
        return json_reply(request, 200, counted)

    def _refuse(
        self,
        request: Request,
        body: MessagesRequest,
        error: NotAvailableError | RequestRefusedError,
    ) -> bytes:
        """Answer 400 for what the client did, an unknown model included, and 500 for the rest."""
        status = 400
        if isinstance(error, EngineFailedError) or (
            isinstance(error, NotAvailableError)
            and self._server.running_process.models.known(body.model)
        ):
            status = 500
        return json_reply(request, status, envelope(status, str(error)))


def _chat_of(body: MessagesRequest) -> ChatRequest:
    told, own = body.wants_thinking(), body.enable_thinking
    if None not in (told, own) and told is not own:
        raise refused("Anthropic `thinking.type` conflicts with mistral.rs `enable_thinking`.")
    chat = chat_of(body, tool_choice_any="auto", enable_thinking=own if told is None else told)
    chat.thinking()
    return chat
