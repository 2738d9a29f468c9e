"""Polls every node for its models: what they list is the truth, whatever agents report."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed
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
from cortexd.link.connected import Agent
from cortexd.logs import get_logger
from cortexd.scheduling.events import Effect, Observed, PollFailed, SystemRead
from cortexd.scheduling.repairs.events import AgentReported, PollWanted
from cortexd.telemetry.metrics import Metrics
from cortexd.upstream.client import NodeClient
from cortexd.upstream.first_polls import FirstPolls
from cortexd.upstream.spreading import LEAST_GAP_SECONDS, spread
from cortexd.upstream.urgent import UrgentPolls
from cortexd.upstream.verifying import SYSTEM_SECONDS, NodeMemory

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
    ``timeout`` seconds to list its models. It notes each poll that has ended in ``first_polls``.
    ``has_heard`` says whether a node has sent a byte of the answer to any request since some time.
    A node with a replica that was just ejected is polled at once, and so is one whose agent has
    seen its engine end or come back. A reload may add clients to ``clients`` and remove them.

    The poller reads a node's version and memory after the node's first answer, after each restart,
    and then every ``system_info_interval`` seconds. That answer is slow, so the read does not delay
    the polls. An agent is asked in place of the node if ``memory`` has one, also after each change
    of what is resident: it sends reports by itself, but not for a change that it does not see.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        clients: Mapping[str, NodeClient],
        clock: IReactorTime,
        metrics: Metrics,
        first_polls: FirstPolls,
        terms: PollingTerms,
        memory: NodeMemory,
        has_heard: Callable[[str, float], bool] = lambda node, since: False,
    ) -> None:
        self._dispatcher = dispatcher
        self._clients = clients
        self._clock = clock
        self._metrics = metrics
        self._first_polls = first_polls
        self._terms = terms
        self._memory = memory
        self._system_due_at: dict[str, float] = {}
        self._system_reads: dict[str, Deferred[None]] = {}
        self._by_agent: set[str] = set()
        self._version_due: set[str] = set()
        self._urgent = UrgentPolls(self._poll_now)
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
        self._urgent.clear()
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
        agent = self._memory.agent(name)
        if agent is None and not client.engine.abilities.tells_memory:
            return
        is_due = now >= self._system_due_at.get(name, 0.0)
        if agent is None:
            is_due = is_due or name in self._by_agent
        else:
            node = self._dispatcher.fleet.nodes[name]
            is_due = is_due or node.read_at < node.moved_at
        if name in self._system_reads or not is_due:
            return
        self._system_due_at[name] = now + self._terms.system_info_interval
        reading = Deferred.fromCoroutine(self._read_system(client, agent))
        if not reading.called:
            self._system_reads[name] = reading

    async def _read_system(self, client: NodeClient, agent: Agent | None) -> None:
        name = client.name
        try:
            if agent is None:
                await self._ask_node(client)
            else:
                await self._ask_agent(client, agent)
        except CancelledError:
            return
        except CortexError as error:
            log.debug("system_info_failed", node=name, reason=error.message)
        except Exception:
            log.exception("system_info_crashed", node=name)
        finally:
            if not self._has_left(client):
                self._system_reads.pop(name, None)

    async def _ask_node(self, client: NodeClient) -> None:
        name, asked_at = client.name, self._clock.seconds()
        self._by_agent.discard(name)
        system = await client.system_info(SYSTEM_SECONDS)
        if self._has_left(client):
            return
        self._version_due.discard(name)
        if self._dispatcher.fleet.nodes[name].moved_at > asked_at:
            # A model was loaded or unloaded during the read, so the amounts are stale: retry.
            self._system_due_at[name] = 0.0
        else:
            self._dispatcher.dispatch(SystemRead(name, system, asked_at))

    async def _ask_agent(self, client: NodeClient, agent: Agent) -> None:
        name, asked_at = client.name, self._clock.seconds()
        self._by_agent.add(name)
        report = await self._memory.ask(agent)
        if self._has_left(client):
            return
        if report is None:
            self._system_due_at[name] = 0.0
            return
        self._dispatcher.dispatch(AgentReported(name, report, asked_at))
        is_due = name in self._version_due
        self._version_due.discard(name)
        if report.version or not is_due or not client.engine.abilities.tells_memory:
            return
        version = (await client.system_info(SYSTEM_SECONDS)).version
        if not self._has_left(client):
            report = replace(report, version=version)
            self._dispatcher.dispatch(AgentReported(name, report, asked_at))

    def _follow(self, effect: Effect) -> None:
        """Read a node's version and memory again when it comes up or restarts."""
        match effect:
            case HealthChanged(node=node, after=NodeHealth.UP) | NodeRestarted(node=node):
                self._system_due_at[node] = 0.0
                self._version_due.add(node)
            case PollWanted(node=node) if self.running:
                self._urgent.want(node)
            case NodeRemoved(node=node):
                self._system_due_at.pop(node, None)
                self._by_agent.discard(node)
                self._version_due.discard(node)
                reading = self._system_reads.pop(node, None)
                if reading is not None:
                    reading.cancel()
            case ReplicaEjected(node=node) if self.running:
                self.poll(self._clients[node])  # it may be down as a whole

    def poll_soon(self, name: str) -> None:
        """Poll a node once more, before its turn."""
        if self.running:
            self._urgent.want(name)

    def _poll_now(self, name: str) -> Deferred[None]:
        client = self._clients.get(name)
        return succeed(None) if client is None else self.poll(client)

    def _loop_ended(self, failure: object) -> None:
        log.error("polling_stopped", failure=failure)
