"""The HTTP routes: each route's dialect, and the part of the gateway that answers it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, cast

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.exceptions import MethodNotAllowed as WrongMethod

from cortexd.access.callers import Caller
from cortexd.access.keys import Scope
from cortexd.bulk.frames import Parcel
from cortexd.bulk.jobs import Reading
from cortexd.dialects.messages_to_chat import tokens
from cortexd.dialects.routes import (
    chat,
    completions,
    embeddings,
    images,
    kept,
    messages,
    models_list,
    responses,
    speech,
    uploads,
)
from cortexd.dialects.wire.exchange import JSON
from cortexd.dialects.wire.json_values import encode
from cortexd.dialects.wire.profile import Profile
from cortexd.dialects.wire.scan import is_light
from cortexd.downstream.request import GatewayRequest
from cortexd.downstream.response import Downstream
from cortexd.errors import (
    BadRequest,
    CortexError,
    Forbidden,
    MethodNotAllowed,
    UnknownRoute,
)
from cortexd.fleet.catalogue import DEFAULT, Catalogue
from cortexd.fleet.fleet import Fleet
from cortexd.gateway.answers import Answers
from cortexd.gateway.asked import (
    asked_of,
    body_of,
    headers_of_the_dialect,
    method_of,
    model_in_query,
    query_of,
    session_of,
    wait_of,
)
from cortexd.gateway.control import MODELS_AT_ONCE, GatewayControl
from cortexd.gateway.exchanges import Exchanges
from cortexd.gateway.kept_state import KeptState
from cortexd.gateway.large import LargeRequests
from cortexd.gateway.profiles import Profiles
from cortexd.gateway.relay import Relay
from cortexd.gateway.responses.conversations import Conversations
from cortexd.gateway.scopes import CONTROL, INFER, LIST, PUBLIC, READ, Routes
from cortexd.gateway.token_counts import TokenCounts
from cortexd.gateway.waits.routes import WaitRoutes
from cortexd.headers import header_text
from cortexd.slices import in_slices
from cortexd.telemetry.accounting import RequestRecord
from cortexd.upstream.first_polls import FirstPolls

TEXT = "text/plain; charset=utf-8"
UNLOAD_HEADER = "Sec-Cortex-Control"

_CHAT: Final = Reading(chat.read_request)
_COMPLETION: Final = Reading(completions.read_request)
_EMBEDDING: Final = Reading(embeddings.read_request)
_IMAGE: Final = Reading(images.read_request)
_SPEECH: Final = Reading(speech.read_request)


class Gateway:
    """Serves clients from the models of a fleet. ``started_at`` is in unix seconds.

    ``status_as_object`` is the form of a model's status in the list of models.
    """

    app = Routes()

    def __init__(
        self,
        fleet: Fleet,
        catalogue: Catalogue,
        profiles: Profiles,
        relay: Relay,
        kept: KeptState,
        token_counts: TokenCounts,
        answers: Answers,
        control: GatewayControl,
        exchanges: Exchanges,
        large: LargeRequests,
        conversations: Conversations,
        first_polls: FirstPolls,
        waits: WaitRoutes,
        clock: IReactorTime,
        started_at: int,
        *,
        status_as_object: bool = False,
    ) -> None:
        self._fleet = fleet
        self._catalogue = catalogue
        self._profiles = profiles
        self._relay = relay
        self._kept = kept
        self._token_counts = token_counts
        self._answers = answers
        self._control = control
        self._exchanges = exchanges
        self._large = large
        self._conversations = conversations
        self._first_polls = first_polls
        self._waits = waits
        self._clock = clock
        self._started_at = started_at
        self._listed = models_list.ListedModels(started_at, status_as_object=status_as_object)

    def reconfigure(self, *, status_as_object: bool) -> None:
        """Let a model's status have another form from now on."""
        self._listed = models_list.ListedModels(self._started_at, status_as_object=status_as_object)

    @classmethod
    def scopes_at(cls, method: str, path: str) -> frozenset[Scope]:
        """Return the scopes of the route at a path, those of a public one where there is none."""
        return cast("Routes", cls.app).scopes_at(method, path)

    def resource(self) -> IResource:
        """Return the root resource."""
        return cast("IResource", self.app.resource())

    async def admit(self, request: GatewayRequest) -> None:
        """Await the proof of a key that comes for the first time, if the request has one.

        Raises GatewayBusy where too many keys wait.
        """
        await self._answers.admit(request)

    # Routes of the OpenAI dialect.

    @app.route("/v1/chat/completions", INFER, methods=["POST"])
    async def chat_completions(self, request: GatewayRequest) -> None:
        """Answer a chat."""
        await self._serve(request, chat.ROUTE, _CHAT)

    @app.route("/v1/completions", INFER, methods=["POST"])
    async def completions(self, request: GatewayRequest) -> None:
        """Complete a text."""
        await self._serve(request, completions.ROUTE, _COMPLETION)

    @app.route("/v1/embeddings", INFER, methods=["POST"])
    async def embeddings(self, request: GatewayRequest) -> None:
        """Embed texts."""
        await self._serve(request, embeddings.ROUTE, _EMBEDDING)

    @app.route("/v1/images/generations", INFER, methods=["POST"])
    async def images(self, request: GatewayRequest) -> None:
        """Make images."""
        await self._serve(request, images.ROUTE, _IMAGE)

    @app.route("/v1/audio/speech", INFER, methods=["POST"])
    async def speech(self, request: GatewayRequest) -> None:
        """Speak a text."""
        await self._serve(request, speech.ROUTE, _SPEECH)

    @app.route("/v1/responses", INFER, methods=["POST"])
    async def responses(self, request: GatewayRequest) -> None:
        """Answer a request for a response, and store the response."""

        async def create(record: RequestRecord, downstream: Downstream) -> None:
            record.wait, record.session = wait_of(request), session_of(request)
            await self._conversations.create(request, Parcel(body_of(request)), record, downstream)

        await self._answers.later(request, responses.ROUTE, create)

    @app.route("/v1/responses/input_tokens", INFER, methods=["POST"])
    async def count_input_tokens(self, request: GatewayRequest) -> None:
        """Estimate the tokens of a request for a response; never loads a model."""

        async def count(record: RequestRecord, downstream: Downstream) -> None:
            body = await self._conversations.count(Parcel(body_of(request)), record)
            downstream.respond(JSON, dict([tokens.COUNT_HEADER]), body)
            record.bytes_out = downstream.bytes_out

        await self._answers.later(request, responses.COUNT_ROUTE, count)

    @app.route("/v1/responses/<response>", INFER, methods=["GET", "DELETE"])
    @app.route("/v1/responses/<response>/<any(input_items):action>", INFER, methods=["GET"])
    @app.route("/v1/responses/<response>/<any(cancel):action>", INFER, methods=["POST"])
    async def ask_response(self, request: GatewayRequest, response: str, action: str = "") -> None:
        """Answer a question about a response of ours, or forward it to the node that has it."""
        question = kept.question_about({"response": response}, action)

        async def ask(record: RequestRecord, downstream: Downstream) -> None:
            is_ours = await self._conversations.answer(
                method_of(request), response, action, query_of(request), downstream, record
            )
            if is_ours:
                record.bytes_out = downstream.bytes_out
            else:
                await self._forward(question, request, record, downstream)

        await self._answers.later(request, question.route, ask)

    # Routes of the state that nodes keep for clients.

    @app.route("/v1/sessions/<session>", INFER, methods=["GET", "DELETE"])
    @app.route("/v1/files/<file>", INFER, methods=["GET", "DELETE"])
    @app.route("/v1/files/<file>/<any(content):action>", INFER, methods=["GET"])
    @app.route("/v1/containers/<container>/<any(files):action>", INFER, methods=["GET"])
    @app.route("/v1/containers/<container>/files/<file>", INFER, methods=["GET"])
    @app.route(
        "/v1/containers/<container>/files/<file>/<any(content):action>", INFER, methods=["GET"]
    )
    @app.route("/v1/agent/approvals/<approval>", INFER, methods=["POST"])
    async def ask_keeper(self, request: GatewayRequest, action: str = "", **ids: str) -> None:
        """Forward a question about stored state to its node, and pass the answer on."""
        question = kept.question_about(self._at_nodes(request, ids), action)

        forward = partial(self._forward, question, request)
        await self._answers.later(request, question.route, forward)

    def _at_nodes(self, request: GatewayRequest, ids: dict[str, str]) -> dict[str, str]:
        """Return the ids in a path as nodes know them."""
        if "session" in ids:
            name = self._kept.session_at_nodes(ids["session"], request.caller.name)
            ids = {**ids, "session": name}
        return ids

    async def _forward(
        self,
        question: kept.Question,
        request: GatewayRequest,
        record: RequestRecord,
        downstream: Downstream,
    ) -> None:
        keeper, body, owner = self._kept, body_of(request) or None, record.caller.name
        record.node = node = keeper.node_of(question.kept, owner)
        answer = await self._answers.ask(
            keeper.ask(method_of(request), question, node, request.request_id, body, owner)
        )
        headers = {"X-Cortex-Node": node, **answer.disposition}
        downstream.respond(answer.content_type or TEXT, headers, answer.body)
        record.bytes_out = downstream.bytes_out

    @app.route("/v1/sessions/<session>", INFER, methods=["PUT"])
    async def import_session(self, request: GatewayRequest, session: str) -> None:
        """Import a session: for the model of the one it replaces, else for the query's model."""
        question = kept.question_about(self._at_nodes(request, {"session": session}))
        model = self._kept.model_of(question.kept, request.caller.name) or model_in_query(request)
        reading = Reading(partial(uploads.read_import, question=question, model=model))
        await self._serve(request, question.route, reading, self._keeping_model)

    @app.route("/v1/files", INFER, methods=["GET"])
    async def list_files(self, request: GatewayRequest) -> None:
        """List the files of all nodes that have stored any, as far as we know."""

        async def ask(record: RequestRecord, downstream: Downstream) -> None:
            found = await self._answers.ask(
                self._kept.list_files(request.request_id, record.caller.name)
            )
            headers = {"X-Cortex-Missing": ", ".join(found.missing)} if found.missing else {}
            downstream.respond(JSON, headers, found.body)
            record.bytes_out = downstream.bytes_out

        await self._answers.later(request, kept.FILES, ask)

    @app.route("/v1/files", INFER, methods=["POST"])
    async def upload_file(self, request: GatewayRequest) -> None:
        """Upload a file to a node with the query's model, else to any node that stores files."""
        read_upload = partial(
            uploads.read_upload,
            content_type=header_text(request.requestHeaders, "content-type") or "",
            model=model_in_query(request),
        )
        reading = Reading(read_upload, is_json=False)
        await self._serve(request, kept.FILES, reading, self._keeping_model)

    # Routes of the Anthropic dialect.

    @app.route("/v1/messages", INFER, methods=["POST"])
    async def messages(self, request: GatewayRequest) -> None:
        """Answer a Messages request; most nodes receive it as a chat completion."""
        read_request = partial(messages.read_request, headers=headers_of_the_dialect(request))
        reading = Reading(read_request, self._token_counts.sizes)
        await self._serve(request, messages.ROUTE, reading)

    @app.route("/v1/messages/count_tokens", INFER, methods=["POST"])
    async def count_tokens(self, request: GatewayRequest) -> None:
        """Count the tokens of a Messages request, or estimate them; never loads a model."""

        async def count(record: RequestRecord, downstream: Downstream) -> None:
            body, headers = await self._answers.ask(
                self._token_counts.count(
                    Parcel(body_of(request)), headers_of_the_dialect(request), record
                )
            )
            downstream.respond(JSON, headers, body)
            record.bytes_out = downstream.bytes_out

        await self._answers.later(request, tokens.COUNT_ROUTE, count)

    # Lists of models, in both dialects.

    @app.route("/v1/models", LIST, methods=["GET"])
    async def list_models(self, request: GatewayRequest) -> None:
        """List the catalogue; never loads a model."""
        await self._first_polls.known()
        catalogue, is_there = self._catalogue, self._catalogue.sight(request.caller)
        models = (
            self._listed.make(catalogue.entry_of(model), self._profile(model))
            if is_there(model)
            else None
            for model in catalogue.ids
        )
        body = self._listed.body(
            await in_slices(models, self._clock, MODELS_AT_ONCE),
            for_claude=request.has_anthropic_version,
        )
        self._answers.at_once(request, "/v1/models", body)

    @app.route("/v1/models/<model_id:name>", LIST, methods=["GET"])
    async def show_model(self, request: GatewayRequest, name: str) -> None:
        """Show one model by any of its names; never loads it."""
        await self._first_polls.known()
        entry = self._catalogue.entry(name, request.caller)
        body = self._listed.make(entry, self._profile(entry.id)).object
        self._answers.at_once(request, "/v1/models/{id}", body)

    # Waits for models.

    @app.route("/api/models/<model_id:name>/load-status", LIST, methods=["GET"])
    async def load_status(self, request: GatewayRequest, name: str) -> None:
        """Say how soon a model can take a request, by any of its names; never loads it."""
        await self._waits.show(request, name)

    @app.route("/api/events", LIST, methods=["GET"])
    async def events(self, request: GatewayRequest) -> None:
        """Send the events of loads and of waiting requests, until the client leaves."""
        await self._waits.follow(request)

    # Health.

    @app.route("/", PUBLIC, methods=["GET"])
    def greet(self, request: GatewayRequest) -> None:
        """Answer a client that only checks for a server (Claude Code: HEAD /)."""
        self._answers.at_once(request, "/", b"cortexd\n", content_type=TEXT)

    @app.route("/health", PUBLIC, methods=["GET"])
    def health(self, request: GatewayRequest) -> None:
        """Answer as long as the process lives."""
        self._answers.at_once(request, "/health", b"OK", content_type=TEXT)

    @app.route("/ready", PUBLIC, methods=["GET"])
    async def ready(self, request: GatewayRequest) -> None:
        """Answer 200 once the gateway can serve requests, else 503 with the reason.

        Whoever may not read the fleet's state does not learn which nodes there are.
        """
        reason = "stopping" if self._answers.is_stopping else self._fleet.not_ready_reason()
        if reason is not None:
            await self.admit(request)
            if not request.caller.may(Scope.READ):
                reason = reason.partition(":")[0]
        body = {"status": "ready"} if reason is None else {"status": "not ready", "reason": reason}
        self._answers.at_once(request, "/ready", encode(body), status=503 if reason else 200)

    # The models in memory, in the formats of llama-swap and Ollama, and their unloading.

    @app.route("/running", READ, methods=["GET"])
    async def running(self, request: GatewayRequest) -> None:
        """List the models in the nodes' memory."""
        await self._first_polls.known()
        self._answers.at_once(request, "/running", await self._control.running(request.caller))

    @app.route("/api/ps", READ, methods=["GET"])
    async def ps(self, request: GatewayRequest) -> None:
        """List the models that are loaded."""
        await self._first_polls.known()
        self._answers.at_once(request, "/api/ps", await self._control.ps(request.caller))

    @app.route("/unload", CONTROL, methods=["GET"])
    async def get_unload(self, request: GatewayRequest) -> None:
        """Unload all models, for a client that is no page in a browser.

        A GET must change nothing, because every page can cause one, by an image for example. But
        llama-swap has this route, so it works with a header that no page can send: browsers reserve
        all names that begin with Sec- (Fetch 2.2.2). Klein routes a HEAD as a GET.
        """
        if request.method == b"HEAD":
            raise MethodNotAllowed(f"{asked_of(request)} is not allowed; use POST", allow=("POST",))
        self._control.check_allowed()
        if header_text(request.requestHeaders, UNLOAD_HEADER) != "unload":
            raise Forbidden(
                f"GET /unload needs the header '{UNLOAD_HEADER}: unload', which no web page can "
                "send; or use POST /api/models/unload"
            )
        await self._first_polls.known()
        client, caller = request.client_host, request.caller
        body = self._control.unload_all(caller, client, request.request_id)
        self._answers.at_once(request, "/unload", body)

    @app.route("/api/models/unload", CONTROL, methods=["POST"])
    async def unload_all(self, request: GatewayRequest) -> None:
        """Unload all models."""
        await self._first_polls.known()
        client, caller = request.client_host, request.caller
        body = self._control.unload_all(caller, client, request.request_id)
        self._answers.at_once(request, "/api/models/unload", body)

    @app.route("/api/models/unload/<model_id:name>", CONTROL, methods=["POST"])
    async def unload(self, request: GatewayRequest, name: str) -> None:
        """Unload one model, by any of its names."""
        self._control.check_allowed()
        await self._first_polls.known()
        client, caller = request.client_host, request.caller
        model = self._catalogue.find(name, caller)
        body = self._control.unload(model, caller, client, request.request_id)
        self._answers.at_once(request, "/api/models/unload/{id}", body)

    # Shared by routes.

    async def _serve(
        self,
        request: GatewayRequest,
        route: str,
        reading: Reading,
        resolve: Callable[[str, Caller], str] | None = None,
    ) -> None:
        """Answer a request from a node; ``resolve`` returns the model that a name means."""

        async def relay(record: RequestRecord, downstream: Downstream) -> None:
            record.wait, record.session = wait_of(request), session_of(request)
            body = body_of(request)
            if not reading.is_json or is_light(body):
                parsed = reading.read(body)
                del body  # the answer may take minutes
                exchange = await self._exchanges.make(parsed, record, resolve)
                del parsed
            else:
                parcel = Parcel(body)
                del body
                exchange = await self._large.exchange(reading, parcel, record, resolve)
            await self._relay.serve(exchange, downstream, record)
            self._token_counts.learn(exchange.model, exchange.prompt, record.usage)

        await self._answers.later(request, route, relay)

    def _profile(self, model: str) -> Profile:
        return self._profiles.of_model(model)[0]

    def _keeping_model(self, name: str, caller: Caller) -> str:
        """Return a name's model; for ``default`` a model on a node that stores state."""
        if name != DEFAULT:
            return self._catalogue.resolve(name, caller)
        return self._catalogue.default(
            lambda each: self._profiles.of(each.node.name, each.model).keeps_state, caller
        )

    @app.handle_errors(NotFound)
    def no_route(self, request: IRequest, failure: Failure) -> None:
        """Report that there is no route at the path."""
        self._refuse(request, UnknownRoute(f"there is no route {asked_of(request)}"))

    @app.handle_errors(WrongMethod)
    def wrong_method(self, request: IRequest, failure: Failure) -> None:
        """Report the methods that the path accepts."""
        allowed = tuple(sorted(getattr(failure.value, "valid_methods", None) or ()))
        words = f"{asked_of(request)} is not allowed; the path accepts {' or '.join(allowed)}"
        self._refuse(request, MethodNotAllowed(words, allow=allowed))

    @app.handle_errors(HTTPException)
    def bad_request(self, request: IRequest, failure: Failure) -> None:
        """Report a path that the router cannot parse."""
        self._refuse(request, BadRequest("the path cannot be read"))

    @app.handle_errors(CortexError)
    def refused(self, request: IRequest, failure: Failure) -> None:
        """Report the error of a route that refuses a request at once."""
        self._refuse(request, cast("CortexError", failure.value))

    def _refuse(self, request: IRequest, error: CortexError) -> None:
        self._answers.refuse(cast("GatewayRequest", request), error)
