"""The scheduler under any sequence of events: its rules hold, and everybody gets an answer."""

from collections.abc import Callable, Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import OperationRefused
from cortexd.fleet.footprints import LearnedLoad
from cortexd.fleet.nodes import ModelTerms, NodeTerms
from cortexd.fleet.states import Observation, ReplicaState
from cortexd.scheduling.events import StartLoad, TrialAnswers
from cortexd.scheduling.placement import EvictionTerms
from cortexd.scheduling.terms import SchedulingTerms
from tests.support.scheduling import (
    DOWN_AFTER,
    LOADED,
    LOADING,
    REFUSED,
    SILENT,
    STUCK,
    UNLOADED,
    Setup,
    World,
    replay,
    says,
)
from tests.support.scheduling_rules import words

MODELS = ("m0", "m1", "m2", "m3", "m4", "m5")
NODES = ("ada", "bob", "cyd")
NUMBERS = st.integers(0, 11)
GIB = 1024
FREE = st.integers(0, 30).map(lambda gib: gib * GIB)
"""Of the memory of a node, in MiB, in steps larger than what may be missing unnoticed."""

TOTAL_MB = 30 * GIB
LISTED = st.sampled_from([UNLOADED, UNLOADED, LOADED, LOADED, LOADING, STUCK])

SETTLED_WITHIN = 400.0
"""Seconds in which everybody is answered once no fault happens any more.

Each of six models may wait for its turn at the others, a failed unload keeps a node from one for
60 s, and somebody's load that was under way is waited for, for ``LOAD_TIMEOUT`` seconds.
"""


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    models = MODELS[: draw(st.integers(2, len(MODELS)))]
    nodes = NODES[: draw(st.integers(1, len(NODES)))]
    listings = {
        node: {
            model: draw(st.sampled_from([UNLOADED, UNLOADED, LOADED]))
            for model in models
            if draw(st.integers(0, 3))
        }
        for node in nodes
    }
    return Setup(
        nodes=[
            NodeTerms(
                node,
                f"http://{node}:1234",
                budget_mb=draw(st.sampled_from([10, 20, 30, 40])) * GIB,
                max_resident=draw(st.sampled_from([0, 0, 0, 1, 2])),
                pinned=draw(st.sampled_from([(), (), (), models[:1]])),
            )
            for node in nodes
        ],
        listings=listings,
        sizes={
            model: draw(st.integers(3, 16)) * GIB for model in models if draw(st.integers(0, 4))
        },
        models={
            model: ModelTerms(
                draw(st.integers(1, 2)),
                priority=draw(st.integers(0, 2)),
                ttl=draw(st.sampled_from([0.0, 0.0, 20.0])),
                min_copies=draw(st.sampled_from([0, 0, 0, 1])),
            )
            for model in models
        },
        terms=SchedulingTerms(
            max_queue=draw(st.sampled_from([2, 4])),
            queue_timeout=draw(st.sampled_from([60.0, 1e9])),
            max_wait=30.0,
            defrag_after_cycles=draw(st.sampled_from([0, 3])),
            eviction=EvictionTerms(
                draw(st.sampled_from(["heat", "lru", "priority"])),
                draw(st.sampled_from([0.0, 10.0])),
            ),
        ),
        learned={
            (node, model): LearnedLoad(1, draw(st.integers(3, 12)) * GIB, 0.0, 1, 5.0)
            for node in nodes[:1]
            for model in models
            if not draw(st.integers(0, 4))
        },
        adapters={f"{models[0]}::x": models[0]} if draw(st.booleans()) else {},
    )


