"""The simulated world: a virtual clock, a fleet that carries out a policy, and the results.

A node loads one model at a time and may unload several at once. A replica answers as many requests
at once as it has seats, each at its own speed, whatever the load. A forbidden action raises
ViolationError: overfilling a node, unloading a model in use, starting a request on a model that is
not loaded or has no free seat, starting two loads on a node.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from bench.simulator.fleets import FleetSpec, ModelSpec

# So long may requests wait while nothing happens at all before they count as given up.
STILLNESS_SECONDS = 3600.0


class ViolationError(Exception):
    """A policy chose a forbidden action."""


@dataclass(frozen=True, slots=True)
class Call:
    """One line of a trace: second, client, model and number of tokens."""

    at: float
    client: str
    model: str
    tokens: int


class Workload(Protocol):
    """The calls of one run."""

    def opening(self) -> Iterator[Call]:
        """Return the calls that do not depend on answers, earliest first."""

    def next_call(self, call: Call, now: float) -> Call | None:
        """Return the client's next call after this one was answered or refused, else `None`."""


@dataclass(frozen=True, slots=True)
class Trace:
    """The requests to a fleet: `start` makes the calls of a run, always the same calls.

    An answer takes `prompt_seconds`, plus its tokens at `tokens_per_second`.
    """

    name: str
    fleet: FleetSpec
    seconds: float
    start: Callable[[], Workload]
    prompt_seconds: float = 0.5
    tokens_per_second: float = 50.0

    def answer_seconds(self, tokens: int) -> float:
        """Return how long an answer of so many tokens takes."""
        return self.prompt_seconds + tokens / self.tokens_per_second


@dataclass(frozen=True, slots=True)
class Request:
    """A call that has arrived."""

    number: int
    client: str
    model: str
    arrived_at: float


@dataclass(frozen=True, slots=True)
class Begin:
    """Let a node answer a request."""

    request: Request
    node: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Send a request away unanswered."""

    request: Request
    reason: str


@dataclass(frozen=True, slots=True)
class Load:
    """Load a model on a node."""

    node: str
    model: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Unload a model from a node."""

    node: str
    model: str


Action = Begin | Refuse | Load | Unload


class Policy(Protocol):
    """A scheduling policy: it receives every event in order, and returns the next actions."""

    def arrive(self, request: Request, now: float) -> Sequence[Action]:
        """Handle the arrival of a request."""

    def finished(self, request: Request, now: float) -> Sequence[Action]:
        """Handle the end of an answer."""

    def loaded(self, node: str, model: str, now: float) -> Sequence[Action]:
        """Handle the end of a load."""

    def unloaded(self, node: str, model: str, now: float) -> Sequence[Action]:
        """Handle the end of an unload, whose memory is free."""

    def tick(self, now: float) -> Sequence[Action]:
        """Handle the passing of time, every second while requests wait, and more rarely or not at
        all while no request does.
        """


@dataclass(slots=True)
class Run:
    """The results of a run: times in seconds, loads with their MiB."""

    arrivals: list[tuple[float, str]] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    waits: list[tuple[str, float]] = field(default_factory=list)
    answered: int = 0
    unanswered: int = 0
    loads: int = 0
    loaded_mb: int = 0
    unloads: int = 0
    wasted_evictions: int = 0
    ended_at: float = 0.0
    decision_ns: dict[str, list[int]] = field(default_factory=dict)

    @property
    def decisions_ns(self) -> list[int]:
        """The CPU time of each decision except ticks, in nanoseconds."""
        kinds = self.decision_ns.items()
        return [took for kind, all_took in kinds if kind != "tick" for took in all_took]

    @property
    def longest_wait(self) -> float:
        """The longest wait of any request that was begun."""
        return max((wait for _, wait in self.waits if wait < inf), default=0.0)


@dataclass(slots=True, eq=False)
class _Replica:
    ready: bool = False
    unloading: bool = False
    running: int = 0


@dataclass(slots=True, eq=False)
class _Node:
    free_mb: int
    loading: str | None = None
    replicas: dict[str, _Replica] = field(default_factory=dict)


