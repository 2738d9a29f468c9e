"""An agent beside a simulated node, in memory: it sees the node as a real one would, and no more.

It speaks with the gateway as the link does: it enters itself in ``parts.agents``, dispatches the
events of agents, and answers as ``cortexd.link.connected.Agent`` says. Where a real agent may be
slow, old or wrong, it is too if a test says so: see SimulatedAgent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall

from cortexd.fleet.agents import AgentAbilities, AgentReport, Device, EngineLife, EngineProcess
from cortexd.link.connected import AgentFailed, AgentGone, Agents, LogStream
from cortexd.scheduling.repairs.events import AgentJoined, AgentLeft, AgentReported
from cortexd.testing import SimulatedNode

LOOK_SECONDS: Final = 1.0
"""How often the agent looks at its node by itself."""

ABLE: Final = AgentAbilities(version="simulated", can_restart=True, has_log=True)
PID: Final = 4_000
OVERHEAD_MB: Final = 40
"""What an engine's process takes of the machine's memory beside its models."""


class SimulatedLog:
    """A log that the agent sends: ``last`` lines, and further ones until it is closed."""

    def __init__(self, last: Sequence[str]) -> None:
        self.last = last
        self.is_open = True

    def close(self) -> None:
        """Send no more lines."""
        self.is_open = False


class SimulatedAgent:
    """The agent of a simulated ``node``, which it watches every second while it is connected.

    It sends a report when it connects, and whenever what it sees has changed; amounts reach the
    gateway ``report_lag`` seconds after it has looked. ``answer_seconds`` is how long each command
    takes. A command that has not ended within its limit fails.

    ``tells_memory`` and ``tells_others``: whether reports have amounts, and what others take of
    them. With ``has_gpu`` false, the memory is the machine's less what the engine's process takes.
    ``life`` and ``reason``, if set, are said instead of what the node's process shows.
    ``restart_seconds`` is how long a restart takes, ``restart_fails`` why it fails; the same order
    is one restart. ``orders`` has the orders of restarts that it began, ``cut`` how many streams
    they cut off, ``questions`` when it was asked for its memory. ``log`` is the engine's log.
    """

    def __init__(
        self,
        node: SimulatedNode,
        agents: Agents,
        dispatch: Callable[[Any], None],
        clock: IReactorTime,
        *,
        abilities: AgentAbilities = ABLE,
    ) -> None:
        self.node = node.name
        self.peer = "127.0.0.1"
        self.since = 0.0
        self.abilities = abilities
        self.report_lag = 0.0
        self.answer_seconds = 0.0
        self.tells_memory = True
        self.tells_others = True
        self.has_gpu = True
        self.version = ".".join(str(part) for part in node.version)
        self.life: EngineLife | None = None
        self.reason = ""
        self.restart_seconds = 5.0
        self.restart_fails = ""
        self.orders: list[tuple[str, str]] = []
        self.cut = 0
        self.questions: list[float] = []
        self.log: list[str] = []
        self.dropped: list[str] = []
        self._simulated = node
        self._agents = agents
        self._dispatch = dispatch
        self._clock = clock
        self._last: AgentReport | None = None
        self._calls: dict[Deferred[Any], IDelayedCall] = {}
        self._reports: list[IDelayedCall] = []
        self._restarts: dict[str, Deferred[float]] = {}
        self._boots: list[IDelayedCall] = []
        self._follower: tuple[SimulatedLog, Callable[[Sequence[str]], None]] | None = None
        self._loop = LoopingCall(self.look)
        self._loop.clock = clock

    @classmethod
    def beside(cls, fleet: Any, node: str = "a", **knobs: Any) -> SimulatedAgent:
        """Return the agent of a node of an InMemoryFleet, connected, with these attributes.

        Close it before the fleet; ``FleetTestCase.agent`` does.
        """
        parts = fleet.parts
        agent = cls(fleet.nodes[node], parts.agents, parts.dispatcher.dispatch, fleet.clock)
        for name, value in knobs.items():
            assert hasattr(agent, name), name
            setattr(agent, name, value)
        agent.join()
        return agent

    # The link.

    @property
    def is_connected(self) -> bool:
        """Whether the gateway counts it as its node's agent."""
        return self._agents.on(self.node) is self

    def join(self) -> None:
        """Connect, report, and begin to watch."""
        self.since = self._clock.seconds()
        before = self._agents.add(self)
        if before is not None:
            before.drop("a newer link has come")
        self._last = None
        self._dispatch(AgentJoined(self.node, self.abilities))
        self._loop.start(LOOK_SECONDS)

    def leave(self, reason: str = "its link ended") -> None:
        """Disconnect: nothing that is under way is answered any more; the restart goes on."""
        self._stop(reason)
        if self._agents.remove(self):
            self._dispatch(AgentLeft(self.node, reason))

    def drop(self, reason: str) -> None:
        """Let the gateway end the link."""
        self.dropped.append(reason)
        self.leave(reason)

    def close(self) -> None:
        """End without a word, as at the end of a test."""
        self._stop("closed")
        self._agents.remove(self)
        for boot in self._boots:
            if boot.active():
                boot.cancel()

    def _stop(self, reason: str) -> None:
        if self._loop.running:
            self._loop.stop()
        self._follower = None
        for report in self._reports:
            if report.active():
                report.cancel()
        self._reports.clear()
        for answer, call in list(self._calls.items()):
            call.cancel()
            answer.errback(AgentGone(reason))
        self._calls.clear()

    def _later(self, seconds: float, answer: Deferred[Any], act: Callable[[], None]) -> None:
        def now() -> None:
            self._calls.pop(answer, None)
            act()

        self._calls[answer] = self._clock.callLater(seconds, now)

    def _answer(self, limit: float, made: Callable[[], Any]) -> Deferred[Any]:
        """Return what is made now, after ``answer_seconds``."""
        if not self.is_connected:
            return fail(AgentGone("it is not connected"))
        result = made()
        if isinstance(result, Exception):
            return fail(result)
        if self.answer_seconds <= 0:
            return succeed(result)

        def give_up(given_up: Deferred[Any]) -> None:
            call = self._calls.pop(given_up, None)
            if call is not None:
                call.cancel()

        answer: Deferred[Any] = Deferred(give_up)
        if self.answer_seconds > limit:
            late = AgentFailed(f"no answer within {limit:g} s")
            self._later(limit, answer, lambda: answer.errback(late))
        else:
            self._later(self.answer_seconds, answer, lambda: answer.callback(result))
        return answer

    # Reports.

    def look(self) -> None:
        """Look at the node, and report what has changed since the last report."""
        report = self.see()
        if report == self._last:
            return
        self._last = report
        self._reports = [each for each in self._reports if each.active()]
        if self.report_lag <= 0:
            self._dispatch(AgentReported(self.node, report))
        else:
            self._reports.append(
                self._clock.callLater(
                    self.report_lag, self._dispatch, AgentReported(self.node, report)
                )
            )

    def see(self) -> AgentReport:
        """Return what the agent sees now."""
        process = self._simulated.process
        life, reason = EngineLife.ANSWERS, ""
        if process is None:
            life, reason = EngineLife.ENDED, "the engine was killed by signal 9"
        elif self._simulated.faults.hang:
            life, reason = EngineLife.SILENT, "its health does not answer"
        total, used = self._simulated.memory_mb, self._simulated.resident_mb
        others = self._simulated.faults.others_mb if self.has_gpu else 0
        free = max(0, total - used - others)
        devices = (
            Device(
                name="Simulated GPU",
                total_mb=total,
                free_mb=free,
                engine_mb=used if self.tells_others else None,
                others_mb=others if self.tells_others else None,
            ),
        )
        return AgentReport(
            life=self.life or life,
            reason=self.reason or reason,
            process=None
            if process is None
            else EngineProcess(
                pid=PID + process.number,
                started_at=float(process.created),
                rss_mb=OVERHEAD_MB if self.has_gpu else used,
                cpu_seconds=0.0,
                restarts=process.number - 1,
            ),
            devices=devices if self.has_gpu and self.tells_memory else (),
            source=("nvml" if self.has_gpu else "process") if self.tells_memory else "",
            memory_total_mb=total if self.tells_memory else None,
            memory_free_mb=free if self.tells_memory else None,
            others_mb=others if self.tells_memory and self.tells_others and self.has_gpu else None,
            version=self.version,
        )

    # Commands.

    def read_memory(self, limit: float) -> Deferred[AgentReport]:
        """Return what the agent sees now."""
        self.questions.append(self._clock.seconds())
        return self._answer(limit, self.see)

    def restart(self, order: str, reason: str, limit: float) -> Deferred[float]:
        """Kill the node's process, and return once a new one answers."""
        if not self.is_connected:
            return fail(AgentGone("it is not connected"))
        if not self.abilities.can_restart:
            return fail(AgentFailed("it has no command that restarts the engine"))
        if self.restart_fails:
            return fail(AgentFailed(self.restart_fails))
        if order not in self._restarts:
            self._begin_restart(order, reason)
        answer: Deferred[float] = Deferred(lambda d: self._calls.pop(d).cancel())
        late = AgentFailed(f"the engine does not answer within {limit:g} s")
        self._later(limit, answer, lambda: answer.errback(late))

        def tell(seconds: float) -> float:
            call = self._calls.pop(answer, None)
            if call is not None:  # else the link has ended, or the limit has passed
                call.cancel()
                answer.callback(seconds)
            return seconds

        self._restarts[order].addCallback(tell)
        return answer

    def _begin_restart(self, order: str, reason: str) -> None:
        done = self._restarts[order] = Deferred()
        self.orders.append((order, reason))
        self.cut += self._simulated.open_streams
        faults = self._simulated.faults
        down_seconds, faults.fatal_down_seconds = faults.fatal_down_seconds, self.restart_seconds
        self._simulated.die()
        faults.fatal_down_seconds = down_seconds

        def answers() -> None:
            # The process has come back within this turn of the clock, before this call.
            if self.is_connected:
                self.look()
            done.callback(self.restart_seconds)

        self._boots.append(self._clock.callLater(self.restart_seconds, answers))
        if self.is_connected:
            self.look()

    def suspend(self, order: str, limit: float) -> Deferred[None]:
        """Fail: a simulated machine does not sleep."""
        return fail(AgentFailed("it has no command that suspends the machine"))

    def tail(
        self, lines: int, take: Callable[[Sequence[str]], None] | None, limit: float
    ) -> Deferred[LogStream]:
        """Return the last lines of ``log``; ``write`` sends further ones to ``take``."""

        def stream() -> SimulatedLog | AgentFailed:
            if not self.abilities.has_log:
                return AgentFailed("it does not know the engine's log")
            log = SimulatedLog(self.log[-lines:] if lines else [])
            self._follower = None if take is None else (log, take)
            return log

        return self._answer(limit, stream)

    def write(self, *lines: str) -> None:
        """Let the engine write lines to its log."""
        self.log += lines
        if self._follower is not None and self._follower[0].is_open:
            self._follower[1](lines)
