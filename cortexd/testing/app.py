"""The routes of a mistral.rs server that the gateway may use."""

from typing import Protocol, cast

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import Request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from cortexd.testing.answering import media, wire
from cortexd.testing.answering.agent import AgentRun, AgentShape, with_input_files
from cortexd.testing.answering.answers import answer_chat, answer_completion
from cortexd.testing.answering.inference import Inference
from cortexd.testing.answering.prompt import (
    OTHER_CATEGORY,
    EngineRefusedError,
    without_hosted_tools,
)
from cortexd.testing.answering.replies import body_of, empty_reply, json_reply, sized, text_reply
from cortexd.testing.answering.requests import (
    BodyRefusedError,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    ModelOperation,
    RequestRefusedError,
)
from cortexd.testing.answering.streams import Collector, abort
from cortexd.testing.kept_routes import KeptRoutes
from cortexd.testing.model import DEFAULT_MODEL, NotAvailableError
from cortexd.testing.process import LoaderPanicError, Outcome
from cortexd.testing.reports import metrics_text, model_list, system_info
from cortexd.testing.server import Server

FIRST_WITH_METRICS = (0, 8, 4)
MAX_LOGGED_ERROR_BYTES = 4 * 1024


class MessagesHandler(Protocol):
    """The Messages API of a node; each method may raise BodyRefusedError."""

    async def answer(self, request: Request) -> bytes | None:
        """Answer a conversation; None if the answer was streamed."""

    def count_tokens(self, request: Request) -> bytes:
        """Count the tokens of a conversation."""


class ResponsesHandler(Protocol):
    """The Responses of a node; each method may raise the errors that Routes answers."""

    async def respond(self, request: Request) -> bytes | None:
        """Continue a conversation; None if the answer was streamed."""

    def kept(self, request: Request, name: str) -> bytes:
        """Return or delete a stored response."""

    def cancel(self, request: Request, name: str) -> bytes:
        """Mark a background response as cancelled."""


