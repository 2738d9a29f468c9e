"""Planned restarts under any sequence of events: their rules hold, and nothing stays closed."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.agents import AgentAbilities, AgentReport, EngineLife
from cortexd.fleet.states import ANSWERING_HEALTH, Observation, ReplicaState
from cortexd.scheduling.events import Effect, Event, Grant, Tick
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
from cortexd.scheduling.repairs.restarts import BUDGET_SECONDS, Phase
from cortexd.scheduling.repairs.terms import RepairTerms
from cortexd.scheduling.repairs.trimming import next_to_go
from tests.scheduling.repairs.worlds import ABLE
from tests.scheduling.scheduler.test_properties import (
    NODES,
    NUMBERS,
    WildMachine,
    run_machine,
    setups,
)
from tests.support.scheduling import DOWN_AFTER, LOADED, UNLOADED, Setup, World

UNABLE = AgentAbilities(version="1.2.3")
ENDED = (EngineLife.ENDED, EngineLife.GIVEN_UP)


class RepairedWorld(World):
    """A world that checks, after each event, the rules of planned restarts by its own account.

    ``planned`` has the numbers of restarts that are planned or under way, by node, and ``ordered``
    those that the agents must carry out.
    """

    def __init__(self, setup: Setup) -> None:
        self.planned: dict[str, int] = {}
        self.ordered: dict[str, int] = {}
        self._begun: dict[str, list[float]] = {}
        self._answered: dict[str, bool] = {}
        super().__init__(setup)

    def tell(self, event: Event) -> tuple[Effect, ...]:
        closed = {name for name, node in self.fleet.nodes.items() if node.closed}
        effects = super().tell(event)
        self.sound = False
        over = {effect.node for effect in effects if isinstance(effect, RestartEnded)}
        for effect in effects:
            if isinstance(effect, Grant):
                assert effect.lease.node not in self._still(closed) - over, effect
        self._check_restarts(effects)
        self.sound = True
        return effects

    def _still(self, closed: set[str]) -> set[str]:
        """Return which nodes that were ``closed`` still are."""
        return {
            name for name in closed if name in self.fleet.nodes if self.fleet.nodes[name].closed
        }

    def _check_restarts(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case RestartPlanned(node, number):
                    assert node not in self.planned, effect
                    self.planned[node] = number
                case StartRestart(node, number):
                    self._check_start(node, number)
                case RestartEnded(node, number):
                    assert number == self.planned.pop(node), effect
                    self.ordered.pop(node, None)
        restarts = list(self.scheduler.restarts)
        assert self.planned == {each.node.name: each.number for each in restarts}
        begun = {each.node.name: each for each in restarts if each.phase is not Phase.DUE}
        self._answered = {
            name: self._answered.get(name, each.node.health in ANSWERING_HEALTH)
            for name, each in begun.items()
        }
        self._check_together()
        for name in self.fleet.nodes:
            self._check_closed(name)

    def _check_start(self, name: str, number: int) -> None:
        node, restart = self.fleet.nodes[name], self.scheduler.restarts.on(name)
        repair = self.scheduler.terms.repair
        assert restart is not None
        assert self.planned[name] == number
        assert node.agent is not None
        assert node.agent.can_restart
        has_ended = node.report is not None and node.report.life in ENDED
        assert not node.leases or restart.cuts or has_ended, f"{node.leases} leases on {name}"
        assert name not in self.running, f"{self.running[name]} is under way"
        times = [at for at in self._begun.get(name, []) if self.now - at < BUDGET_SECONDS]
        assert restart.is_ordered or (repair.automatic and len(times) < repair.restart_budget)
        self._begun[name] = [*times, self.now]
        self.ordered[name] = number

    def _check_together(self) -> None:
        """Check that no two nodes restart together that list a model, unless one was silent.

        A node may list a model only since it was closed.
        """
        names = [name for name, answered in self._answered.items() if answered]
        for name in names:
            for other in names:
                shared = self.setup.listings[name].keys() & self.setup.listings[other].keys()
                listed = [self.fleet.nodes[each].replicas.keys() for each in (name, other)]
                assert name == other or not shared & listed[0] & listed[1], f"{name}, {other}"

    def _check_closed(self, name: str) -> None:
        """Check that a closed node restarts, or loses what it cannot hold."""
        node, restart = self.fleet.nodes[name], self.scheduler.restarts.on(name)
        if restart is not None and restart.is_closed:
            assert node.closed
            assert restart.phase is not Phase.RESTARTING or name in self.ordered
        elif node.closed:
            terms, waiting = self.scheduler.terms.eviction, self.scheduler.waiting
            victim = next_to_go(node, None, waiting, terms, self.now)
            assert name in self.scheduler.swaps or victim is not None, f"{name} stays closed"
        assert not node.awaits_restart or (restart is not None and restart.phase is Phase.DUE)


class RepairMachine(WildMachine):
    """As well agents that come and go, engines that end, and restarts that fail."""

    world: RepairedWorld
    settled_within = 2000.0

    @initialize(
        setup=setups(),
        automatic=st.sampled_from([True, True, True, False]),
        budget=st.integers(1, 3),
        able=st.lists(st.sampled_from([ABLE, ABLE, ABLE, UNABLE, None]), min_size=3, max_size=3),
    )
    def begin(
        self, setup: Setup, automatic: bool, budget: int, able: list[AgentAbilities | None]
    ) -> None:
        repair = RepairTerms(automatic, budget, idle_seconds=20.0, restart_timeout=100.0)
        terms = replace(setup.terms, repair=repair)
        self.world = RepairedWorld(replace(setup, terms=terms))
        self.asked: dict[str, tuple[float, Observation]] = {}
        self.tried: dict[str, list[str]] = {}
        for name, abilities in zip(NODES, able, strict=True):
            if name in self.world.listings and abilities is not None:
                self.world.tell(AgentJoined(name, abilities))

    # Agents.

    @rule(number=NUMBERS, abilities=st.sampled_from([ABLE, ABLE, UNABLE, None]))
    def agent(self, number: int, abilities: AgentAbilities | None) -> None:
        node = self.node(number)
        if abilities is None:
            self.world.tell(AgentLeft(node, "connection lost"))
        else:
            self.world.tell(AgentJoined(node, abilities))

    @rule(number=NUMBERS, life=st.sampled_from([EngineLife.ANSWERS, *ENDED]), down=st.booleans())
    def report(self, number: int, life: EngineLife, down: bool) -> None:
        node = self.node(number)
        for _ in range(DOWN_AFTER if down else 0):
            self.world.poll_failed(node)
        self.world.tell(AgentReported(node, AgentReport(life=life)))

    @precondition(lambda self: self.world.ordered)
    @rule(
        number=NUMBERS,
        state=st.sampled_from([LOADED, LOADED, UNLOADED]),
        course=st.sampled_from(["done", "done", "done first", "unheard", "same", "failed", "late"]),
    )
    def restarted(self, number: int, state: ReplicaState, course: str) -> None:
        """Let an agent restart the engine of its node, or fail to."""
        world = self.world
        node = self.pick(world.ordered, number)
        order = world.ordered[node] - (course == "late")
        if course == "done first":
            world.tell(RestartDone(node, order, 5.0))
        if course in ("done", "done first", "unheard"):
            world.restart(node, state)
        if course in ("done", "same", "late"):
            world.tell(RestartDone(node, order, 5.0))
        if course == "failed":
            world.tell(RestartFailed(node, order, "exit status 1"))

    @rule(number=NUMBERS, now=st.booleans(), cold=st.booleans())
    def order(self, number: int, now: bool, cold: bool) -> None:
        """Do what was planned, or be refused as the plan was."""
        world, node = self.world, self.node(number)
        planned = self.refusal(lambda: world.scheduler.plan_restart(node, world.now))
        refused = self.refusal(lambda: world.wish(RestartWanted(node, now=now, cold=cold)))
        assert refused == planned or (planned is None and not now)

    def refusal(self, wish: Callable[[], object]) -> str | None:
        """Return why a wish is refused, after what time has brought: a refusal brings nothing."""
        self.world.tell(Tick())
        return super().refusal(wish)

    # The end.

    def is_calm(self) -> bool:
        """Whether everybody is answered, and each node takes work."""
        closed = any(node.closed for node in self.world.fleet.nodes.values())
        return not (closed or self.world.waiting)

    def mend(self) -> None:
        """Let engines run, and agents do what they were ordered to."""
        for node in list(self.world.fleet.nodes.values()):
            if node.agent is not None and (node.report is None or node.report.life in ENDED):
                report = AgentReport(life=EngineLife.ANSWERS)
                self.world.tell(AgentReported(node.name, report))
        for name, number in list(self.world.ordered.items()):
            restart = self.world.scheduler.restarts.on(name)
            if restart is not None and restart.phase is Phase.RESTARTING:
                self.world.restart(name, LOADED)
                self.world.tell(RestartDone(name, number, 5.0))


class PropertyTests(SynchronousTestCase):
    def test_restarts(self) -> None:
        """Whatever happens, no restart breaks a rule, and each node is open in the end."""
        run_machine(RepairMachine, 60)
