"""How long one key waits beside another that floods the fleet, and how long it waits alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.figures import percentile
from bench.simulator.cortex import CortexPolicy
from bench.simulator.fleets import FleetSpec, ModelSpec, NodeSpec, seeded
from bench.simulator.world import Call, Request, Trace, play
from cortexd.access.requesters import Priority, Requester

GIB = 1024
PROMPT_SECONDS, TOKENS_PER_SECOND = 0.5, 50.0
TOKENS = (75, 375)
LONGEST_ANSWER = PROMPT_SECONDS + TOKENS[1] / TOKENS_PER_SECOND
MOST_TIMES = 1.5
HOURS = 1.0
FLOOD_CLIENTS = 50
FLOODS_AT = 600.0
"""When the flood begins: the other key has used much by then, and the flood's key nothing."""

HEAD = ("fleet", "keys", "calls", "alone p95 s", "beside p95 s", "longest s", "allowed s", "")
EXPLANATION = f"""\
wait: from arrival to begin, loads included, of the calls after the flood has begun. One key has few
clients; another floods the fleet with {FLOOD_CLIENTS} that pause for 0.1 s. Answers take 2 to 8 s.
Allowed at the 95th percentile is {MOST_TIMES} times what it is alone, or one running answer more
than alone, where that is more: a slot in use cannot be taken away."""


@dataclass(frozen=True, slots=True)
class Group:
    """So many clients with one key, that ask models in turn and pause between their calls."""

    requester: Requester
    clients: int
    models: tuple[str, ...]
    think_seconds: tuple[float, float]
    begins_at: float = 0.0


class Crowd:
    """The calls of several groups, closed-loop."""

    def __init__(self, groups: Sequence[Group], seconds: float, seed: object) -> None:
        self._seconds = seconds
        self._groups: dict[str, Group] = {}
        for group in groups:
            for number in range(group.clients):
                self._groups[f"{group.requester.name}-{number}"] = group
        self._chances = {name: seeded("crowd", seed, name) for name in self._groups}
        self._turns = {name: number for number, name in enumerate(self._groups)}

    def opening(self) -> Iterator[Call]:
        """Give the first call of every client."""
        calls = [self._call(name, group.begins_at) for name, group in self._groups.items()]
        yield from sorted(calls, key=lambda call: call.at)

    def next_call(self, call: Call, now: float) -> Call | None:
        """Give the client's next call, `None` once it would come after the end."""
        following = self._call(call.client, now)
        return following if following.at <= self._seconds else None

    def _call(self, client: str, after: float) -> Call:
        chance, group = self._chances[client], self._groups[client]
        self._turns[client] += 1
        model = group.models[self._turns[client] % len(group.models)]
        at = after + chance.uniform(*group.think_seconds)
        return Call(at, client, model, chance.randint(*TOKENS))


class FairPolicy(CortexPolicy):
    """cortexd's scheduler, for clients with keys; `waits` has those of each key."""

    def __init__(self, fleet: FleetSpec, groups: Sequence[Group]) -> None:
        super().__init__(fleet)
        self.requesters = {group.requester.name: group.requester for group in groups}
        self.waits: dict[str, list[tuple[float, float]]] = {name: [] for name in self.requesters}

    def requester(self, request: Request) -> Requester:
        """Return the requester of a client."""
        return self.requesters[request.client.rpartition("-")[0]]

    def begun(self, request: Request, now: float) -> None:
        """Note how long a request has waited."""
        waited = request.arrived_at, now - request.arrived_at
        self.waits[self.requester(request).name].append(waited)


