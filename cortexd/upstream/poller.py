"""Polls every node for its models: the fleet's only source of truth."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall

from cortexd.dispatcher import Dispatcher
from cortexd.errors import CortexError, GatewayBusy, NodeTimeout
from cortexd.fleet.states import (
    HealthChanged,
    NodeHealth,
    NodeRemoved,
    NodeRestarted,
    Observation,
    PollFailure,
    ReplicaEjected,
)
from cortexd.logs import get_logger
from cortexd.scheduling.events import Effect, Observed, PollFailed, SystemRead
from cortexd.telemetry.metrics import Metrics
from cortexd.upstream.client import NodeClient
from cortexd.upstream.first_polls import FirstPolls
from cortexd.upstream.spreading import LEAST_GAP_SECONDS, spread

SYSTEM_INFO_TIMEOUT = 15.0
"""How long a node may take to report its memory: it runs nvidia-smi for each card
(nodes.md 7.6)."""

log = get_logger("cortexd.poller")


@dataclass(frozen=True, slots=True)
class PollingTerms:
    """How often nodes are polled, and how long they may take; in seconds."""

    interval: float
    timeout: float
    system_info_interval: float


class Poller(Service):
    """Polls each node every ``interval`` seconds, the nodes of a large fleet one after another.

    No node waits for another: a poll that is still under way is not repeated. A node has
    ``timeout`` seconds to list its models. The poller reads a node's version and memory after the
    node's first answer, after each restart, and then every ``system_info_interval`` seconds. That
    answer is slow, so the read does not delay the polls. It notes each poll that has ended in
    ``first_polls``. ``has_heard`` says whether a node has sent a byte of the answer to any request
    since some time. A node with a replica that was just ejected is polled at once. A reload may add
    clients to ``clients`` and remove them.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        clients: Mapping[str, NodeClient],
        clock: IReactorTime,
        metrics: Metrics,
        first_polls: FirstPolls,
        terms: PollingTerms,
        has_heard: Callable[[str, float], bool] = lambda node, since: False,
    ) -> None:
        self._dispatcher = dispatcher
        self._clients = clients
        self._clock = clock
        self._metrics = metrics
        self._first_polls = first_polls
        self._terms = terms
        self._system_due_at: dict[str, float] = {}
        self._system_reads: dict[str, Deferred[None]] = {}
        self._has_heard = has_heard
        self._polls: dict[str, Deferred[None]] = {}
        self._extra: set[Deferred[None]] = set()
        self._batches: deque[tuple[float, list[NodeClient]]] = deque()
        self._timer: IDelayedCall | None = None
        self._is_first = True
        self._loop = LoopingCall(self._begin_round)
        self._loop.clock = clock
        dispatcher.listen(self._follow)

    def startService(self) -> None:
        """Poll now, and then at each interval."""
        super().startService()
        self._loop.start(self._terms.interval).addErrback(self._loop_ended)

    def reconfigure(self, terms: PollingTerms) -> None:
        """Poll by other terms from the next poll on."""
        before, self._terms = self._terms, terms
        if self._loop.running and terms.interval != before.interval:
            self._loop.stop()
            self._loop.start(terms.interval, now=False).addErrback(self._loop_ended)

    async def poll_first(self, client: NodeClient) -> Observation | PollFailure:
        """Return what a node lists that is not in the fleet yet, or why that is unknown."""
        try:
            return await client.listing(self._terms.timeout)
        except CortexError as error:
            return PollFailure(error.message, isinstance(error, NodeTimeout))

    def stopService(self) -> None:
        """Stop polling, and cancel the polls and reads in progress."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        self._batches.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for polling in [*self._polls.values(), *self._extra]:
            polling.cancel()
        for reading in list(self._system_reads.values()):
            reading.cancel()

    def _begin_round(self) -> None:
        """Poll every node once within the interval, unless the last round still goes on."""
        if self._batches:
            return
        clients = list(self._clients.values())
        began_at = self._clock.seconds()
        batches = spread(clients, self._terms.interval, is_first=self._is_first)
        self._is_first = False
        self._batches = deque((began_at + delay, batch) for delay, batch in batches)
        self._poll_batch()

    def _poll_batch(self) -> None:
        """Poll the next nodes of this round. After a stall, batches still come one by one."""
        self._timer = None
        if not self._batches:
            return
        _, clients = self._batches.popleft()
        for client in clients:
            if client.name not in self._polls:
                self._start_poll(client)
        if self._batches:
            delay = self._batches[0][0] - self._clock.seconds()
            self._timer = self._clock.callLater(max(LEAST_GAP_SECONDS, delay), self._poll_batch)

    def poll_all(self) -> Deferred[list[None]]:
        """Poll every node once, at once; the Deferred fires when each has answered or failed."""
        return gatherResults([self._start_poll(client) for client in self._clients.values()])

    def _start_poll(self, client: NodeClient) -> Deferred[None]:
        polling = Deferred.fromCoroutine(self._poll(client))
        if not polling.called:
            self._polls[client.name] = polling

            def forget(result: None) -> None:
                self._polls.pop(client.name, None)

            polling.addCallback(forget)
        return polling

    def poll(self, client: NodeClient) -> Deferred[None]:
        """Poll one node now; the Deferred fires when it has answered or failed."""
        polling = Deferred.fromCoroutine(self._poll(client))
        self._extra.add(polling)
        return polling.addBoth(self._polled, polling)

    def _polled(self, result: None, polling: Deferred[None]) -> None:
        self._extra.discard(polling)

    async def _poll(self, client: NodeClient) -> None:
        """Poll one node. It never raises, because a failure would end the loop."""
        try:
            await self._ask(client)
        except CancelledError:
            return
        except Exception:
            log.exception("poll_crashed", node=client.name)
        self._first_polls.note()

    async def _ask(self, client: NodeClient) -> None:
        name, asked_at = client.name, self._clock.seconds()
        try:
            observation = await client.listing(self._terms.timeout)
        except CortexError as error:
            if self._has_left(client):
                return
            silent = isinstance(error, NodeTimeout)
            self._metrics.polls.labels(name, "timed_out" if silent else "failed").inc()
            if isinstance(error, GatewayBusy):
                return  # it says nothing of the node
            heard = silent and self._has_heard(name, asked_at)
            failure = PollFailure(error.message, silent, heard)
            self._dispatcher.dispatch(PollFailed(name, failure))
        else:
            if self._has_left(client):
                return
            self._metrics.polls.labels(name, "ok").inc()
            self._dispatcher.dispatch(Observed(name, observation, asked_at))
            self._read_system_when_due(client)

    def _has_left(self, client: NodeClient) -> bool:
        """Return whether a node has left the configuration; another may have its name now."""
        return self._clients.get(client.name) is not client

    def _read_system_when_due(self, client: NodeClient) -> None:
        name, now = client.name, self._clock.seconds()
        if not client.engine.abilities.tells_memory:
            return
        if name in self._system_reads or now < self._system_due_at.get(name, 0.0):
            return
        self._system_due_at[name] = now + self._terms.system_info_interval
        reading = Deferred.fromCoroutine(self._read_system(client))
        if not reading.called:
            self._system_reads[name] = reading

    async def _read_system(self, client: NodeClient) -> None:
        name, asked_at = client.name, self._clock.seconds()
        try:
            system = await client.system_info(SYSTEM_INFO_TIMEOUT)
        except CancelledError:
            return
        except CortexError as error:
            log.debug("system_info_failed", node=name, reason=error.message)
        except Exception:
            log.exception("system_info_crashed", node=name)
        else:
            if self._has_left(client):
                return
            if self._dispatcher.fleet.nodes[name].moved_at > asked_at:
                # A model was loaded or unloaded during the read, so the amounts are stale: retry.
                self._system_due_at[name] = 0.0
            else:
                self._dispatcher.dispatch(SystemRead(name, system, asked_at))
            for kind, amount in (
                ("total", system.memory_total_mb),
                ("free", system.memory_free_mb),
            ):
                if amount is not None:
                    self._metrics.node_memory.labels(name, kind).set(amount * 1024 * 1024)
        finally:
            if not self._has_left(client):
                self._system_reads.pop(name, None)

    def _follow(self, effect: Effect) -> None:
        """Read a node's version and memory again when it comes up or restarts."""
        match effect:
            case HealthChanged(node=node, after=NodeHealth.UP) | NodeRestarted(node=node):
                self._system_due_at[node] = 0.0
            case NodeRemoved(node=node):
                self._system_due_at.pop(node, None)
                reading = self._system_reads.pop(node, None)
                if reading is not None:
                    reading.cancel()
            case ReplicaEjected(node=node) if self.running:
                self.poll(self._clients[node])  # it may be down as a whole

    def _loop_ended(self, failure: object) -> None:
        log.error("polling_stopped", failure=failure)
