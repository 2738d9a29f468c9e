"""State that nodes keep for clients: which node has it, and questions about it by id.

All state is in the memory of one node: responses and approvals in that of the server's process,
sessions and files with a model, which takes them with it when it goes. A node that shall go on from
a response that it does not have forgets the conversation without a word; so we first ask whether it
has the response.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime

from cortexd.dialects.nodes.answers import BadAnswer
from cortexd.dialects.nodes.errors import error_words, read_error
from cortexd.dialects.routes.kept import (
    FILES,
    Question,
    file_list_body,
    not_found,
    question_about,
    read_file_list,
)
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dispatcher import Dispatcher
from cortexd.errors import BadGateway, CortexError, NodeTimeout, StateNotFound
from cortexd.fleet.affinity import Kept, Place, Reference, StateKind, Whereabouts
from cortexd.fleet.states import NodeRestarted, ReplicaChanged, ReplicaState
from cortexd.gateway.binding import bound_node
from cortexd.scheduling.events import Effect
from cortexd.upstream.client import NodeAnswer, NodeClient

ANSWER_SECONDS: Final = 10.0
"""How long a node may take for a question by id, which is no work, but may meet a load."""

CONTENT_SECONDS: Final = 60.0
"""How long a node may take to send a file, which has at most 64 MiB."""

_WITHOUT_ENGINE = frozenset({None, ReplicaState.UNLOADED, ReplicaState.LOADING})


class FileList(NamedTuple):
    """The body that lists files, and the nodes that could not be asked for theirs."""

    body: bytes
    missing: tuple[str, ...]


class KeptState:
    """Knows which node keeps each thing, and forwards questions about it to that node."""

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
            case NodeRestarted(node):
                self._known.forget_node(node)
            case ReplicaChanged(node, model, _, after) if after in _WITHOUT_ENGINE:
                self._known.forget_engine(node, model)

    def remember(self, kept: Iterable[Kept], node: str, model: str | None) -> None:
        """Note that a node keeps these from now on, with ``model`` where that is known.

        A node whose server keeps no state is believed nothing.
        """
        if not self._clients[node].engine.abilities.keeps_state:
            return
        for each in kept:
            self._known.remember(each, Place(node, model), self._clock.seconds())

    def node_of(self, kept: Kept) -> str:
        """Return the node that keeps something. Raises StateNotFound."""
        place = self._known.place_of(kept, self._clock.seconds())
        if place is None:
            raise not_found(kept)
        return place.node

    def model_of(self, kept: Kept) -> str | None:
        """Return the model whose engine keeps something, ``None`` where that is unknown."""
        place = self._known.place_of(kept, self._clock.seconds())
        return None if place is None else place.model

    def node_for(self, references: Sequence[Reference], model: str) -> str | None:
        """Return the node that a request for a model must go to; see ``bound_node``."""
        return bound_node(references, model, self._known, self._fleet, self._clock.seconds())

    async def check(self, references: Iterable[Reference], node: str, request_id: str) -> None:
        """Check that the node has the response that a request goes on from, if it names one.

        Only responses need the check: the node itself rejects a request with a file that it does
        not have, and begins an unknown session anew. Raises StateNotFound with the field, and the
        errors of ``ask``.
        """
        for reference in references:
            if reference.kept.kind is StateKind.RESPONSE:
                asked = question_about({"response": reference.kept.id})
                try:
                    await self.ask("GET", asked, node, request_id)
                except StateNotFound:
                    raise not_found(reference.kept, reference.param, node=node) from None

    async def ask(
        self,
        method: str,
        question: Question,
        node: str,
        request_id: str,
        body: bytes | None = None,
    ) -> NodeAnswer:
        """Return the node's answer about something that it keeps; ``body`` is JSON.

        Raises StateNotFound where the node no longer has it, and the error that ``read_error``
        makes of any other one.
        """
        kept = question.kept
        timeout = CONTENT_SECONDS if question.is_of_content else ANSWER_SECONDS
        answer = await self._forward(node, method, question.path, request_id, body, timeout)
        if answer.status in (404, 410):
            # A node's route for sessions knows those of its default model alone.
            if not question.is_of_part and kept.kind is not StateKind.SESSION:
                self._known.forget(kept, self._clock.seconds())
            raise _lost(question, node, answer)
        if answer.status != 200:
            raise read_error(answer.status, answer.body)
        if method == "DELETE":
            self._known.forget(kept, self._clock.seconds())
        return answer

    async def list_files(self, request_id: str) -> FileList:
        """Return the files of all nodes that are known to have any.

        A node that does not answer is named as missing. Raises CortexError where none answers.
        """
        nodes = self._known.nodes_with(StateKind.FILE, self._clock.seconds())
        asking = [Deferred.fromCoroutine(self._files_of(node, request_id)) for node in nodes]
        found: dict[str, JsonObject] = {}
        missing: dict[str, CortexError] = {}
        try:
            for node, asked in zip(nodes, asking, strict=True):
                files = await asked
                if isinstance(files, CortexError):
                    missing[node] = files
                    continue
                self._learn_files(node, files)
                found.update((file["id"], file) for file in files)
        finally:
            for asked in asking:
                _give_up(asked)
        if missing and len(missing) == len(nodes):
            raise next(iter(missing.values()))
        return FileList(file_list_body(found.values()), tuple(missing))

    async def _files_of(self, node: str, request_id: str) -> list[JsonObject] | CortexError:
        """Return a node's files, or the error in place of its answer."""
        try:
            answer = await self._forward(node, "GET", FILES, request_id, None, ANSWER_SECONDS)
            if answer.status != 200:
                return read_error(answer.status, answer.body)
            return read_file_list(answer.body)
        except CortexError as error:
            return error
        except BadAnswer as error:
            return BadGateway(f"node {node}: {error}")

    def _learn_files(self, node: str, files: Iterable[JsonObject]) -> None:
        """Remember files that did not come through us, and whose engines are unknown."""
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
    """End a question whose requester has left."""
    asking.addErrback(lambda failure: failure.trap(CancelledError))
    asking.cancel()


def _lost(question: Question, node: str, answer: NodeAnswer) -> StateNotFound:
    error = not_found(question.kept, node=node)
    if question.is_of_part or answer.status == 410:
        words = error_words(answer.body) or "not found"
        return StateNotFound(f"node {node}: {words}", code=error.code)
    return error