class World:
    """One run of a trace under a policy."""

    def __init__(
        self,
        trace: Trace,
        policy: Policy,
        *,
        tick_seconds: float = 1.0,
        idle_tick_seconds: float = inf,
    ) -> None:
        self.now = 0.0
        self.run = Run()
        self._trace = trace
        self._models = trace.fleet.models
        self._policy = policy
        self._tick_seconds = tick_seconds
        self._idle_tick_seconds = idle_tick_seconds
        self._workload = trace.start()
        self._opening = self._workload.opening()
        self._nodes = {name: _Node(node.memory_mb) for name, node in trace.fleet.nodes.items()}
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[Request, Call]] = {}
        self._waiting_for: dict[str, int] = {}
        self._copies: dict[str, int] = {}
        self._evicted_until: dict[str, float] = {}
        self._ticks_at = inf
        self._acted_at = 0.0

    def play(self) -> Run:
        """Run until every request has been answered, or until no progress is possible.

        Raises ViolationError when the policy chooses a forbidden action.
        """
        self._open_next()
        self._tick_within(self._idle_tick_seconds)
        while self._agenda:
            self.now, _, happen = heapq.heappop(self._agenda)
            happen()
        for request, _ in self._waiting.values():
            self._give_up(request)
        self.run.ended_at = self.now
        return self.run

    def load_seconds(self, _node: str, model: ModelSpec) -> float:
        """Return how long a load of a model takes that begins now on a node."""
        return model.load_seconds

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (when, next(self._order), happen))

    # Events.

    def _open_next(self) -> None:
        call = next(self._opening, None)
        if call is not None:
            self._at(call.at, lambda: self._arrive_and_open_next(call))

    def _arrive_and_open_next(self, call: Call) -> None:
        self._open_next()
        self._arrive(call)

    def _arrive(self, call: Call) -> None:
        request = Request(next(self._numbers), call.client, call.model, self.now)
        self.run.arrivals.append((self.now, call.model))
        self._waiting[request.number] = request, call
        self._waiting_for[call.model] = self._waiting_for.get(call.model, 0) + 1
        if self._evicted_until.pop(call.model, -inf) >= self.now:
            self.run.wasted_evictions += 1
        self._ask("arrive", lambda: self._policy.arrive(request, self.now))
        if self._waiting:
            self._tick_within(self._tick_seconds)

    def _finish(self, request: Request, call: Call, node: str) -> None:
        self._nodes[node].replicas[request.model].running -= 1
        self.run.answered += 1
        self._follow(call)
        self._ask("finished", lambda: self._policy.finished(request, self.now))

    def _follow(self, call: Call) -> None:
        following = self._workload.next_call(call, self.now)
        if following is not None:
            self._at(following.at, lambda: self._arrive(following))

    def _loaded(self, node: str, model: str) -> None:
        self._nodes[node].loading = None
        self._nodes[node].replicas[model].ready = True
        self._ask("loaded", lambda: self._policy.loaded(node, model, self.now))

    def _unloaded(self, node: str, model: str) -> None:
        del self._nodes[node].replicas[model]
        self._nodes[node].free_mb += self._models[model].size_mb
        self._ask("unloaded", lambda: self._policy.unloaded(node, model, self.now))

    def _tick_within(self, seconds: float) -> None:
        if self.now + seconds < self._ticks_at:
            self._ticks_at = self.now + seconds
            self._at(self._ticks_at, self._tick)

    def _tick(self) -> None:
        if self.now != self._ticks_at:
            return  # An earlier tick has come instead of this one.
        self._ticks_at = inf
        if not self._waiting and self._idle_tick_seconds == inf:
            return
        self._ask("tick", lambda: self._policy.tick(self.now))
        if self._waiting and (self._agenda or self.now - self._acted_at < STILLNESS_SECONDS):
            self._tick_within(self._tick_seconds)
        elif self._agenda:
            self._tick_within(self._idle_tick_seconds)

    def _ask(self, kind: str, decide: Callable[[], Sequence[Action]]) -> None:
        began = time.process_time_ns()
        actions = decide()
        took = time.process_time_ns() - began
        self.run.decision_ns.setdefault(kind, []).append(took)
        for action in actions:
            self._acted_at = self.now
            match action:
                case Begin(request, node):
                    self._begin(request, node)
                case Refuse(request, _):
                    self._refuse(request)
                case Load(node, model):
                    self._load(node, model)
                case Unload(node, model):
                    self._unload(node, model)

    # Actions of the policy.

    def _violation(self, action: str, wrong: str) -> ViolationError:
        return ViolationError(f"at {self.now:.3f} s the policy wants to {action}: {wrong}")

    def _no_longer_waiting(self, request: Request, action: str) -> Call:
        if request.number not in self._waiting:
            raise self._violation(action, "it does not wait")
        _, call = self._waiting.pop(request.number)
        self._waiting_for[request.model] -= 1
        return call

    def _begin(self, request: Request, node: str) -> None:
        action = f"begin request {request.number} for {request.model} on {node}"
        replica = self._nodes[node].replicas.get(request.model)
        if replica is None or not replica.ready or replica.unloading:
            raise self._violation(action, "the model is not loaded there")
        if replica.running >= self._models[request.model].seats:
            raise self._violation(action, f"all {replica.running} seats are taken")
        call = self._no_longer_waiting(request, action)
        replica.running += 1
        self.run.begun.append(request.model)
        self.run.waits.append((request.model, self.now - request.arrived_at))
        seconds = self._trace.answer_seconds(call.tokens)
        self._at(self.now + seconds, lambda: self._finish(request, call, node))

    def _refuse(self, request: Request) -> None:
        call = self._no_longer_waiting(request, f"refuse request {request.number}")
        self._give_up(request)
        self._follow(call)

    def _give_up(self, request: Request) -> None:
        self.run.unanswered += 1
        self.run.waits.append((request.model, inf))

    def _spec(self, node: str, model: str, action: str) -> ModelSpec:
        spec = self._models[model]
        if node not in spec.nodes:
            raise self._violation(action, "the node does not list it")
        return spec

    def _load(self, name: str, model: str) -> None:
        action = f"load {model} on {name}"
        spec, node = self._spec(name, model, action), self._nodes[name]
        if model in node.replicas:
            raise self._violation(action, "it is not unloaded there")
        if node.loading is not None:
            raise self._violation(action, f"a load of {node.loading} runs there")
        if spec.size_mb > node.free_mb:
            wrong = f"it takes {spec.size_mb} MiB and {node.free_mb} are free"
            raise self._violation(action, wrong)
        node.free_mb -= spec.size_mb
        node.loading = model
        node.replicas[model] = _Replica()
        self._copies[model] = self._copies.get(model, 0) + 1
        self.run.loads += 1
        self.run.loaded_mb += spec.size_mb
        seconds = self.load_seconds(name, spec)
        self._at(self.now + seconds, lambda: self._loaded(name, model))

    def _unload(self, name: str, model: str) -> None:
        action = f"unload {model} from {name}"
        spec, node = self._spec(name, model, action), self._nodes[name]
        replica = node.replicas.get(model)
        if replica is None or not replica.ready or replica.unloading:
            raise self._violation(action, "it is not loaded there")
        if replica.running:
            raise self._violation(action, f"{replica.running} requests run on it")
        replica.unloading = True
        self._copies[model] -= 1
        self.run.unloads += 1
        if not self._copies[model]:
            if self._waiting_for.get(model):
                self.run.wasted_evictions += 1
            else:
                self._evicted_until[model] = self.now + spec.load_seconds
        self._at(self.now + spec.unload_seconds, lambda: self._unloaded(name, model))


def play(trace: Trace, policy: Policy, *, idle_tick_seconds: float = inf) -> Run:
    """Run a trace under a policy to the end, like `World.play`. While no request waits, time passes
    for the policy every `idle_tick_seconds`, by default not at all.
    """
    return World(trace, policy, idle_tick_seconds=idle_tick_seconds).play()
