"""Finds out what the chat template of each loaded model can do, in moments when its node is idle.

A probe is some twenty questions of one token (``cortexd.dialects.probing``). Each question takes a
lease of its own that only an idle node gives, so that the probe gives way to every request between
two questions, loads nothing, and ends nothing. What it found is in the store, and serves until the
node runs another build.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater

from cortexd.dialects.nodes.errors import read_error
from cortexd.dialects.probing.conversations import PATH
from cortexd.dialects.probing.learned import Learned
from cortexd.dialects.probing.probe import Probe
from cortexd.dialects.wire.json_values import NOT_JSON, decode, encode
from cortexd.dispatcher import Dispatcher
from cortexd.engines.engine import Dialect
from cortexd.errors import CortexError, OperationRefused
from cortexd.fleet.nodes import Node, Replica, ReplicaKey
from cortexd.fleet.states import NodeAdded, NodeRemoved
from cortexd.logs import get_logger
from cortexd.scheduling.events import Effect
from cortexd.store.journal import KnownAbilities
from cortexd.store.recorder import Recorder
from cortexd.upstream.client import NodeClient

LOOK_SECONDS: Final = 2.0
"""Seconds between two looks for a replica to probe."""

NODES_AT_ONCE: Final = 50
"""How many nodes one turn of the reactor looks at: their ten models each take a millisecond."""

QUESTION_SECONDS: Final = 60.0
"""How long an answer of one token may take: a slow CPU reads a long prompt in this time."""

RETRY_SECONDS: Final = (60.0, 600.0, 3600.0)
"""The delays after failed probes of a replica; after the last one it is left alone."""

NO_ANSWER: Final = 0
"""The status that stands for an answer which did not come."""

log = get_logger("cortexd.prober")


@dataclass(frozen=True, slots=True, eq=False)
class _Course:
    """A probe under way, of a replica whose node runs a ``build``."""

    probe: Probe
    build: str


class _Failure(NamedTuple):
    """The failed probes of a replica so far, and when the next may begin."""

    tries: int
    retry_at: float
    reason: str


class _Found(NamedTuple):
    build: str
    learned: Learned


class AbilitiesState(NamedTuple):
    """What is known of a replica's abilities: ``words`` by ability, empty if nothing is.

    ``state`` is "known", "wanted" if a probe is under way or to come by an operator's order,
    "failed" or "unknown"; ``reason`` says why a probe failed.
    """

    node: str
    state: str
    words: Mapping[str, str]
    reason: str = ""


class Prober(Service):
    """Probes replicas, one at a time, and passes on what it found to ``learn``.

    ``learn`` gets the names of a node and a model, and its abilities or ``None`` to forget them.
    Unless ``is_automatic``, only an operator's order begins a probe.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        clients: Mapping[str, NodeClient],
        recorder: Recorder,
        learn: Callable[[str, str, Learned | None], None],
        clock: IReactorTime,
        *,
        is_automatic: bool,
    ) -> None:
        self._dispatcher = dispatcher
        self._scheduler = dispatcher.scheduler
        self._clients = clients
        self._recorder = recorder
        self._learn = learn
        self._clock = clock
        self._is_automatic = is_automatic
        self._found: dict[ReplicaKey, _Found] = {}
        self._courses: dict[ReplicaKey, _Course] = {}
        self._failures: dict[ReplicaKey, _Failure] = {}
        self._wanted: dict[ReplicaKey, None] = {}
        self._numbers = 0
        self._round: Deferred[None] | None = None
        self._loop = LoopingCall(self.look)
        self._loop.clock = clock
        dispatcher.listen(self._follow)

    def _follow(self, effect: Effect) -> None:
        """Forget what is known of a node that leaves the configuration, and probe one anew."""
        match effect:
            case NodeRemoved(node):
                for states in (self._found, self._courses, self._failures, self._wanted):
                    for key in [key for key in states if key[0] == node]:
                        del states[key]
                        if states is self._found:
                            self._learn(*key, None)
            case NodeAdded(node):
                for key, known in self._recorder.abilities().items():
                    if key[0] == node:
                        self._restore(key, known)

    def reconfigure(self, *, is_automatic: bool) -> None:
        """Begin probes without an order from now on, or only by order."""
        self._is_automatic = is_automatic

    def startService(self) -> None:
        """Pass on the stored abilities, and begin to look for replicas to probe."""
        super().startService()
        for key, known in self._recorder.abilities().items():
            if key[0] in self._clients:
                self._restore(key, known)
        self._loop.start(LOOK_SECONDS, now=False).addErrback(self._loop_ended)

    def stopService(self) -> None:
        """Stop, and cancel the question under way."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        if self._round is not None:
            self._round.cancel()

    def _loop_ended(self, failure: object) -> None:
        log.error("probing_stopped", failure=failure)

    # What an operator orders and sees.

    def want(self, model: str, node: str | None = None) -> list[str]:
        """Order a probe of a model where it is loaded, and return the names of those nodes.

        Raises OperationRefused if it is loaded nowhere, or on no node that can be probed.
        """
        replicas = [
            each
            for each in self._scheduler.fleet.replicas(model)
            if each.answers and node in (None, each.node.name)
        ]
        if not replicas:
            where = f"node {node}" if node is not None else "any node"
            raise OperationRefused(
                f"model {model!r} is not loaded on {where}, and a probe loads nothing; "
                "load it first, with 'cortexctl load'"
            )
        if any(each.base is not None for each in replicas):
            raise OperationRefused(
                f"{model!r} is an adapter; it has the abilities of its base {replicas[0].base!r}"
            )
        keys = [each.key for each in replicas if self._speaks_chat(each.node)]
        if not keys:
            raise OperationRefused(f"the nodes of model {model!r} take no chats, so no probe")
        for key in keys:
            self._courses.pop(key, None)
            self._failures.pop(key, None)
            self._wanted[key] = None
        return [name for name, _ in keys]

    def states(self, model: str) -> list[AbilitiesState]:
        """Return what is known of a model's abilities on each of its nodes."""
        return [self._state(replica) for replica in self._scheduler.fleet.replicas(model)]

    def _state(self, replica: Replica) -> AbilitiesState:
        key = replica.key if replica.base is None else (replica.node.name, replica.base)
        found, failure = self._found.get(key), self._failures.get(key)
        words = found.learned.words() if found is not None else {}
        if key in self._wanted:
            return AbilitiesState(key[0], "wanted", words)
        if failure is not None:
            return AbilitiesState(key[0], "failed", words, failure.reason)
        return AbilitiesState(key[0], "known" if found is not None else "unknown", words)

    # Probing.

    def look(self) -> Deferred[None]:
        """Probe what is due and idle; the Deferred fires once nothing is."""
        self._round = Deferred.fromCoroutine(self._look())
        return self._round

    async def _look(self) -> None:
        """Never raises, because a failure would end the loop."""
        try:
            self._drop_lost()
            for replica in [*self._ordered()]:
                await self._probe(replica)
            nodes = list(self._scheduler.fleet.nodes.values())
            for start in range(0, len(nodes), NODES_AT_ONCE):
                if start:
                    await deferLater(self._clock, 0)
                for replica in [*self._due(nodes[start : start + NODES_AT_ONCE])]:
                    await self._probe(replica)
        except CancelledError:
            return
        except Exception:
            log.exception("probe_crashed")

    def _drop_lost(self) -> None:
        """End the ordered probes of models that nobody can ask any more."""
        for key in list(self._wanted):
            replica = self._scheduler.fleet.replica(*key)
            if replica is None or not replica.answers:
                del self._wanted[key]
                self._note_failure(key, "the model is loaded no more, or its node takes no work")

    def _ordered(self) -> Iterator[Replica]:
        """Yield the replicas that an operator wants to be probed, and that can be."""
        for key in list(self._wanted):
            replica = self._scheduler.fleet.replica(*key)
            if replica is None or replica.base is not None:
                continue
            if self._build(replica.node) is not None and self._scheduler.is_idle(replica):
                yield replica

    def _due(self, nodes: Sequence[Node]) -> Iterator[Replica]:
        """Yield the other replicas to probe. Forgets what is known of old builds."""
        for node in nodes:
            build = self._build(node)
            if build is None:
                continue
            for replica in node.replicas.values():
                self._forget_other_builds(replica.key, build)
                if not self._is_automatic or replica.base is not None:
                    continue
                if self._is_unknown(replica.key) and self._scheduler.is_idle(replica):
                    yield replica

    def _is_unknown(self, key: ReplicaKey) -> bool:
        failure = self._failures.get(key)
        if failure is None:
            return key not in self._found
        return failure.tries <= len(RETRY_SECONDS) and self._clock.seconds() >= failure.retry_at

    def _speaks_chat(self, node: Node) -> bool:
        return Dialect.CHAT in self._clients[node.name].engine.abilities.dialects

    def _build(self, node: Node) -> str | None:
        """Return the build that a node runs, ``None`` if it is unknown yet or takes no chats."""
        tells_version = self._clients[node.name].engine.abilities.tells_memory
        version = node.system.version if node.system is not None else None
        if node.last_answer_at is None or (tells_version and not version):
            return None
        if not self._speaks_chat(node):
            return None
        return f"{version or 'unknown'} started {node.created or 'at an unknown time'}"

    def _forget_other_builds(self, key: ReplicaKey, build: str) -> None:
        found, course = self._found.get(key), self._courses.get(key)
        if found is not None and found.build != build:
            del self._found[key]
            self._failures.pop(key, None)
            self._recorder.put_abilities(*key, None)
            self._learn(*key, None)
            log.info("abilities_forgotten", node=key[0], model=key[1], build=build)
        if course is not None and course.build != build:
            del self._courses[key]

    async def _probe(self, replica: Replica) -> None:
        """Ask a replica the questions of its probe, as long as its node is idle."""
        name, model = key = replica.key
        build = self._build(replica.node)
        if build is None:
            return
        course = self._courses.setdefault(key, _Course(Probe(model), build))
        probe = course.probe
        client = self._clients[name]
        while probe.question is not None:
            self._numbers += 1
            request_id = f"probe-{self._numbers}"
            try:
                grant = await self._dispatcher.borrow(model, name, request_id)
            except CortexError:
                return  # the node has other work; the next look goes on from here
            try:
                trouble = await self._ask(client, probe, request_id)
            finally:
                self._dispatcher.release(grant.lease)
            if self._courses.get(key) is not course:
                return  # an operator has ordered another probe, or the node has left
            if trouble is not None:
                self._end(key, course, trouble)
                return
        failed = f"{probe.failures} of its questions failed" if probe.failures else None
        self._end(key, course, failed)

    async def _ask(self, client: NodeClient, probe: Probe, request_id: str) -> str | None:
        """Ask one question; return why the probe should not go on, or ``None``."""
        try:
            headers = {"X-Request-ID": request_id}
            answer = await client.forward("POST", PATH, headers, QUESTION_SECONDS, probe.question)
        except CortexError as error:
            probe.answer(NO_ANSWER, b"")
            return error.message
        probe.answer(answer.status, answer.body)
        if answer.status != 200:
            fault = read_error(answer.status, answer.body)
            if fault.elsewhere:  # the node's state is at fault, and the next question is no better
                return fault.message
        return None

    def _end(self, key: ReplicaKey, course: _Course, trouble: str | None) -> None:
        """Take the end of a probe, which failed in part if there was ``trouble``."""
        name, model = key
        learned = course.probe.learned
        was_wanted = key in self._wanted
        self._courses.pop(key, None)
        self._wanted.pop(key, None)
        if trouble is None or not learned.is_empty:
            self._found[key] = _Found(course.build, learned)
            self._learn(name, model, learned)
        if trouble is None:
            self._failures.pop(key, None)
            text = encode(learned.to_json()).decode()
            self._recorder.put_abilities(name, model, KnownAbilities(course.build, text))
            log.info("probed", node=name, model=model, by_order=was_wanted, **learned.words())
            return
        self._note_failure(key, trouble)

    def _note_failure(self, key: ReplicaKey, reason: str) -> None:
        name, model = key
        before = self._failures.get(key)
        count = before.tries if before is not None else 0
        is_last = count >= len(RETRY_SECONDS)
        delay = RETRY_SECONDS[min(count, len(RETRY_SECONDS) - 1)]
        self._failures[key] = _Failure(count + 1, self._clock.seconds() + delay, reason)
        log.info(
            "probe_failed",
            node=name,
            model=model,
            reason=reason,
            retry_seconds=None if is_last else delay,
        )

    def _restore(self, key: ReplicaKey, known: KnownAbilities) -> None:
        try:
            learned = Learned.from_json(decode(known.learned))
        except (*NOT_JSON, ValueError):
            return  # damaged, or of another version: it is probed again
        self._found[key] = _Found(known.build, learned)
        self._learn(*key, learned)
