"""Loads and unloads models at the nodes, and avoids the nodes' traps.

A load reads the model's status and reloads only a model that is exactly ``unloaded``: a reload in
any other state bricks the id until the node restarts (nodes.md 2.3.2). The answer's body states the
outcome, the HTTP status never does, and the answer may take ``load_timeout`` seconds. If the
connection breaks or another client loads the model, we poll the status until the node reports the
end. Timeouts do not count as failures meanwhile: a node may read weights with the threads that
answer (nodes.md 2.2.2).

An unload takes four steps. It waits until no request of any client runs on the model, because the
node would cut streams off as if they had ended (nodes.md 2.5.2). It reads the status, because a
model in the middle of a reload must not be unloaded. It unloads. It then watches free memory until
the model's measured footprint is free again, or until free memory stops rising (nodes.md 2.6); the
difference has leaked.

Every operation ends with an event for the scheduler, an abandoned one too.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater

from cortexd.dispatcher import Dispatcher
from cortexd.errors import CortexError, NodeTimeout
from cortexd.fleet.footprints import BROKEN_LOAD_TIMES, UNTOLD_LOAD_TIMES, load_limit
from cortexd.fleet.nodes import ReplicaKey
from cortexd.fleet.outcomes import LifecycleStatus, Outcome
from cortexd.fleet.states import NodeRemoved, ReplicaState
from cortexd.logs import get_logger
from cortexd.scheduling.events import (
    Abandon,
    Effect,
    LoadDone,
    LoadFailed,
    StartLoad,
    StartUnload,
    Sweep,
    Tick,
    UnloadDone,
    UnloadFailed,
)
from cortexd.scheduling.handlers.sweeps import NODES_AT_ONCE, sweep_parts, tick_parts
from cortexd.store.recorder import Recorder
from cortexd.upstream.client import NodeClient
from cortexd.upstream.verifying import NodeMemory, Reading, freed_mb, leaked_mb, pause

TICK_SECONDS: Final = 1.0
"""Seconds between two passes of the scheduler over the queues."""

ASKING_SECONDS: Final = 10.0
"""How long a node may take to answer a status or listing request."""

UNLOAD_SECONDS: Final = 60.0
"""How long a node may take to answer an unload; usually milliseconds (nodes.md 2.1)."""

FOREIGN_REQUESTS_SECONDS: Final = 60.0
"""How long an unload waits for requests that bypassed cortexd."""

CLOSING_SECONDS: Final = 0.05
"""Seconds between two looks at whether the unloads at nodes have ended."""

MOST_REFUSALS: Final = 3
"""Consecutive refused or broken status requests after which we consider the process dead."""

_GONE = frozenset({LifecycleStatus.UNLOADED, LifecycleStatus.NOT_FOUND})

log = get_logger("cortexd.lifecycle")

End = LoadDone | LoadFailed | UnloadDone | UnloadFailed


@dataclass(frozen=True, slots=True)
class LifecycleTerms:
    """A load may take ``load_timeout`` seconds; a Sweep runs every ``sweep_interval`` seconds."""

    load_timeout: float
    sweep_interval: float


class _FailedError(Exception):
    """An operation failed, for the stated reason; it does not leave this module.

    ``listed`` is the model's state in the node's current list, ``None`` where it is unknown.
    """

    def __init__(
        self,
        reason: str,
        listed: ReplicaState | None,
        *,
        out_of_memory: bool = False,
        overdue: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.listed = listed
        self.out_of_memory = out_of_memory
        self.overdue = overdue


class Lifecycle(Service):
    """Carries out the scheduler's loads and unloads at the nodes."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        clients: Mapping[str, NodeClient],
        recorder: Recorder,
        clock: IReactorTime,
        terms: LifecycleTerms,
        memory: NodeMemory,
    ) -> None:
        self._dispatcher = dispatcher
        self._clients = clients
        self._recorder = recorder
        self._clock = clock
        self._terms = terms
        self._memory = memory
        self._operations: dict[ReplicaKey, Deferred[None]] = {}
        self._reloads: set[ReplicaKey] = set()
        self._sweeping: Deferred[None] | None = None
        self._ticking: Deferred[None] | None = None
        self._unloads: set[ReplicaKey] = set()
        self._is_closing = False
        self._untold: list[tuple[End, float]] = []
        self._loops = (
            (LoopingCall(self._sweep), terms.sweep_interval),
            (LoopingCall(self._tick), TICK_SECONDS),
        )
        dispatcher.listen(self._carry_out)

    def startService(self) -> None:
        """Start to dispatch Sweep and Tick at their intervals."""
        super().startService()
        for loop, interval in self._loops:
            loop.clock = self._clock
            loop.start(interval, now=False).addErrback(self._loop_ended)

    def reconfigure(self, terms: LifecycleTerms) -> None:
        """Take other terms; a load under way keeps its limit."""
        before, self._terms = self._terms, terms
        sweeping, _ = self._loops[0]
        self._loops = ((sweeping, terms.sweep_interval), *self._loops[1:])
        if sweeping.running and terms.sweep_interval != before.sweep_interval:
            sweeping.stop()
            sweeping.start(terms.sweep_interval, now=False).addErrback(self._loop_ended)

    def stopService(self) -> None:
        """Stop the loops and cancel all waits; a node finishes its operation by itself."""
        super().stopService()
        for loop, _ in self._loops:
            if loop.running:
                loop.stop()
        for looking in (self._sweeping, self._ticking):
            if looking is not None:
                looking.cancel()
        for operation in list(self._operations.values()):
            operation.cancel()

    def _sweep(self) -> None:
        """Look at all nodes: at those of a large fleet in several turns of the reactor."""
        if self._sweeping is None or self._sweeping.called:
            scheduler = self._dispatcher.scheduler
            parts = sweep_parts(scheduler.fleet.nodes, NODES_AT_ONCE, lambda: scheduler.is_sweeping)
            self._sweeping = Deferred.fromCoroutine(self._look_in_parts(parts))

    def _tick(self) -> None:
        """Look after the requests that wait: where many are due, in several turns."""
        if self._ticking is None or self._ticking.called:
            scheduler = self._dispatcher.scheduler
            parts = tick_parts(lambda: scheduler.is_ticking)
            self._ticking = Deferred.fromCoroutine(self._look_in_parts(parts))

    async def _look_in_parts(self, parts: Iterator[Sweep | Tick]) -> None:
        self._dispatch(next(parts))
        for part in parts:
            try:
                await deferLater(self._clock, 0)
            except CancelledError:
                return
            self._dispatch(part)

    async def close(self, seconds: float) -> bool:
        """Begin nothing more, give up what no node has begun, and wait for unloads at nodes.

        Loads go on at their nodes, whose lists show them. The scheduler hears of no end any more.
        Return ``False`` if an unload has not ended after ``seconds``; then everything goes on.
        """
        self._is_closing = True
        for key, operation in list(self._operations.items()):
            if key not in self._reloads | self._unloads:
                operation.cancel()
        deadline = self._clock.seconds() + seconds
        while self._unloads:
            if self._clock.seconds() >= deadline:
                self.reopen()
                return False
            await deferLater(self._clock, CLOSING_SECONDS)
        return True

    def reopen(self) -> None:
        """Go on after ``close``."""
        self._is_closing = False
        untold, self._untold = self._untold, []
        for end, took in untold:
            self._tell(end, took)

    def _dispatch(self, event: Sweep | Tick) -> None:
        try:
            self._dispatcher.dispatch(event)
        except Exception:
            log.exception("look_crashed", look=type(event).__name__)

    def _loop_ended(self, failure: object) -> None:
        log.error("looking_stopped", failure=failure)

    def _carry_out(self, effect: Effect) -> None:
        if not self.running or self._is_closing:
            return
        match effect:
            case StartLoad(node, model):
                self._begin(node, model, self._load(self._clients[node], effect))
            case StartUnload(node, model):
                self._begin(node, model, self._unload(self._clients[node], effect))
            case Abandon(node, model):
                operation = self._operations.get((node, model))
                if operation is not None:
                    operation.cancel()
            case NodeRemoved(node):
                for key in [key for key in self._operations if key[0] == node]:
                    self._operations.pop(key).cancel()
                self._reloads = {key for key in self._reloads if key[0] != node}

    def _begin(self, node: str, model: str, operation: Coroutine[Deferred[Any], Any, None]) -> None:
        """Start an operation, which dispatches an event at its end in every case."""
        running = Deferred.fromCoroutine(operation)
        if not running.called:
            self._operations[node, model] = running
        running.addErrback(lambda failure: log.error("operation_crashed", failure=failure))

    async def _load(self, client: NodeClient, effect: StartLoad) -> None:
        key = client.name, effect.model

        def failed(error: _FailedError) -> End:
            unreachable = error.listed is None
            return LoadFailed(
                *key,
                error.reason,
                error.out_of_memory,
                error.listed or ReplicaState.UNLOADED,
                unreachable=unreachable,
                overdue=error.overdue,
                begun=unreachable and key in self._reloads,
            )

        await self._run(client, effect.model, self._loaded(client, effect), failed)

    async def _unload(self, client: NodeClient, effect: StartUnload) -> None:
        def failed(error: _FailedError) -> End:
            listed = error.listed or ReplicaState.LOADED
            is_unknown = error.listed is None
            return UnloadFailed(client.name, effect.model, error.reason, listed, is_unknown)

        await self._run(client, effect.model, self._unloaded(client, effect), failed)

    async def _run(
        self,
        client: NodeClient,
        model: str,
        operation: Coroutine[Deferred[Any], Any, LoadDone | UnloadDone],
        failed: Callable[[_FailedError], End],
    ) -> None:
        """Await an operation and dispatch its end, unless this service has stopped."""
        began_at = self._clock.seconds()
        try:
            end: End = await operation
        except _FailedError as error:
            end = failed(error)
        except CancelledError:
            if self._has_left(client):
                return
            words = f"node {client.name} went down or restarted in the meantime"
            end = failed(_FailedError(words, await self._listed(client, model)))
        except CortexError as error:
            end = failed(_FailedError(error.message, await self._listed(client, model)))
        except Exception:
            log.exception("lifecycle_crashed", node=client.name, model=model)
            words = "internal error; see the log"
            end = failed(_FailedError(words, await self._listed(client, model)))
        if self._has_left(client):
            return
        # The event may start the next operation on the same model, so clear this one first.
        self._operations.pop((client.name, model), None)
        self._reloads.discard((client.name, model))
        self._unloads.discard((client.name, model))
        took = self._clock.seconds() - began_at
        if self._is_closing:
            self._untold.append((end, took))
        elif self.running:
            self._tell(end, took)

    def _has_left(self, client: NodeClient) -> bool:
        """Return whether a node has left the configuration, so that its swaps have ended too."""
        return self._clients.get(client.name) is not client

    def _tell(self, end: End, seconds: float) -> None:
        try:
            self._recorder.tell_end(end, seconds)
        except Exception:
            log.exception("end_not_recorded", node=end.node, model=end.model)
        self._dispatcher.dispatch(end)

    # Loading.

    async def _loaded(self, client: NodeClient, effect: StartLoad) -> LoadDone:
        model, load_timeout = effect.model, self._terms.load_timeout
        began_at = self._clock.seconds()
        limit = load_limit(effect.seconds, UNTOLD_LOAD_TIMES, load_timeout)
        while True:
            before = await self._memory.await_room(client, effect.footprint_mb)
            # Reload directly after this answer: the status could change during any step between.
            outcome = await client.status(model, ASKING_SECONDS)
            if outcome.status is not LifecycleStatus.RELOADING:
                break
            await self._settled(client, model, began_at, limit)
        if outcome.status is not LifecycleStatus.UNLOADED:
            raise self._load_failed(outcome)
        began_at = self._clock.seconds()
        self._reloads.add((client.name, model))
        try:
            outcome = await client.load(model, load_timeout)
        except CortexError as error:
            # The node continues the load (nodes.md 2.2.3), so only its status shows the outcome.
            limit = load_limit(effect.seconds, BROKEN_LOAD_TIMES, load_timeout)
            outcome = await self._settled(client, model, began_at, limit)
            if outcome.status is LifecycleStatus.UNLOADED:
                raise _FailedError(error.message, ReplicaState.UNLOADED) from None
            if outcome.status is LifecycleStatus.LOADED and await self._has_restarted(client):
                words = f"node {client.name} restarted in the meantime"
                raise _FailedError(words, ReplicaState.LOADED) from None
        else:
            if outcome.status is LifecycleStatus.RELOADING:
                raise self._load_failed(await self._settled(client, model, began_at, limit))
        if outcome.status is LifecycleStatus.NOT_FOUND:
            raise _FailedError(client.engine.lost_by_load(), await self._listed(client, model))
        if outcome.status is not LifecycleStatus.LOADED:
            raise self._load_failed(outcome)
        seconds = self._clock.seconds() - began_at
        after = await self._memory.read(client)
        freed = freed_mb(before, after)
        footprint_mb = -freed if freed is not None and freed < 0 else None
        system = after.system if after is not None else None
        return LoadDone(client.name, model, seconds, footprint_mb, system)

    @staticmethod
    def _load_failed(outcome: Outcome) -> _FailedError:
        if outcome.status is LifecycleStatus.LOADED:
            return _FailedError("another client of the node has loaded it", ReplicaState.LOADED)
        return _FailedError(
            outcome.error or f"the node reports {outcome.status.value}",
            ReplicaState.UNLOADED,
            out_of_memory=outcome.out_of_memory,
        )

    async def _settled(
        self, client: NodeClient, model: str, began_at: float, limit: float
    ) -> Outcome:
        """Return a model's status as soon as the model is not loading.

        Raises _FailedError if the load, begun at ``began_at``, exceeds ``limit`` seconds.
        """
        deadline = began_at + limit
        while True:
            outcome = await self._status(client, model, deadline)
            if outcome is not None and outcome.status is not LifecycleStatus.RELOADING:
                return outcome
            if self._clock.seconds() >= deadline:
                raise _FailedError(
                    f"its load has not ended within {limit:g} s, and counts as hanging",
                    ReplicaState.LOADING,
                    overdue=True,
                )
            await pause(self._clock)

    async def _status(self, client: NodeClient, model: str, deadline: float) -> Outcome | None:
        """Return a model's status, ``None`` if the node does not answer before the deadline.

        Raises _FailedError if the node's process is dead.
        """
        refusals = 0
        while True:
            try:
                return await client.status(model, ASKING_SECONDS)
            except NodeTimeout:
                refusals = 0
            except CortexError as error:
                refusals += 1
                if refusals >= MOST_REFUSALS:
                    raise _FailedError(error.message, None) from error
            if self._clock.seconds() >= deadline:
                return None
            await pause(self._clock)

    async def _has_restarted(self, client: NodeClient) -> bool:
        """Return whether the node's process has changed since the last poll; false if unknown."""
        listing = await client.listing(ASKING_SECONDS)
        seen = self._dispatcher.fleet.nodes[client.name].created
        return seen is not None and listing.created not in (None, seen)

    # Unloading.

    async def _unloaded(self, client: NodeClient, effect: StartUnload) -> UnloadDone:
        node, model, measured_mb = effect.node, effect.model, effect.measured_mb
        if not effect.now:
            await self._await_idle(client, model)
        before = await self._memory.read(client)
        await self._check_version(client, before)
        if not effect.now:
            # The memory report takes seconds, so new requests may have arrived meanwhile.
            await self._await_idle(client, model)
        outcome = await client.status(model, ASKING_SECONDS)
        if outcome.status in _GONE:
            return UnloadDone(node, model)
        if outcome.status is not LifecycleStatus.LOADED:
            raise _FailedError(
                f"the node reports {outcome.status.value}, but only a loaded model can be unloaded",
                await self._listed(client, model) or ReplicaState.STUCK,
            )
        words = ""
        self._unloads.add((node, model))
        try:
            outcome = await client.unload(model, UNLOAD_SECONDS)
        except CortexError as error:
            words = error.message
        else:
            if outcome.status is not LifecycleStatus.UNLOADED:
                raise _FailedError(
                    outcome.error or f"the node reports {outcome.status.value}",
                    await self._listed(client, model),
                )
        deadline = self._clock.seconds() + UNLOAD_SECONDS
        after = await self._status(client, model, deadline)
        if after is None or after.status not in _GONE:
            said = "no status" if after is None else after.status.value
            raise _FailedError(
                words or f"after its unload the node reports {said}",
                await self._listed(client, model),
            )
        self._unloads.discard((node, model))
        returned_mb, system = await self._memory.await_memory(client, before, measured_mb)
        return UnloadDone(node, model, leaked_mb(returned_mb, measured_mb), system)

    async def _check_version(self, client: NodeClient, reading: Reading | None) -> None:
        """Raise _FailedError if an unload would make the node lose the model."""
        version = await self._memory.version(client, reading)
        models = self._dispatcher.fleet.nodes[client.name].replicas
        harm = client.engine.harm_of_unload(version, len(models)) if version else None
        if harm is not None:
            raise _FailedError(harm, ReplicaState.LOADED)

    async def _await_idle(self, client: NodeClient, model: str) -> None:
        """Wait until no request of any client runs on the model, if the node counts requests."""
        if not client.engine.abilities.counts_requests:
            return
        deadline = self._clock.seconds() + FOREIGN_REQUESTS_SECONDS
        told = False
        while True:
            counts = await client.requests_in_flight(ASKING_SECONDS) or {}
            running = client.engine.running_on(counts, model)
            if not running:
                return
            if self._clock.seconds() >= deadline:
                raise _FailedError(
                    f"{running} requests from other clients of the node still run on it",
                    ReplicaState.LOADED,
                )
            if not told:
                log.info("unload_waits", node=client.name, model=model, requests=running)
                told = True
            await pause(self._clock)

    # Shared by loads and unloads.

    async def _listed(self, client: NodeClient, model: str) -> ReplicaState | None:
        """Return a model's state in the node's list now, ``None`` if the node does not answer."""
        if not self.running:
            return None
        try:
            listing = await client.listing(ASKING_SECONDS)
        except (CortexError, CancelledError):
            return None
        return listing.replicas.get(model, ReplicaState.UNLOADED)