@dataclass(frozen=True, slots=True)
class Case:
    """A fleet, one key and the other that floods it."""

    fleet_words: str
    keys_words: str
    nodes: int
    room: int
    seats: int
    victim: Group
    flood: Group
    models: int = 1

    def fleet(self) -> FleetSpec:
        """Make nodes that hold `room` models each."""
        names = [f"node-{number}" for number in range(self.nodes)]
        models = [f"m{number}" for number in range(self.models)]
        return FleetSpec(
            {name: NodeSpec(name, self.room * 16 * GIB) for name in names},
            {
                model: ModelSpec(model, 16 * GIB, 20.0, tuple(names), seats=self.seats)
                for model in models
            },
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """The waits of one key, alone and beside the flood, in seconds."""

    case: Case
    alone: list[float]
    beside: list[float]

    @property
    def allowed(self) -> float:
        """The 95th percentile that is allowed beside the flood."""
        alone = percentile(self.alone, 0.95)
        return max(MOST_TIMES * alone, alone + LONGEST_ANSWER)

    @property
    def passes(self) -> bool:
        """Whether the flood delays the key as little as is allowed."""
        return percentile(self.beside, 0.95) <= self.allowed

    def row(self) -> list[str]:
        """Lay out the row of the table."""
        return [
            self.case.fleet_words,
            self.case.keys_words,
            f"{len(self.beside)}",
            f"{percentile(self.alone, 0.95):.1f}",
            f"{percentile(self.beside, 0.95):.1f}",
            f"{max(self.beside):.1f}",
            f"{self.allowed:.1f}",
            "pass" if self.passes else "miss",
        ]


def _waits(case: Case, groups: Sequence[Group], hours: float, seed: object) -> list[float]:
    fleet = case.fleet()
    policy = FairPolicy(fleet, groups)
    seconds = FLOODS_AT + hours * 3600

    def start() -> Crowd:
        return Crowd(groups, seconds, seed)

    trace = Trace("fair", fleet, seconds, start, PROMPT_SECONDS, TOKENS_PER_SECOND)
    play(trace, policy)
    waits = policy.waits[case.victim.requester.name]
    return [wait for at, wait in waits if FLOODS_AT <= at <= seconds]


def measure(case: Case, hours: float = HOURS, seed: object = 1) -> Outcome:
    """Play a case without and with the flood."""
    alone = _waits(case, [case.victim], hours, seed)
    return Outcome(case, alone, _waits(case, [case.victim, case.flood], hours, seed))


def _victim(clients: int, think: tuple[float, float], priority: Priority, *models: str) -> Group:
    return Group(Requester("ann", priority), clients, models or ("m0",), think)


def _flood(priority: Priority, *models: str) -> Group:
    requester = Requester("bob", priority)
    return Group(requester, FLOOD_CLIENTS, models or ("m0",), (0.1, 0.1), FLOODS_AT)


DEFAULT, BULK, INTERACTIVE = Priority.DEFAULT, Priority.BULK, Priority.INTERACTIVE
SAME = "one class"
APART = "interactive beside bulk"

CASES = (
    Case("1 node, 1 slot", SAME, 1, 1, 1, _victim(1, (5, 20), DEFAULT), _flood(DEFAULT)),
    Case(
        "1 node, 1 slot",
        SAME + ", 3 clients",
        1,
        1,
        1,
        _victim(3, (20, 60), DEFAULT),
        _flood(DEFAULT),
    ),
    Case("1 node, 4 slots", SAME, 1, 1, 4, _victim(2, (5, 20), DEFAULT), _flood(DEFAULT)),
    Case("1 node, 32 slots", SAME, 1, 1, 32, _victim(4, (5, 20), DEFAULT), _flood(DEFAULT)),
    Case("3 nodes, 4 slots", SAME, 3, 1, 4, _victim(4, (5, 20), DEFAULT), _flood(DEFAULT)),
    Case(
        "3 nodes, 2 models that fit",
        SAME,
        3,
        2,
        4,
        _victim(4, (5, 20), DEFAULT, "m0", "m1"),
        _flood(DEFAULT, "m0", "m1"),
        2,
    ),
    Case("1 node, 1 slot", APART, 1, 1, 1, _victim(1, (5, 20), INTERACTIVE), _flood(BULK)),
    Case("1 node, 4 slots", APART, 1, 1, 4, _victim(4, (5, 20), INTERACTIVE), _flood(BULK)),
    Case(
        "1 node, 2 models, 1 fits",
        APART,
        1,
        1,
        4,
        _victim(2, (5, 20), INTERACTIVE, "m0"),
        _flood(BULK, "m1"),
        2,
    ),
    Case(
        "1 node, 4 models, 2 fit",
        APART,
        1,
        2,
        4,
        _victim(4, (20, 60), INTERACTIVE, "m0", "m1", "m2"),
        _flood(BULK, "m2", "m3"),
        4,
    ),
)


def table_rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Lay out the table: the head, then one row per case."""
    return [list(HEAD), *(outcome.row() for outcome in outcomes)]
