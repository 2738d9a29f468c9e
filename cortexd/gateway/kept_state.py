"""State that nodes store for clients: which node has it, and questions about it by id.

One node alone holds each piece of state, in memory: the server's process holds responses and
approvals, and a model's engine holds sessions and files, which an unload deletes. If a request
continues from a response that the node does not have, the node silently drops the conversation; so
we first check that the node's process is still the one that made the response. The response itself
proves nothing: a node continues from a streamed one, and does not show it (nodes.md 6.3).

A node knows nothing of keys, and gives everything to whoever names its id. So each thing belongs to
the key with which it was made, and only requests with this key reach it; for all others its id is
unknown. Clients choose the ids of sessions, and two may choose the same one: at the node, the name
of a session begins with a word of its owner.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime

from cortexd.dialects.nodes.answers import BadAnswer
from cortexd.dialects.nodes.errors import (
    error_words,
    is_page,
    read_error,
    read_other_kind,
)
from cortexd.dialects.routes.kept import (
    FILES,
    Question,
    file_list_body,
    not_found,
    read_file_list,
)
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.dispatcher import Dispatcher
from cortexd.errors import BadGateway, CortexError, NodeTimeout, StateNotFound
from cortexd.fleet.affinity import Kept, Place, Reference, StateKind, Whereabouts
from cortexd.fleet.states import NodeRemoved, NodeRestarted, ReplicaChanged, ReplicaState
from cortexd.gateway.binding import bound_node
from cortexd.scheduling.events import Effect
from cortexd.upstream.client import NodeAnswer, NodeClient

ANSWER_SECONDS: Final = 10.0
"""How long a node may take to answer a question by id: a quick lookup, but a load may delay it."""

CONTENT_SECONDS: Final = 60.0
"""How long a node may take to send a file of at most 64 MiB."""

_WITHOUT_ENGINE = frozenset({None, ReplicaState.UNLOADED, ReplicaState.LOADING})


def name_at_nodes(session: str, owner: str) -> str:
    """Return the name that the session of a key has at nodes; this name is its own name there.

    It is the same after a restart of the gateway, which forgets where sessions are.
    """
    word = f"k{hashlib.blake2b(owner.encode(), digest_size=8).hexdigest()}-"
    return session if session.startswith(word) else word + session


class FileList(NamedTuple):
    """The body that lists files, and the nodes that failed to list theirs."""

    body: bytes
    missing: tuple[str, ...]


class KeptState:
    """Records which node stores each piece of state, and forwards questions about it there."""

    def __init__(
        self, clients: Mapping[str, NodeClient], dispatcher: Dispatcher, clock: IReactorTime
    ) -> None:
        self._known = Whereabouts()
        self._clients = clients
        self._fleet = dispatcher.fleet
        self._clock = clock
        dispatcher.listen(self._follow)

    def _follow(self, effect: Effect) -> None:
        match effect:
            case NodeRestarted(node) | NodeRemoved(node):
                self._known.forget_node(node)
            case ReplicaChanged(node, model, _, after) if after in _WITHOUT_ENGINE:
                self._known.forget_engine(node, model)

    def remember(
        self,
        kept: Iterable[Kept],
        node: str,
        model: str | None,
        said_by: NodeClient | None = None,
        owner: str = "",
    ) -> None:
        """Record that a node stores these from now on, with their ``model`` where it is known.

        ``owner`` is the name of the key whose request made them, empty without a key.

        Ignores the statement of a node whose server stores no state, and of one that has left the
        configuration: ``said_by`` is the client of the node that stated it, where that is known.
        """
        client = self._clients.get(node)
        if client is None or client is not (said_by or client):
            return
        if not client.engine.abilities.keeps_state:
            return
        for each in kept:
            self._known.remember(each, Place(node, model), self._clock.seconds(), owner)

    def session_at_nodes(self, session: str, owner: str, model: str | None = None) -> str:
        """Return the name that an owner's session has at nodes.

        A node has named the session itself if it is known under the name that the client uses.
        """
        if not owner or self._place_of(Kept(StateKind.SESSION, session), owner, model) is not None:
            return session
        return name_at_nodes(session, owner)

    def _place_of(self, kept: Kept, owner: str, model: str | None = None) -> Place | None:
        return self._known.place_of(kept, self._clock.seconds(), model, owner)

    def node_of(self, kept: Kept, owner: str = "") -> str:
        """Return the node that stores ``kept`` for an owner. Raises StateNotFound."""
        place = self._place_of(kept, owner)
        if place is None:
            raise not_found(kept)
        return place.node

    def model_of(self, kept: Kept, owner: str = "") -> str | None:
        """Return the model whose engine stores ``kept``, ``None`` where that is unknown."""
        place = self._place_of(kept, owner)
        return None if place is None else place.model

    def node_for(self, references: Sequence[Reference], model: str, owner: str = "") -> str | None:
        """Return the node that an owner's request for a model must go to; see ``bound_node``."""
        now = self._clock.seconds()
        return bound_node(references, model, self._known, self._fleet, now, owner)

    async def check(
        self, references: Iterable[Reference], node: str, request_id: str, owner: str = ""
    ) -> None:
        """Check that the node has the response that a request continues from, if it names one.

        Only responses need the check: the node itself rejects a request with a missing file, and
        starts an unknown session anew. Raises StateNotFound with the field if the node has
        restarted since it made the response, and the errors of a question to the node.
        """
        for reference in references:
            if reference.kept.kind is StateKind.RESPONSE:
                polled = self._fleet.nodes[node].created
                created = await self._created(node, request_id)
                if polled is not None and created not in (None, polled):
                    self._known.forget(reference.kept, self._clock.seconds(), owner)
                # A poll may have seen the restart while the request waited.
                if self._place_of(reference.kept, owner) is None:
                    raise not_found(reference.kept, reference.param, node=node)

    async def _created(self, node: str, request_id: str) -> int | None:
        """Return when the node's process started, ``None`` if its list of models lacks that."""
        listing = self._clients[node].engine.listing()
        answer = await self._forward(
            node, listing.method, listing.path, request_id, None, ANSWER_SECONDS
        )
        try:
            return listing.answer(answer.status, answer.body).created
        except BadAnswer as error:
            raise BadGateway(f"node {node}: {error}") from None

    async def ask(
        self,
        method: str,
        question: Question,
        node: str,
        request_id: str,
        body: bytes | None = None,
        owner: str = "",
    ) -> NodeAnswer:
        """Return the node's answer to a question about state that it stores; ``body`` is JSON.

        With a key, the list of a container's files has only those that the key is known to own.
        Raises StateNotFound where the node no longer has the state, and the error that
        ``read_error`` returns for any other failure.
        """
        kept = question.kept
        timeout = CONTENT_SECONDS if question.is_of_content else ANSWER_SECONDS
        answer = await self._forward(node, method, question.path, request_id, body, timeout)
        if answer.status in (404, 410):
            # A session route finds only the default model's sessions, so a 404 proves nothing.
            if not question.is_of_part and kept.kind is not StateKind.SESSION:
                self._known.forget(kept, self._clock.seconds(), owner)
            raise _lost(question, node, answer)
        if answer.status != 200:
            raise read_error(answer.status, answer.body)
        if is_page(answer.content_type) and not question.is_of_content:
            raise read_other_kind(answer.content_type, answer.body, "an answer")
        if method == "DELETE":
            self._known.forget(kept, self._clock.seconds(), owner)
        if owner and kept.kind is StateKind.CONTAINER:
            return answer._replace(body=self._own_files(answer.body, node, owner))
        return answer

    def _own_files(self, body: bytes, node: str, owner: str) -> bytes:
        """Return a node's list with an owner's files alone: it has those of all (nodes.md 6.15)."""
        try:
            files = read_file_list(body)
        except BadAnswer as error:
            raise BadGateway(f"node {node}: {error}") from None
        owned = [file for file in files if self._is_at(node, file["id"], owner)]
        return encode({"object": "list", "data": owned})

    async def list_files(self, request_id: str, owner: str = "") -> FileList:
        """Return the files of all nodes that have stored any, as far as we know.

        With a key, these are only the files that the key is known to own. ``missing`` names each
        node that fails to answer. Raises CortexError if every node fails.
        """
        nodes = self._known.nodes_with(StateKind.FILE, self._clock.seconds(), owner)
        asking = [Deferred.fromCoroutine(self._files_of(node, request_id)) for node in nodes]
        found: dict[str, JsonObject] = {}
        missing: dict[str, CortexError] = {}
        try:
            for node, asked in zip(nodes, asking, strict=True):
                files = await asked
                if isinstance(files, CortexError):
                    missing[node] = files
                    continue
                if owner:
                    files = [file for file in files if self._is_at(node, file["id"], owner)]
                else:
                    self._learn_files(node, files)
                found.update((file["id"], file) for file in files)
        finally:
            for asked in asking:
                _give_up(asked)
        if missing and len(missing) == len(nodes):
            raise next(iter(missing.values()))
        return FileList(file_list_body(found.values()), tuple(missing))

    async def _files_of(self, node: str, request_id: str) -> list[JsonObject] | CortexError:
        """Return a node's files, or the error if it fails to list them."""
        try:
            answer = await self._forward(node, "GET", FILES, request_id, None, ANSWER_SECONDS)
            if answer.status != 200:
                return read_error(answer.status, answer.body)
            return read_file_list(answer.body)
        except CortexError as error:
            return error
        except BadAnswer as error:
            return BadGateway(f"node {node}: {error}")

    def _is_at(self, node: str, file: str, owner: str) -> bool:
        place = self._place_of(Kept(StateKind.FILE, file), owner)
        return place is not None and place.node == node

    def _learn_files(self, node: str, files: Iterable[JsonObject]) -> None:
        """Record files that bypassed cortexd; their models are unknown."""
        now = self._clock.seconds()
        for file in files:
            kept = Kept(StateKind.FILE, file["id"])
            if self._known.place_of(kept, now) is None:
                self._known.remember(kept, Place(node), now)

    async def _forward(
        self,
        node: str,
        method: str,
        path: str,
        request_id: str,
        body: bytes | None,
        timeout: float,
    ) -> NodeAnswer:
        headers = {"X-Request-ID": request_id}
        try:
            return await self._clients[node].forward(method, path, headers, timeout, body)
        except (BadGateway, NodeTimeout) as error:
            raise type(error)(f"node {node}: {error.message}") from None


def _give_up(asking: Deferred[Any]) -> None:
    """Cancel a question whose requester has left."""
    asking.addErrback(lambda failure: failure.trap(CancelledError))
    asking.cancel()


def _lost(question: Question, node: str, answer: NodeAnswer) -> StateNotFound:
    error = not_found(question.kept, node=node)
    if question.is_of_part or answer.status == 410:
        words = error_words(answer.body) or "not found"
        return StateNotFound(f"node {node}: {words}", code=error.code)
    return error
