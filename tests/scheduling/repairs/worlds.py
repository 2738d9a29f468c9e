"""Worlds of nodes whose agents can restart their engines."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from cortexd.fleet.agents import AgentAbilities, AgentReport, EngineLife
from cortexd.fleet.states import ReplicaState
from cortexd.scheduling.repairs.events import (
    AgentJoined,
    AgentLeft,
    AgentReported,
    RestartDone,
    RestartEnded,
    RestartFailed,
    RestartPlanned,
    RestartWanted,
    StartRestart,
)
from cortexd.scheduling.repairs.restarts import Restart
from cortexd.scheduling.repairs.terms import RepairTerms
from cortexd.scheduling.terms import SchedulingTerms
from tests.support.scheduling import DOWN_AFTER, LOADED, Listing, World, setup

ONE = {"ada": 20}
TWO = {"ada": 20, "bob": 20}
SIZES = {"a": 8, "b": 8, "c": 8}

ABLE = AgentAbilities(version="1.2.3", can_restart=True)


class Repaired:
    """A world, and what its agents do."""

    def __init__(
        self,
        budgets: Mapping[str, int],
        sizes: Mapping[str, int],
        loaded: Mapping[str, Iterable[str]],
        *,
        repair: RepairTerms | None = None,
        terms: SchedulingTerms | None = None,
        listings: Mapping[str, Listing] | None = None,
        **more: Any,
    ) -> None:
        repair = repair or RepairTerms()
        terms = terms or SchedulingTerms(defrag_after_cycles=0, repair=repair)
        made = setup(budgets, sizes, loaded, terms=terms, **more)
        self.world = World(made if listings is None else replace(made, listings=listings))
        for node in budgets:
            self.join(node)

    def join(self, node: str, abilities: AgentAbilities = ABLE) -> None:
        self.world.tell(AgentJoined(node, abilities))

    def leave(self, node: str) -> None:
        self.world.tell(AgentLeft(node, "connection lost"))

    def report(self, node: str, life: EngineLife, reason: str = "") -> None:
        self.world.tell(AgentReported(node, AgentReport(life=life, reason=reason)))

    def leak(self, node: str, model: str, leaked_mb: int) -> None:
        """Unload a model, which leaves some of its memory behind."""
        self.world.unload(model, node)
        self.world.unload_done(node, leaked_mb=leaked_mb)

    def order(self, node: str, *, now: bool = False, cold: bool = False) -> None:
        self.world.wish(RestartWanted(node, now=now, cold=cold))

    # What a restart does.

    @property
    def planned(self) -> list[str]:
        """The nodes and reasons of the restarts that were planned so far."""
        return [
            f"{each.node}: {each.reason}"
            for each in self.world.effects
            if isinstance(each, RestartPlanned)
        ]

    @property
    def begun(self) -> list[str]:
        """The nodes whose engines were restarted so far."""
        return [each.node for each in self.world.effects if isinstance(each, StartRestart)]

    @property
    def ended(self) -> list[RestartEnded]:
        return [each for each in self.world.effects if isinstance(each, RestartEnded)]

    def on(self, node: str) -> Restart | None:
        return self.world.scheduler.restarts.on(node)

    def phase(self, node: str) -> str:
        """Return the phase of the restart of a node, empty without one."""
        restart = self.on(node)
        return restart.phase.value if restart is not None else ""

    def idle(self, seconds: float = 60.0) -> None:
        """Let a time pass in which nothing happens, and look at all nodes."""
        self.world.wait(seconds)
        self.world.sweep()

    def go_down(self, node: str) -> None:
        for _ in range(DOWN_AFTER):
            self.world.poll_failed(node)

    def come_back(self, node: str, state: ReplicaState = LOADED, *, seconds: float = 20.0) -> None:
        """Let the agent of a node restart the engine, which comes with all models in a state."""
        number = self._number(node)
        self.go_down(node)
        self.world.wait(seconds)
        self.world.restart(node, state)
        self.world.tell(RestartDone(node, number, seconds))

    def fail(self, node: str, reason: str = "exit status 1") -> None:
        self.world.tell(RestartFailed(node, self._number(node), reason))

    def _number(self, node: str) -> int:
        return next(
            each.number
            for each in reversed(self.world.effects)
            if isinstance(each, StartRestart) and each.node == node
        )


def leaking(**more: Any) -> Repaired:
    """Return a node that has lost 4 of its 20 MiB, and has loaded one model."""
    repaired = Repaired(ONE, SIZES, {"ada": ["a", "b"]}, **more)
    repaired.leak("ada", "b", 4)
    return repaired
