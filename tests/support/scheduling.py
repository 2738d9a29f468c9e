"""A fleet for tests of the scheduler, and a world that plays its nodes.

The world passes events to a scheduler and records its orders, so that a test can choose their
outcomes. After every event it checks the rules of ``tests.support.scheduling_rules``.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from cortexd.access.requesters import ANYONE, Requester
from cortexd.errors import CortexError, OperationRefused
from cortexd.fleet.breaker import ANSWERED, Outcome
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.footprints import Footprints, LearnedLoad
from cortexd.fleet.nodes import Lease, ModelTerms, NodeTerms, Replica
from cortexd.fleet.reconfiguring import FleetTerms, stays
from cortexd.fleet.states import NodeRemoved, Observation, PollFailure, ReplicaState, SystemInfo
from cortexd.scheduling.events import (
    Abandon,
    Cancel,
    CordonWanted,
    Effect,
    Event,
    Grant,
    LeaseEnded,
    LoadDone,
    LoadFailed,
    LoadWanted,
    Observed,
    PinWanted,
    PollFailed,
    ProbeWanted,
    Reconfigured,
    Reject,
    StartLoad,
    StartUnload,
    Submit,
    Sweep,
    SystemRead,
    Tick,
    UnloadDone,
    UnloadFailed,
    UnloadWanted,
)
from cortexd.scheduling.scheduler import Scheduler
from cortexd.scheduling.terms import SchedulingTerms
from tests.support.scheduling_rules import Rules, words

LOADED, LOADING = ReplicaState.LOADED, ReplicaState.LOADING
UNLOADED, STUCK = ReplicaState.UNLOADED, ReplicaState.STUCK

LOAD_TIMEOUT = 100.0
DOWN_AFTER = 2
SILENT = PollFailure("no answer within 2 s", silent=True)
REFUSED = PollFailure("connection refused", silent=False)

Listing = Mapping[str, ReplicaState]


@dataclass(frozen=True)
class Setup:
    """The initial state of a world: ``listings`` has each node's models, ``sizes`` footprints.

    The footprint of a model outside ``sizes`` is unknown. ``adapters`` maps each adapter to its
    base; a node lists the adapter while the base is loaded.
    """

    nodes: Sequence[NodeTerms]
    listings: Mapping[str, Listing]
    sizes: Mapping[str, int]
    models: Mapping[str, ModelTerms] = field(default_factory=dict)
    terms: SchedulingTerms = field(default_factory=SchedulingTerms)
    learned: Mapping[tuple[str, str], LearnedLoad] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)

    def scheduler(self) -> Scheduler:
        """Return a new scheduler over a fleet before its first poll."""
        fleet = Fleet(
            self.nodes,
            self.models,
            Footprints(lambda node, model: self.sizes.get(model), self.learned),
            default_terms=ModelTerms(capacity=2),
            now=0.0,
            down_after=DOWN_AFTER,
            load_timeout=LOAD_TIMEOUT,
        )
        return Scheduler(fleet, self.terms)


class World:
    """A scheduler, its nodes, and its clients.

    ``listings`` is the true state of the nodes. ``running`` are the unfinished loads and unloads,
    by node; ``leases``, ``errors`` and ``waiting`` show the outcome of each request. ``sound`` is
    true if the last event broke no rule.
    """

    def __init__(self, setup: Setup, now: float = 1000.0) -> None:
        self.setup = setup
        self.now = now
        self.scheduler = setup.scheduler()
        self.fleet = self.scheduler.fleet
        self.rules = Rules(self.scheduler)
        self.listings = {node: dict(listing) for node, listing in setup.listings.items()}
        self.created = dict.fromkeys(self.listings, 1)
        self.journal: list[tuple[float, Event]] = []
        self.effects: list[Effect] = []
        self.running: dict[str, StartLoad | StartUnload] = {}
        self.abandoned: set[str] = set()
        self.leases: dict[str, Lease] = {}
        self.errors: dict[str, CortexError] = {}
        self.grants: dict[str, Grant] = {}
        self._numbers: dict[str, Iterator[int]] = {}
        for node in self.listings:
            self.poll(node)

    # Events.

    def tell(self, event: Event) -> tuple[Effect, ...]:
        """Pass an event to the scheduler, apply its effects, and return them."""
        self.journal.append((self.now, event))
        self.sound = False
        self.rules.before(event, self.now)
        effects = self.scheduler.handle(event, self.now)
        self.effects += effects
        for effect in effects:
            self._follow(effect)
        self.rules.check(event, effects, self.now)
        assert {name: (each.node, each.model) for name, each in self.running.items()} == {
            swap.node.name: (swap.node.name, swap.moving.model)
            for swap in self.scheduler.swaps
            if swap.moving is not None
        }
        self.sound = True
        return effects

    def _follow(self, effect: Effect) -> None:
        match effect:
            case Grant():
                self.leases[effect.lease.request_id] = effect.lease
                self.grants[effect.lease.request_id] = effect
            case Reject():
                self.errors[effect.request_id] = effect.error
            case StartLoad() | StartUnload():
                assert effect.node not in self.running, f"{effect} during {self.running}"
                self.running[effect.node] = effect
                if isinstance(effect, StartLoad):
                    self._hold(effect.node, effect.model, LOADING)
            case Abandon():
                assert effect.model == self.running[effect.node].model
                assert effect.node not in self.abandoned, f"{effect} again"
                self.abandoned.add(effect.node)
            case NodeRemoved():
                self.running.pop(effect.node, None)
                self.abandoned.discard(effect.node)
            case _:
                pass

    def _hold(self, node: str, model: str, state: ReplicaState) -> None:
        if model in self.listings[node]:
            self.listings[node][model] = state

    # The configuration.

    def reconfigure(
        self,
        nodes: Sequence[NodeTerms],
        listings: Mapping[str, Listing] | None = None,
        *,
        models: Mapping[str, ModelTerms] | None = None,
        terms: SchedulingTerms | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> list[str]:
        """Dispatch another configuration, and return the names of the nodes that are new in it.

        ``listings`` has what a new node lists, nothing where it does not answer. What is left out
        stays as in the setup.
        """
        footprints = self.setup.sizes if sizes is None else sizes
        known = self.fleet.nodes
        new = [
            each.name
            for each in nodes
            if each.name not in known or not stays(known[each.name], each)
        ]
        names = {each.name for each in nodes}
        self.listings = {name: self.listings[name] for name in self.listings if name in names}
        polled: dict[str, Observation | PollFailure] = {}
        for name in new:
            listing = (listings or {}).get(name)
            self.listings[name] = dict(listing or {})
            self.created[name] = 1
            polled[name] = SILENT if listing is None else self.observation(name)
        fleet = FleetTerms(
            tuple(nodes),
            self.setup.models if models is None else models,
            ModelTerms(capacity=2),
            lambda node, model: footprints.get(model),
            DOWN_AFTER,
            LOAD_TIMEOUT,
        )
        self.tell(Reconfigured(fleet, terms or self.setup.terms, polled))
        return new

    # Requests.

    def submit(
        self,
        model: str,
        request_id: str | None = None,
        *tried: str,
        only: Collection[str] = (),
        by: Requester = ANYONE,
    ) -> str:
        """Request a replica, and return the request's id: the model's id and a number.

        With ``only`` the replica must be on one of those nodes.
        """
        if request_id is None:
            request_id = f"{model}-{next(self._numbers.setdefault(model, count()))}"
        self.leases.pop(request_id, None)
        self.tell(Submit(request_id, model, tried, frozenset(only) or None, requester=by))
        return request_id

    def probe(self, model: str, node: str) -> str:
        """Ask for a replica for a question of our own, and return the question's id."""
        request_id = f"probe-{next(self._numbers.setdefault('', count()))}"
        self.tell(ProbeWanted(request_id, model, node))
        return request_id

    def cancel(self, request_id: str) -> None:
        self.tell(Cancel(request_id))

    def end(self, *request_ids: str) -> None:
        """End the leases of requests."""
        for request_id in request_ids:
            self.tell(LeaseEnded(self.leases.pop(request_id)))

    def answer(self, *request_ids: str) -> None:
        """End the leases of requests that were answered whole."""
        for request_id in request_ids:
            self.tell(LeaseEnded(self.leases.pop(request_id), ANSWERED))

    def fail(self, *request_ids: str, fault: str = "broke off", **more: Any) -> None:
        """End the leases of requests that the fault of their node has failed."""
        outcome = Outcome(fault=fault, **more)
        for request_id in request_ids:
            self.tell(LeaseEnded(self.leases.pop(request_id), outcome))

    # Outcomes of loads and unloads.

    def _ended(self, node: str) -> str:
        self.abandoned.discard(node)
        return self.running.pop(node).model

    def load_done(
        self,
        node: str,
        footprint_mb: int | None = None,
        seconds: float = 5.0,
        *,
        system: SystemInfo | None = None,
    ) -> None:
        """Complete the load that runs on a node."""
        model = self._ended(node)
        self._hold(node, model, LOADED)
        self.tell(LoadDone(node, model, seconds, footprint_mb, system))

    def load_failed(
        self,
        node: str,
        reason: str = "failed to load model",
        *,
        out_of_memory: bool = False,
        listed: ReplicaState = UNLOADED,
        unreachable: bool = False,
        overdue: bool = False,
        begun: bool = False,
    ) -> None:
        """Fail the load that runs on a node."""
        model = self._ended(node)
        self._hold(node, model, listed)
        self.tell(
            LoadFailed(node, model, reason, out_of_memory, listed, unreachable, overdue, begun)
        )

    def unload_done(
        self, node: str, leaked_mb: int = 0, *, system: SystemInfo | None = None
    ) -> None:
        """Complete the unload that runs on a node."""
        model = self._ended(node)
        self._hold(node, model, UNLOADED)
        self.tell(UnloadDone(node, model, leaked_mb, system))

    def unload_failed(
        self,
        node: str,
        reason: str = "internal error",
        *,
        listed: ReplicaState = LOADED,
        is_unknown: bool = False,
    ) -> None:
        """Fail the unload that runs on a node."""
        model = self._ended(node)
        self._hold(node, model, listed)
        told = LOADED if is_unknown else listed
        self.tell(UnloadFailed(node, model, reason, told, is_unknown))

    def finish(self, node: str) -> None:
        """Complete the operation that runs on a node."""
        if isinstance(self.running[node], StartLoad):
            self.load_done(node)
        else:
            self.unload_done(node)

    def finish_all(self) -> None:
        """Complete loads and unloads until no operation runs."""
        while self.running:
            self.finish(next(iter(self.running)))

    # Observations of nodes.

    def observation(self, node: str) -> Observation:
        """Return the observation of a poll of a node now."""
        listing = dict(self.listings[node])
        bases = {
            adapter: base
            for adapter, base in self.setup.adapters.items()
            if listing.get(base) is LOADED
        }
        listing.update(dict.fromkeys(bases, LOADED))
        return Observation(self.created[node], listing, bases)

    def poll(self, node: str) -> None:
        """Dispatch a poll of a node, sent after all events so far."""
        self.poll_from(node, self.observation(node), math.inf)

    def poll_from(self, node: str, observation: Observation, asked_at: float) -> None:
        """Dispatch a poll of a node with the observation from the time when it was sent."""
        self.tell(Observed(node, observation, asked_at))

    def poll_failed(self, node: str, failure: PollFailure = REFUSED) -> None:
        self.tell(PollFailed(node, failure))

    def drift(self, node: str, **states: ReplicaState | None) -> None:
        """Change a node's models from outside, and dispatch a poll that sees the change."""
        for model, state in states.items():
            self.change(node, model, state)
        self.poll(node)

    def change(self, node: str, model: str, state: ReplicaState | None) -> None:
        """Change a node's model from outside; with ``None`` the node no longer lists it."""
        if state is None:
            self.listings[node].pop(model, None)
        else:
            self.listings[node][model] = state

    def restart(self, node: str, state: ReplicaState = LOADED) -> None:
        """Restart a node with all its models in this state, and dispatch a poll that sees it."""
        self.created[node] += 1
        self.listings[node] = dict.fromkeys(self.listings[node], state)
        self.poll(node)

    def read_system(self, node: str, total_mb: int, free_mb: int) -> None:
        self.tell(SystemRead(node, says(total_mb, free_mb), self.now))

    # Time.

    def wait(self, seconds: float) -> None:
        """Move the time without any event."""
        self.now += seconds

    def pass_time(self, seconds: float) -> None:
        """Move the time, with a tick in every second."""
        for _ in range(int(seconds)):
            self.now += 1.0
            self.tell(Tick())

    def sweep(self) -> tuple[Effect, ...]:
        return self.tell(Sweep())

    # The operator.

    def load(self, model: str, node: str | None = None) -> None:
        self.wish(LoadWanted(model, node))

    def unload(self, model: str, node: str | None = None, *, now: bool = False) -> None:
        self.wish(UnloadWanted(model, node, now))

    def pin(self, model: str, node: str, *, pinned: bool = True) -> None:
        self.wish(PinWanted(model, node, pinned))

    def cordon(self, node: str, *, cordoned: bool = True) -> None:
        self.wish(CordonWanted(node, cordoned))

    def wish(self, event: Event) -> None:
        """Dispatch a wish, and check that a refused wish changes nothing."""
        try:
            self.tell(event)
        except OperationRefused:
            self.rules.check(event, (), self.now)
            self.sound = True
            raise

    # Questions.

    @property
    def waiting(self) -> list[str]:
        """The ids of the waiting requests, the oldest of each model first."""
        return [waiter.request_id for waiter in self.scheduler.waiting]

    def replica(self, node: str, model: str) -> Replica:
        found = self.fleet.replica(node, model)
        assert found is not None, f"{node} does not list {model}"
        return found

    def state(self, node: str, model: str) -> ReplicaState:
        return self.replica(node, model).state

    def started(self) -> list[str]:
        """Return the loads and unloads started so far, as text."""
        verbs: dict[type[Effect], str] = {StartLoad: "load", StartUnload: "unload"}
        return [
            f"{verbs[type(effect)]} {effect.model} on {effect.node}"
            for effect in self.effects
            if isinstance(effect, StartLoad | StartUnload)
        ]

    def of_kind(self, kind: type[Effect]) -> list[Effect]:
        """Return the effects of one kind so far."""
        return [effect for effect in self.effects if isinstance(effect, kind)]


