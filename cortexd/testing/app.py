"""The routes of a mistral.rs server, as far as the gateway may meet them."""

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import msgspec
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import Request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from cortexd.testing import media, wire
from cortexd.testing.answers import (
    Answer,
    PromptTooLongError,
    answer_chat,
    answer_completion,
)
from cortexd.testing.generation import Engine
from cortexd.testing.model import NotAvailableError, SimulatedModel
from cortexd.testing.process import LoaderPanicError, Outcome, Process
from cortexd.testing.reports import metrics_text, model_list, system_info
from cortexd.testing.requests import (
    BodyRefusedError,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Message,
    ModelOperation,
    RequestRefusedError,
    decode,
)
from cortexd.testing.responses import ResponseShape, ResponsesRequest, new_id
from cortexd.testing.server import Server
from cortexd.testing.streams import Collector, EventStream, Shape, StreamEnding, abort, read_body

FIRST_WITH_METRICS = (0, 8, 4)
# More calls than a prompt of any test asks for.
MOST_TOOL_CALLS = 64

Body = TypeVar("Body")
Make = Callable[[SimulatedModel], tuple[Answer, ...]]


class Routes:
    """The Klein application of one node."""

    app = Klein()

    def __init__(self, server: Server) -> None:
        self._server = server

    def resource(self) -> Resource:
        """Give the application as a resource."""
        resource: Resource = self.app.resource()
        return resource

    @app.route("/", methods=["GET"])
    @app.route("/health", methods=["GET"])
    def health(self, request: Request) -> bytes:
        """Answer OK, whatever the models do."""
        return _text(request, 200, "OK")

    @app.route("/v1/models", methods=["GET"])
    def list_models(self, request: Request) -> bytes:
        """List the models; always 200."""
        process = self._server.running_process
        return _json(request, 200, model_list(process, self._server.version))

    @app.route("/v1/models/unload", methods=["POST"])
    def unload(self, request: Request) -> bytes:
        """Unload a model; always 200, the outcome is in the body."""
        model_id = _body(request, ModelOperation).model_id
        return _outcome(request, model_id, self._server.running_process.unload(model_id))

    @app.route("/v1/models/reload", methods=["POST"])
    async def reload(self, request: Request) -> bytes:
        """Load a model and answer when that is done, with no byte before; always 200."""
        model_id = _body(request, ModelOperation).model_id
        return _outcome(request, model_id, await self._server.running_process.reload(model_id))

    @app.route("/v1/models/status", methods=["POST"])
    def status(self, request: Request) -> bytes:
        """Tell a model's state; always 200."""
        model_id = _body(request, ModelOperation).model_id
        status = self._server.running_process.models.status(model_id)
        return _outcome(request, model_id, Outcome(status))

    @app.route("/v1/system/info", methods=["GET"])
    def info(self, request: Request) -> bytes:
        """Describe the machine, with the memory free at this moment."""
        resident_mb = self._server.running_process.models.resident_mb(self._server.clock.seconds())
        return _json(
            request,
            200,
            system_info(self._server.memory_mb, resident_mb, self._server.version),
        )

    @app.route("/metrics", methods=["GET"])
    def metrics(self, request: Request) -> bytes:
        """Give the Prometheus series that this version has."""
        if self._server.version < FIRST_WITH_METRICS:
            return _empty(request, 404)
        request.setHeader(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
        return metrics_text(self._server.running_process, self._server.version).encode()

    @app.route("/v1/chat/completions", methods=["POST"])
    async def chat_completions(self, request: Request) -> bytes | None:
        """Answer a conversation, streamed or whole."""
        body = _body(request, ChatRequest)

        def shape(heading: wire.Heading) -> wire.Shape:
            top = (body.top_logprobs or 0) if body.logprobs else None
            seed = f"{self._server.name} {self._server.running_process.number} {heading.id}"
            call_ids = [
                f"call-{hashlib.sha256(f'{seed} {number}'.encode()).hexdigest()[:32]}"
                for number in range(MOST_TOOL_CALLS)
            ]
            return wire.ChatShape(heading, call_ids, top)

        return await self._generate(
            request,
            model=body.model,
            stream=bool(body.stream),
            make=lambda model: answer_chat(body, model),
            shape=shape,
        )

    @app.route("/v1/completions", methods=["POST"])
    async def completions(self, request: Request) -> bytes | None:
        """Complete a prompt, streamed or whole."""
        body = _body(request, CompletionRequest)
        return await self._generate(
            request,
            model=body.model,
            stream=bool(body.stream),
            make=lambda model: answer_completion(body, model),
            shape=lambda heading: wire.CompletionShape(heading, body.logprobs),
        )

    @app.route("/v1/embeddings", methods=["POST"])
    async def embeddings(self, request: Request) -> bytes:
        """Give vectors for texts."""
        body = _body(request, EmbeddingRequest)
        self._fail_if_told()
        process = self._server.running_process
        if not process.models.known(body.model):
            try:
                process.models.resolve(body.model)
            except NotAvailableError as error:
                raise RequestRefusedError(422, str(error)) from error
        if body.dimensions is not None:
            raise RequestRefusedError(
                422, f"Custom embedding dimensions ({body.dimensions}) are not supported."
            )
        if not body.texts():
            raise RequestRefusedError(422, "input must contain at least one entry.")
        model = process.models.configured(process.models.resolve(body.model))
        _require_kind(model, "embedding")
        engine = await process.engine_for(model.id)
        collector = Collector()
        engine.submit(process.new_generation(collector, token_count=0))
        await collector.done
        return _json(request, 200, wire.embeddings(body))

    @app.route("/v1/images/generations", methods=["POST"])
    async def images(self, request: Request) -> bytes:
        """Make images; by default they stay on the node's disk."""
        body = _body(request, media.ImageRequest)
        await self._work(body.model, "image")
        return _json(request, 200, media.images(body, self._server.unix_time()))

    @app.route("/v1/audio/speech", methods=["POST"])
    async def speech(self, request: Request) -> bytes:
        """Speak a text."""
        body = _body(request, media.SpeechRequest)
        content_type, sound = media.speech(body)
        await self._work(body.model, "speech")
        request.setHeader(b"content-type", content_type.encode())
        return _sized(request, sound)

    async def _work(self, model: str, kind: str) -> None:
        """Let a model of a kind that makes no tokens make something."""
        self._fail_if_told()
        process = self._server.running_process
        configured = process.models.configured(process.models.resolve(model))
        _require_kind(configured, kind)
        collector = Collector()
        (await process.engine_for(configured.id)).submit(
            process.new_generation(collector, token_count=0)
        )
        await collector.done

    @app.route("/v1/responses", methods=["POST"])
    async def respond(self, request: Request) -> bytes | None:
        """Go on with a conversation, streamed, whole or in the background."""
        body = _body(request, ResponsesRequest)
        process = self._server.running_process
        chat = body.as_chat(process.responses.conversation(body.previous_response_id))
        name = new_id()

        def keep(response: wire.Json) -> None:
            if body.store is not False:
                said = Message(
                    role="assistant", content=response["output"][0]["content"][0]["text"]
                )
                process.responses.keep(response, [*chat.turns(), said])

        def shape(heading: wire.Heading) -> ResponseShape:
            return ResponseShape(heading, name, keep)

        def make(model: SimulatedModel) -> tuple[Answer, ...]:
            return answer_chat(chat, model)

        if body.background:
            return await self._respond_later(request, body, make, shape)
        return await self._generate(
            request, model=body.model, stream=bool(body.stream), make=make, shape=shape
        )

    async def _respond_later(
        self,
        request: Request,
        body: ResponsesRequest,
        make: Make,
        shape: Callable[[wire.Heading], ResponseShape],
    ) -> bytes:
        process = self._server.running_process
        model = process.models.configured(process.models.resolve(body.model))
        engine = await process.engine_for(model.id)
        answers = make(model)
        made = shape(self._heading(process, model))
        response = made.resource("queued")
        process.responses.begin_task(response)
        collector = Collector()
        collector.done.addCallbacks(
            lambda timings: response.update(made.whole(answers, timings)),
            lambda failure: response.update(status="failed"),
        )
        engine.submit(process.new_generation(collector, _longest(answers)))
        return _json(request, 200, response)

    @app.route("/v1/responses/<name>", methods=["GET"])
    def show_response(self, request: Request, name: str) -> bytes:
        """Show a response that is kept."""
        response = self._server.running_process.responses.find(name)
        return _json(request, 200, response) if response else _no_response(request, name)

    @app.route("/v1/responses/<name>", methods=["DELETE"])
    def delete_response(self, request: Request, name: str) -> bytes:
        """Forget a response."""
        if not self._server.running_process.responses.delete(name):
            return _no_response(request, name)
        return _json(request, 200, {"deleted": True, "id": name, "object": "response.deleted"})

    @app.route("/v1/responses/<name>/cancel", methods=["POST"])
    def cancel_response(self, request: Request, name: str) -> bytes:
        """Mark a response that is made in the background as cancelled."""
        response = self._server.running_process.responses.cancel(name)
        if response is None:
            return _no_response(request, name, " or cannot be cancelled")
        return _json(request, 200, response)

    def _heading(self, process: Process, model: SimulatedModel) -> wire.Heading:
        return wire.Heading(
            id=process.next_answer_id(),
            created=self._server.unix_time(),
            model=model.id,
            version=self._server.version,
        )

    async def _generate(
        self,
        request: Request,
        *,
        model: str,
        stream: bool,
        make: Make,
        shape: Callable[[wire.Heading], Shape],
    ) -> bytes | None:
        """Answer an inference request: None where it was streamed.

        The handler's own refusals come first, then the load of an unloaded model, then the
        engine's refusals, which are inside the stream where there is one.
        """
        self._fail_if_told()
        process = self._server.running_process
        configured = process.models.configured(process.models.resolve(model))
        _require_kind(configured, "chat")
        answers: tuple[Answer, ...] = ()
        too_long: PromptTooLongError | None = None
        try:
            answers = make(configured)
        except PromptTooLongError as error:
            too_long = error
        engine = await process.engine_for(configured.id)
        heading = self._heading(process, configured)
        if stream:
            await self._stream(request, process, engine, shape(heading), answers, too_long)
            return None
        if too_long is not None:
            raise RequestRefusedError(422, str(too_long)) from too_long
        collector = Collector()
        engine.submit(process.new_generation(collector, _longest(answers)))
        timings = await collector.done
        return _json(request, 200, shape(heading).whole(answers, timings))

    async def _stream(
        self,
        request: Request,
        process: Process,
        engine: Engine,
        shape: Shape,
        answers: Sequence[Answer],
        too_long: PromptTooLongError | None,
    ) -> None:
        server = self._server
        path = request.path.decode()

        def ended(stream: EventStream, reason: StreamEnding) -> None:
            server.streams.discard(stream)
            server.journal.record(
                server.clock.seconds(),
                "stream_ended",
                shape.model,
                path=path,
                reason=reason,
                chunks=stream.chunks,
            )

        stream = EventStream(
            server.clock,
            request,
            shape=shape,
            answers=answers,
            faults=server.faults,
            keepalive_seconds=server.keepalive_seconds,
            version=server.version,
            on_end=ended,
        )
        server.streams.add(stream)
        server.journal.record(server.clock.seconds(), "stream_opened", shape.model, path=path)
        stream.open()
        if too_long is not None:
            stream.fail(str(too_long))
        else:
            generation = process.new_generation(stream, _longest(answers))
            stream.feed_from(generation)
            engine.submit(generation)
        await stream.closed

    def _fail_if_told(self) -> None:
        if self._server.faults.take_error_response():
            raise RequestRefusedError(500, self._server.faults.error_message)

    @app.handle_errors(BodyRefusedError)
    def refuse_body(self, request: IRequest, failure: Failure) -> bytes:
        """Answer in the web framework's plain text."""
        error = failure.value
        assert isinstance(error, BodyRefusedError)  # noqa: S101 - Klein checked it
        return _text(request, error.status, str(error))

    @app.handle_errors(RequestRefusedError)
    def refuse_request(self, request: IRequest, failure: Failure) -> bytes:
        """Answer in the handlers' envelope."""
        error = failure.value
        assert isinstance(error, RequestRefusedError)  # noqa: S101 - Klein checked it
        return _json(request, error.status, {"message": str(error)})

    @app.handle_errors(NotAvailableError)
    def refuse_model(self, request: IRequest, failure: Failure) -> bytes:
        """Answer 500 for a model that cannot answer, the client's mistake or not."""
        return _json(request, 500, {"message": str(failure.value)})

    @app.handle_errors(LoaderPanicError)
    def break_off(self, request: IRequest, failure: Failure) -> "Deferred[bytes]":
        """Break the connection: the task that would have answered is gone."""
        abort(cast(Request, request))
        return Deferred()

    @app.handle_errors(HTTPException)
    def refuse_route(self, request: IRequest, failure: Failure) -> bytes:
        """Answer 405 for a wrong method and 404 for every other miss, with no body."""
        error = failure.value
        if isinstance(error, MethodNotAllowed):
            request.setHeader(b"allow", ",".join(sorted(error.valid_methods or ())).encode())
            return _empty(request, 405)
        return _empty(request, 404)


def _longest(answers: Sequence[Answer]) -> int:
    return max(len(answer.tokens) for answer in answers)


def _require_kind(model: SimulatedModel, kind: str) -> None:
    if model.kind != kind:
        raise RequestRefusedError(
            500, f"Model `{model.id}` is a {model.kind} model and cannot answer this request."
        )


def _body(request: Request, into: type[Body]) -> Body:
    return decode(read_body(request), request.getHeader("content-type"), into)


def _json(request: IRequest, status: int, data: object) -> bytes:
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    return _sized(request, msgspec.json.encode(data))


def _text(request: IRequest, status: int, text: str) -> bytes:
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"text/plain; charset=utf-8")
    return _sized(request, text.encode())


def _empty(request: IRequest, status: int) -> bytes:
    request.setResponseCode(status)
    return _sized(request, b"")


def _sized(request: IRequest, body: bytes) -> bytes:
    request.setHeader(b"content-length", str(len(body)).encode())
    return body


def _no_response(request: IRequest, name: str, words: str = "") -> bytes:
    return _json(request, 404, {"message": f"Response with ID '{name}' not found{words}"})


def _outcome(request: IRequest, model_id: str, outcome: Outcome) -> bytes:
    answer = {"model_id": model_id, "status": outcome.status}
    if outcome.error is not None:
        answer["error"] = outcome.error
    return _json(request, 200, answer)
