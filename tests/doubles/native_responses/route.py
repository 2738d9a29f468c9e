"""The Responses of a mistral.rs node: whole, streamed, or in the background.

Checked against `create_response` of mistral.rs 9e922623 (nodes.md 6.3 to 6.6, 6.9 to 6.13).
"""

from collections.abc import Callable, Sequence
from typing import Protocol
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.server import Request

from cortexd.testing.answering.answers import Answer, answer_chat
from cortexd.testing.answering.inference import Inference, longest
from cortexd.testing.answering.prompt import EngineRefusedError
from cortexd.testing.answering.replies import body_of, json_reply
from cortexd.testing.answering.requests import (
    BodyRefusedError,
    ChatRequest,
    EngineFailedError,
    Message,
    RequestRefusedError,
)
from cortexd.testing.answering.streams import Collector
from cortexd.testing.answering.wire import Heading, Json
from cortexd.testing.model import NotAvailableError, SimulatedModel
from cortexd.testing.process import LoaderPanicError, Process
from cortexd.testing.server import Server
from tests.doubles.native_responses.requests import ResponsesRequest, new_id, said_in
from tests.doubles.native_responses.shapes import ResponseShape, ResponseTerms
from tests.doubles.native_responses.store import ResponseStore

UNEXPECTED = "Unexpected response type"
"""A node's words when the model of a response is unloaded."""


class NativeServer(Server, Protocol):
    """The interface of a node for its Responses; see SimulatedNativeNode."""

    older_responses: bool


class NativeResponses:
    """The Responses of one node; its caller handles the errors."""

    def __init__(self, server: NativeServer) -> None:
        self._server = server
        self._inference = Inference(server)
        self._stores: WeakKeyDictionary[Process, ResponseStore] = WeakKeyDictionary()

    @property
    def stored(self) -> ResponseStore:
        """The responses that the running process stores."""
        return self._stores.setdefault(self._server.running_process, ResponseStore())

    def kept(self, request: Request, name: str) -> bytes:
        """Return or delete a stored response."""
        if request.method == b"DELETE":
            if not self.stored.delete(name):
                return _no_response(request, name)
            deleted = {"deleted": True, "id": name, "object": "response.deleted"}
            return json_reply(request, 200, deleted)
        response = self.stored.find(name)
        return json_reply(request, 200, response) if response else _no_response(request, name)

    def cancel(self, request: Request, name: str) -> bytes:
        """Mark a background response as cancelled."""
        response = self.stored.cancel(name)
        if response is None:
            return _no_response(request, name, " or cannot be cancelled")
        return json_reply(request, 200, response)

    async def respond(self, request: Request) -> bytes | None:
        """Continue a conversation; None if the answer was streamed."""
        body = body_of(request, ResponsesRequest)
        process = self._server.running_process
        # A body that the framework rejects is rejected in the background too.
        body.turns(is_older_node=self._server.older_responses)
        body.namespaced()
        if body.background:
            return self._respond_later(request, body)
        chat, before = self._chat_of(body)
        try:
            return await self._inference.generate(
                request,
                model=self._inference.routed(body.model),
                named=body.model,
                stream=bool(body.stream),
                make=lambda model: answer_chat(chat, model),
                shape=lambda heading: self._shape(heading, body, new_id(), before),
            )
        except EngineFailedError as error:
            if process is self._server.process and "No response received" in str(error):
                raise EngineFailedError(500, UNEXPECTED) from error
            raise

    def _chat_of(self, body: ResponsesRequest) -> tuple[ChatRequest, list[Message]]:
        """Return the chat of a request, and the conversation that it continues."""
        before = self.stored.conversation(body.previous_response_id)
        is_older = self._server.older_responses
        chat = body.as_chat(before, is_older_node=is_older)
        return chat, chat.turns()

    def _shape(
        self, heading: Heading, body: ResponsesRequest, name: str, turns: Sequence[Message]
    ) -> ResponseShape:
        stored = self.stored

        def keep(response: Json | None, answer: Answer) -> None:
            if body.store is False:
                return
            if response is not None:
                stored.keep(response)
            stored.keep_conversation(name, [*turns, *said_in(answer)])

        terms = ResponseTerms(
            id=name,
            echoed=body.echoed(),
            namespaced=body.namespaced(),
            call_ids=[f"call-{digest}" for digest in self._inference.digests(heading)],
            is_of_older_node=self._server.older_responses,
        )
        return ResponseShape(heading, terms, keep)

    def _respond_later(self, request: Request, body: ResponsesRequest) -> bytes:
        """Answer at once; whatever happens to the work afterwards is in its state."""
        stored = self.stored
        heading = self._inference.heading(self._server.running_process, body.model)
        name = new_id()
        made = self._shape(heading, body, name, ())
        queued = made.bare("queued", metadata=body.metadata)
        stored.set_task(made.bare("queued"))

        def end(response: Json) -> None:
            stored.set_task(response)

        def fail(failure: Failure) -> None:
            kind, words = _fault(failure)
            end(made.bare("failed", error={"type": kind, "message": words}))

        working = Deferred.fromCoroutine(self._work(body, heading, name, end, made.bare))
        working.addErrback(fail)
        return json_reply(request, 200, queued)

    async def _work(
        self,
        body: ResponsesRequest,
        heading: Heading,
        name: str,
        end: Callable[[Json], None],
        bare: Callable[[str], Json],
    ) -> None:
        process = self._server.running_process
        model: SimulatedModel
        try:
            chat, turns = self._chat_of(body)
            model = process.models.configured(
                process.models.resolve(self._inference.routed(body.model))
            )
            answers = answer_chat(chat, model)
        except (RequestRefusedError, BodyRefusedError, NotAvailableError) as error:
            raise _ParseError(str(error)) from error
        end(bare("in_progress"))
        engine = await process.engine_for(model.id)
        collector = Collector()
        engine.submit(process.new_generation(collector, longest(answers), in_background=True))
        timings = await collector.done
        end(self._shape(heading, body, name, turns).whole(answers, timings))


def _no_response(request: Request, name: str, words: str = "") -> bytes:
    return json_reply(request, 404, {"message": f"Response with ID '{name}' not found{words}"})


class _ParseError(Exception):
    """Raised when background work fails before it is sent to its model."""


def _fault(failure: Failure) -> tuple[str, str]:
    """Return type and message of the error with which background work has failed."""
    error = failure.value
    match error:
        case _ParseError():
            return "parse_error", str(error)
        case NotAvailableError() | LoaderPanicError():
            return "send_error", str(error)
        case EngineRefusedError(status=422):
            return "validation_error", str(error)
        case EngineRefusedError():
            return "internal_error", str(error)
        case EngineFailedError():
            return "unknown_error", UNEXPECTED
    failure.raiseException()
    raise AssertionError from error