class Machine(RuleBasedStateMachine):
    """Requests, the ends of loads and unloads, and time; ``World`` checks the rules."""

    world: World
    settled_within = SETTLED_WITHIN

    @initialize(setup=setups())
    def begin(self, setup: Setup) -> None:
        self.world = World(setup)
        self.asked: dict[str, tuple[float, Observation]] = {}
        self.tried: dict[str, list[str]] = {}

    def pick(self, things: Iterable[str], number: int) -> str:
        choice = list(things)
        return choice[number % len(choice)]

    def node(self, number: int) -> str:
        return self.pick(self.world.listings, number)

    def model(self, number: int) -> str:
        return self.pick(self.world.setup.models, number)

    # Requests.

    @rule(number=NUMBERS)
    def submit(self, number: int) -> None:
        setup = self.world.setup
        self.world.submit(self.pick([*setup.models, *setup.adapters], number))

    @rule(number=NUMBERS, nodes=st.lists(NUMBERS, min_size=1, max_size=2))
    def submit_there(self, number: int, nodes: list[int]) -> None:
        self.world.submit(self.model(number), only=[self.node(node) for node in nodes])

    @rule(numbers=st.lists(NUMBERS, min_size=2, max_size=5))
    def submit_some(self, numbers: list[int]) -> None:
        for number in numbers:
            self.world.submit(self.model(number))

    @rule(number=NUMBERS, node=NUMBERS)
    def probe(self, number: int, node: int) -> None:
        self.world.probe(self.model(number), self.node(node))

    @precondition(lambda self: self.world.leases)
    @rule(number=NUMBERS)
    def lease_ended(self, number: int) -> None:
        self.world.end(self.pick(self.world.leases, number))

    @precondition(lambda self: self.world.leases)
    @rule(number=NUMBERS)
    def answered(self, number: int) -> None:
        self.world.answer(self.pick(self.world.leases, number))

    @precondition(lambda self: self.world.leases)
    @rule()
    def leases_ended(self) -> None:
        self.world.end(*list(self.world.leases))

    @precondition(lambda self: self.world.leases)
    @rule(number=NUMBERS)
    def attempt_failed(self, number: int) -> None:
        """Let a request try again, on a node where it was not yet."""
        request_id = self.pick(self.world.leases, number)
        lease = self.world.leases[request_id]
        tried = self.tried.setdefault(request_id, [])
        tried.append(lease.node)
        self.world.end(request_id)
        self.world.submit(lease.model, request_id, *tried)

    @rule(number=NUMBERS, who=st.sampled_from(["waiting", "waiting", "all", "granted", "unheard"]))
    def cancel(self, number: int, who: str) -> None:
        for request_id in {
            "waiting": self.world.waiting[:1],
            "all": self.world.waiting,
            "granted": list(self.world.leases)[:1],
            "unheard": ["unheard"],
        }[who]:
            self.world.cancel(request_id)

    # What becomes of effects.

    @precondition(lambda self: self.world.running)
    @rule(number=NUMBERS)
    def done(self, number: int) -> None:
        self.world.finish(self.pick(self.world.running, number))

    @precondition(lambda self: self.world.running)
    @rule()
    def all_done(self) -> None:
        self.world.finish_all()

    @precondition(lambda self: self.world.running)
    @rule(number=NUMBERS, measure=st.integers(1, 20), free_mb=st.none() | FREE)
    def done_with_a_measure(self, number: int, measure: int, free_mb: int | None) -> None:
        """Let a load be measured, or an unload leak, and the node say what is free then."""
        node = self.pick(self.world.running, number)
        system = None if free_mb is None else says(TOTAL_MB, free_mb)
        if isinstance(self.world.running[node], StartLoad):
            self.world.load_done(node, measure * GIB, system=system)
        else:
            self.world.unload_done(node, leaked_mb=min(measure, 4) * GIB, system=system)

    # Time.

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 20.0, 31.0, 61.0, 120.0]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    @rule(seconds=st.sampled_from([0, 1, 31, 61]))
    def tick(self, seconds: int) -> None:
        self.world.wait(seconds)
        self.world.pass_time(1)

    @rule(seconds=st.sampled_from([0, 1, 31, 61]))
    def sweep(self, seconds: int) -> None:
        self.world.wait(seconds)
        self.world.sweep()

    # The end.

    def teardown(self) -> None:
        """Once nothing fails any more, everybody is answered; and it all could be told again."""
        if not hasattr(self, "world") or not self.world.sound:
            return
        self.calm_down()
        assert [words(effect) for effect in self.world.effects] == replay(self.world)

    def calm_down(self) -> None:
        world = self.world
        for node, listing in world.listings.items():
            for model, state in listing.items():
                running = world.running.get(node)
                if state is LOADING and (running is None or running.model != model):
                    listing[model] = LOADED
            world.poll(node)
        began = world.now
        while not self.is_calm():
            assert world.now < began + self.settled_within, f"{world.waiting} wait and wait"
            self.mend()
            for node in list(world.running):
                world.finish(node)
            world.end(*list(world.leases))
            world.pass_time(1)
            if not int(world.now - began) % 5:
                for each in world.fleet.nodes.values():
                    world.poll(each.name)
                    # Nothing is missing any more.
                    free_mb = each.budget_mb - each.resident_mb
                    world.read_system(each.name, each.budget_mb, free_mb)
                world.sweep()

    def is_calm(self) -> bool:
        """Whether everybody is answered."""
        return not self.world.waiting

    def mend(self) -> None:
        """Bring what others than the scheduler owe it."""