def says(total_mb: int, free_mb: int) -> SystemInfo:
    """Return the system report of a node with this total and free memory."""
    return SystemInfo("0.9.2", total_mb, free_mb)


def replay(world: World) -> list[object]:
    """Return a new scheduler's effects for the journal of a world, in comparable form."""
    scheduler = world.setup.scheduler()
    effects: list[object] = []
    for now, event in world.journal:
        try:
            effects += (words(effect) for effect in scheduler.handle(event, now))
        except OperationRefused:
            continue
    return effects


def setup(
    budgets: Mapping[str, int],
    sizes: Mapping[str, int | None],
    loaded: Mapping[str, Iterable[str]] | None = None,
    *,
    capacity: int = 2,
    pinned: Mapping[str, Iterable[str]] | None = None,
    max_resident: int = 0,
    models: Mapping[str, ModelTerms] | None = None,
    terms: SchedulingTerms | None = None,
) -> Setup:
    """Return a fleet in which every node lists every model, and these are loaded.

    ``sizes`` has each model's footprint, ``None`` where it is unknown.
    """
    loaded = loaded or {}
    return Setup(
        nodes=[
            NodeTerms(
                node,
                f"http://{node}:1234",
                budget,
                max_resident,
                tuple((pinned or {}).get(node, ())),
            )
            for node, budget in budgets.items()
        ],
        listings={
            node: {model: LOADED if model in loaded.get(node, ()) else UNLOADED for model in sizes}
            for node in budgets
        },
        sizes={model: size for model, size in sizes.items() if size is not None},
        models={model: (models or {}).get(model, ModelTerms(capacity=capacity)) for model in sizes},
        terms=terms or SchedulingTerms(),
    )


def one_node(budget: int, loaded: str, capacity: int = 2, **sizes: int) -> World:
    """Return the world of one node with this budget and models of these sizes, some loaded."""
    return World(setup({"ada": budget}, sizes, {"ada": loaded}, capacity=capacity))


def in_use(world: World, *models: str) -> list[str]:
    """Acquire a lease on each model, and return the requests."""
    requests = [world.submit(model) for model in models]
    assert set(requests) <= set(world.leases)
    return requests