class Routes:
    """The Klein application of one node, with Messages and Responses only by these handlers."""

    app = Klein()

    def __init__(
        self,
        server: Server,
        messages: MessagesHandler | None = None,
        responses: ResponsesHandler | None = None,
    ) -> None:
        self._server = server
        self._inference = Inference(server)
        self._messages = messages
        self._responses = responses
        self._kept = KeptRoutes(server)

    def resource(self) -> Resource:
        """Return the application as a resource."""
        resource: Resource = self.app.resource()
        return resource

    @app.route("/", methods=["GET"])
    @app.route("/health", methods=["GET"])
    def health(self, request: Request) -> bytes:
        """Answer OK, whatever the state of the models."""
        return text_reply(request, 200, "OK")

    @app.route("/v1/models", methods=["GET"])
    def list_models(self, request: Request) -> bytes:
        """List the models; always 200."""
        process = self._server.running_process
        return json_reply(request, 200, model_list(process, self._server.version))

    @app.route("/v1/models/unload", methods=["POST"])
    def unload(self, request: Request) -> bytes:
        """Unload a model; the status is always 200, and the body has the outcome."""
        model_id = body_of(request, ModelOperation).model_id
        return _outcome(request, model_id, self._server.running_process.unload(model_id))

    @app.route("/v1/models/reload", methods=["POST"])
    async def reload(self, request: Request) -> bytes:
        """Load a model; the status is always 200, and no byte is sent before the load has ended."""
        model_id = body_of(request, ModelOperation).model_id
        return _outcome(request, model_id, await self._server.running_process.reload(model_id))

    @app.route("/v1/models/status", methods=["POST"])
    def status(self, request: Request) -> bytes:
        """Return a model's state; the status is always 200."""
        model_id = body_of(request, ModelOperation).model_id
        status = self._server.running_process.models.status(model_id)
        return _outcome(request, model_id, Outcome(status))

    @app.route("/v1/system/info", methods=["GET"])
    def info(self, request: Request) -> bytes:
        """Describe the machine, with the memory that is free now."""
        resident_mb = self._server.running_process.models.resident_mb(self._server.clock.seconds())
        used_mb = resident_mb + self._server.faults.others_mb
        return json_reply(
            request, 200, system_info(self._server.memory_mb, used_mb, self._server.version)
        )

    @app.route("/metrics", methods=["GET"])
    def metrics(self, request: Request) -> bytes:
        """Return the Prometheus series of this version."""
        if self._server.version < FIRST_WITH_METRICS:
            return empty_reply(request, 404)
        request.setHeader(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
        return metrics_text(self._server.running_process, self._server.version).encode()

    @app.route("/v1/chat/completions", methods=["POST"])
    async def chat_completions(self, request: Request) -> bytes | None:
        """Answer a conversation, streamed or whole."""
        server = self._server
        process, now = server.running_process, server.clock.seconds()
        body = with_input_files(body_of(request, ChatRequest), process)
        run = AgentRun(body, process, now, server.unix_time()) if body.is_agentic() else None

        def shape(heading: wire.Heading) -> wire.ChatShape:
            top = (body.top_logprobs or 0) if body.logprobs else None
            call_ids = [f"call-{digest}" for digest in self._inference.digests(heading)]
            if run is not None:
                return AgentShape(heading, call_ids, top, run, now)
            return wire.ChatShape(heading, call_ids, top)

        return await self._inference.generate(
            request,
            model=self._inference.routed(body.model),
            named=None if body.model == DEFAULT_MODEL else body.model,
            stream=bool(body.stream),
            make=lambda model: answer_chat(
                without_hosted_tools(run.request if run else body), model
            ),
            shape=shape,
            work=run.work if run else None,
        )

    @app.route("/v1/completions", methods=["POST"])
    async def completions(self, request: Request) -> bytes | None:
        """Complete a prompt, streamed or whole."""
        body = body_of(request, CompletionRequest)
        return await self._inference.generate(
            request,
            model=self._inference.routed(body.model),
            named=None if body.model == DEFAULT_MODEL else body.model,
            stream=bool(body.stream),
            make=lambda model: answer_completion(body, model),
            shape=lambda heading: wire.CompletionShape(heading, body.logprobs),
        )

    @app.route("/v1/embeddings", methods=["POST"])
    async def embeddings(self, request: Request) -> bytes:
        """Return the vectors of texts."""
        body = body_of(request, EmbeddingRequest)
        self._inference.fail_if_told()
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
        if model.kind != "embedding":
            raise RequestRefusedError(500, OTHER_CATEGORY)
        engine = await process.engine_for(model.id)
        collector = Collector()
        engine.submit(process.new_generation(collector, token_count=0))
        await collector.done
        return json_reply(request, 200, wire.embeddings(body))

    @app.route("/v1/images/generations", methods=["POST"])
    async def images(self, request: Request) -> bytes:
        """Generate images; by default they stay on the node's disk."""
        body = body_of(request, media.ImageRequest)
        await self._work(body.model, "image")
        return json_reply(request, 200, media.images(body, self._server.unix_time()))

    @app.route("/v1/audio/speech", methods=["POST"])
    async def speech(self, request: Request) -> bytes:
        """Speak a text."""
        body = body_of(request, media.SpeechRequest)
        content_type, sound = media.speech(body)
        await self._work(body.model, "speech")
        request.setHeader(b"content-type", content_type.encode())
        return sized(request, sound)

    async def _work(self, model: str, kind: str) -> None:
        """Run a generation of a model that generates no tokens."""
        self._inference.fail_if_told()
        process = self._server.running_process
        configured = process.models.configured(process.models.resolve(model))
        if configured.kind != kind:
            raise EngineRefusedError(OTHER_CATEGORY)
        collector = Collector()
        (await process.engine_for(configured.id)).submit(
            process.new_generation(collector, token_count=0)
        )
        await collector.done

    @app.route("/v1/messages", methods=["POST"])
    async def messages(self, request: Request) -> bytes | None:
        """Answer a conversation in the Messages API, streamed or whole."""
        if self._messages is None:
            return empty_reply(request, 404)
        return await self._messages.answer(request)

    @app.route("/v1/messages/count_tokens", methods=["POST"])
    def count_tokens(self, request: Request) -> bytes:
        """Count the tokens of a conversation in the Messages API."""
        if self._messages is None:
            return empty_reply(request, 404)
        return self._messages.count_tokens(request)

    @app.route("/v1/responses", methods=["POST"])
    async def respond(self, request: Request) -> bytes | None:
        """Continue a conversation: streamed, whole or in the background."""
        if self._responses is None:
            return empty_reply(request, 404)
        return await self._responses.respond(request)

    @app.route("/v1/responses/<name>", methods=["GET", "DELETE"])
    def response(self, request: Request, name: str) -> bytes:
        """Return or delete a stored response."""
        if self._responses is None:
            return empty_reply(request, 404)
        return self._responses.kept(request, name)

    @app.route("/v1/responses/<name>/cancel", methods=["POST"])
    def cancel_response(self, request: Request, name: str) -> bytes:
        """Mark a background response as cancelled."""
        if self._responses is None:
            return empty_reply(request, 404)
        return self._responses.cancel(request, name)

    @app.route("/v1/sessions/<name>", methods=["GET", "PUT", "DELETE"])
    def session(self, request: Request, name: str) -> bytes:
        """Export, import or delete a session of the default model."""
        return self._kept.session(request, name)

    @app.route("/v1/files", methods=["GET"])
    def files(self, request: Request) -> bytes:
        """List the stored files."""
        return self._kept.files(request)

    @app.route("/v1/files", methods=["POST"])
    def upload(self, request: Request) -> bytes:
        """Store a client's file."""
        return self._kept.upload(request)

    @app.route("/v1/files/<name>", methods=["GET", "DELETE"])
    def file(self, request: Request, name: str) -> bytes:
        """Describe or delete a file."""
        return self._kept.file(request, name)

    @app.route("/v1/files/<name>/content", methods=["GET"])
    @app.route("/v1/containers/<container>/files/<name>/content", methods=["GET"])
    def file_content(self, request: Request, name: str, container: str = "") -> bytes:
        """Return the content of a file."""
        return self._kept.content(request, name)

    @app.route("/v1/containers/<container>/files", methods=["GET"])
    def container_files(self, request: Request, container: str) -> bytes:
        """List the stored files as those of a container."""
        return self._kept.container_files(request, container)

    @app.route("/v1/containers/<container>/files/<name>", methods=["GET"])
    def container_file(self, request: Request, container: str, name: str) -> bytes:
        """Describe a file as one of a container."""
        return self._kept.container_file(request, container, name)

    @app.route("/v1/agent/approvals/<name>", methods=["POST"])
    def approve(self, request: Request, name: str) -> bytes:
        """Accept a decision on a tool call that waits for approval."""
        return self._kept.approve(request, name)

    @app.handle_errors(BodyRefusedError)
    def refuse_body(self, request: IRequest, failure: Failure) -> bytes:
        """Answer with the web framework's error, in plain text."""
        error = failure.value
        assert isinstance(error, BodyRefusedError)  # noqa: S101 - Klein checked it
        words = str(error)
        # The layer that logs errors drops a long one of which it does not know the message.
        is_long = len(words.encode()) > MAX_LOGGED_ERROR_BYTES
        return text_reply(request, error.status, "" if is_long else words)

    @app.handle_errors(RequestRefusedError)
    def refuse_request(self, request: IRequest, failure: Failure) -> bytes:
        """Answer with a handler's error, in its envelope."""
        error = failure.value
        assert isinstance(error, RequestRefusedError)  # noqa: S101 - Klein checked it
        return json_reply(request, error.status, {"message": str(error)})

    @app.handle_errors(EngineRefusedError)
    def refuse_as_engine(self, request: IRequest, failure: Failure) -> bytes:
        """Answer with an engine's error, in the handler's envelope."""
        error = failure.value
        assert isinstance(error, EngineRefusedError)  # noqa: S101 - Klein checked it
        return json_reply(request, error.status, {"message": str(error)})

    @app.handle_errors(NotAvailableError)
    def refuse_model(self, request: IRequest, failure: Failure) -> bytes:
        """Answer 500 for a model that cannot answer, even if the client is at fault."""
        return json_reply(request, 500, {"message": str(failure.value)})

    @app.handle_errors(LoaderPanicError)
    def break_off(self, request: IRequest, failure: Failure) -> "Deferred[bytes]":
        """Break the connection, because the task that should answer has died."""
        abort(cast(Request, request))
        return Deferred()

    @app.handle_errors(HTTPException)
    def refuse_route(self, request: IRequest, failure: Failure) -> bytes:
        """Answer 405 for a wrong method and 404 for an unknown path, without a body."""
        error = failure.value
        if isinstance(error, MethodNotAllowed):
            request.setHeader(b"allow", ",".join(sorted(error.valid_methods or ())).encode())
            return empty_reply(request, 405)
        return empty_reply(request, 404)


def _outcome(request: IRequest, model_id: str, outcome: Outcome) -> bytes:
    answer = {"model_id": model_id, "status": outcome.status}
    if outcome.error is not None:
        answer["error"] = outcome.error
    return json_reply(request, 200, answer)