class WildMachine(Machine):
    """As well all that may go wrong, and an operator; each rule is as likely as any other."""

    # What becomes of effects.

    @precondition(lambda self: self.world.running)
    @rule(
        number=NUMBERS,
        fault=st.sampled_from(["failed", "out_of_memory", "unreachable", "lost", "overdue"]),
    )
    def failed(self, number: int, fault: str) -> None:
        node = self.pick(self.world.running, number)
        if isinstance(self.world.running[node], StartLoad):
            self.world.load_failed(
                node,
                out_of_memory=fault == "out_of_memory",
                listed=LOADING if fault == "overdue" else UNLOADED,
                unreachable=fault in ("unreachable", "lost"),
                begun=fault == "lost",
                overdue=fault == "overdue",
            )
        else:
            self.world.unload_failed(node)

    @precondition(lambda self: self.world.running)
    @rule(number=NUMBERS, listed=LISTED)
    def failed_oddly(self, number: int, listed: ReplicaState) -> None:
        """Let a load or an unload fail, and leave the model in any state."""
        node = self.pick(self.world.running, number)
        if isinstance(self.world.running[node], StartLoad):
            self.world.load_failed(node, listed=listed)
        else:
            self.world.unload_failed(node, listed=listed)

    @precondition(lambda self: self.world.leases)
    @rule(number=NUMBERS, times=st.integers(1, 3), poisoned=st.sampled_from([False, False, True]))
    def node_failed(self, number: int, times: int, poisoned: bool) -> None:
        """Let a node fail requests, which may eject a replica."""
        for request_id in list(self.world.leases)[number : number + times]:
            self.world.fail(request_id, poisoned=poisoned)

    @precondition(lambda self: self.world.leases)
    @rule(number=NUMBERS)
    def trial_answers(self, number: int) -> None:
        """Let the first content of an answer come, which ends the trial of an ejected replica."""
        lease = self.world.leases[self.pick(self.world.leases, number)]
        self.world.tell(TrialAnswers(lease))

    # What polls bring.

    @rule(number=NUMBERS)
    def poll(self, number: int) -> None:
        self.world.poll(self.node(number))

    @rule(number=NUMBERS, is_answer=st.booleans())
    def late_poll(self, number: int, is_answer: bool) -> None:
        """Let a poll bring what was so when it was asked."""
        node = self.node(number)
        if not is_answer:
            self.asked[node] = self.world.now, self.world.observation(node)
        elif node in self.asked:
            asked_at, observation = self.asked.pop(node)
            if observation.created == self.world.created[node]:
                self.world.poll_from(node, observation, asked_at)

    @rule(number=NUMBERS, model=NUMBERS, listed=st.none() | LISTED, seen=st.booleans())
    def drift(self, number: int, model: int, listed: ReplicaState | None, seen: bool) -> None:
        """Let somebody else load, unload, break or remove a model."""
        node, changed = self.node(number), self.model(model)
        running = self.world.running.get(node)
        if running is None or running.model != changed or listed is None:
            self.world.change(node, changed, listed)
        if seen:
            self.world.poll(node)

    @rule(
        number=NUMBERS,
        fault=st.sampled_from(["restart", "unseen", "refused", "silent", "down"]),
        state=st.sampled_from([LOADED, UNLOADED]),
    )
    def fault(self, number: int, fault: str, state: ReplicaState) -> None:
        node = self.node(number)
        self.asked.pop(node, None)
        match fault:
            case "restart":
                self.world.restart(node, state)
            case "unseen":
                self.world.created[node] += 1
            case "refused" | "silent":
                self.world.poll_failed(node, SILENT if fault == "silent" else REFUSED)
            case _:
                for _ in range(DOWN_AFTER):
                    self.world.poll_failed(node)

    @rule(number=NUMBERS, free_mb=FREE)
    def system_read(self, number: int, free_mb: int) -> None:
        for _ in range(2):
            # Twice, or what is missing would seldom be believed.
            self.world.read_system(self.node(number), TOTAL_MB, free_mb)

    # The operator.

    @rule(number=NUMBERS, model=NUMBERS, anywhere=st.booleans())
    def load(self, number: int, model: int, anywhere: bool) -> None:
        """Do what was planned, or be refused as the plan was."""
        wanted, where = self.model(model), None if anywhere else self.node(number)
        scheduler = self.world.scheduler
        planned = self.refusal(lambda: scheduler.plan(wanted, where, self.world.now))
        if planned is not None:
            assert planned == self.refusal(lambda: self.world.load(wanted, where))
            return
        plan = scheduler.plan(wanted, where, self.world.now)
        promised = plan.node, plan.victims, plan.cost, plan.seconds
        self.world.load(wanted, where)

        decision = next(
            each
            for each in scheduler.decisions.about(wanted)
            # Others may follow from it, which give up the same model elsewhere.
            if (each.action, each.model, each.node) == ("load", wanted, plan.node)
        )
        assert promised == (decision.node, decision.victims, decision.cost, decision.seconds)

    def refusal(self, wish: Callable[[], object]) -> str | None:
        """Return why a wish is refused, ``None`` where it is not."""
        try:
            wish()
        except OperationRefused as refused:
            return str(refused)
        return None

    @rule(
        number=NUMBERS,
        model=NUMBERS,
        wish=st.sampled_from(["unload", "unload now", "unload all", "pin", "pin", "cordon"]),
    )
    def wish(self, number: int, model: int, wish: str) -> None:
        """Unload, pin or cordon, or take that back."""
        world, node, model_id = self.world, self.node(number), self.model(model)
        match wish:
            case "pin":
                pinned = model_id not in world.fleet.nodes[node].pins
                refusal = self.refusal(lambda: world.pin(model_id, node, pinned=pinned))
            case "cordon":
                cordoned = not world.fleet.nodes[node].cordoned
                refusal = self.refusal(lambda: world.cordon(node, cordoned=cordoned))
            case _:
                where = None if wish == "unload all" else node
                now = wish == "unload now"
                refusal = self.refusal(lambda: world.unload(model_id, where, now=now))
        assert refusal != ""


def run_machine(machine: type[Machine], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            derandomize=True,
            database=None,
        ),
    )


class PropertyTests(SynchronousTestCase):
    def test_requests(self) -> None:
        """Whatever is asked for in whatever order, the rules hold and everybody is answered."""
        run_machine(Machine, 200)

    def test_faults_and_wishes(self) -> None:
        """So they do, and so everybody is, whatever fails and whatever an operator wants."""
        run_machine(WildMachine, 300)
