"""cortexd's scheduler as a policy: the daemon's own code, with its defaults."""

from __future__ import annotations

from collections.abc import Callable

from bench.simulator.fleets import FleetSpec
from bench.simulator.world import Action, Begin, Load, Refuse, Request, Unload
from cortexd.access.requesters import ANYONE, Requester
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.footprints import Footprints
from cortexd.fleet.nodes import Lease, ModelTerms, NodeTerms
from cortexd.fleet.states import Observation, ReplicaState
from cortexd.scheduling.events import (
    Effect,
    Event,
    Grant,
    LeaseEnded,
    LoadDone,
    Observed,
    Reject,
    StartLoad,
    StartUnload,
    Submit,
    Sweep,
    UnloadDone,
)
from cortexd.scheduling.handlers.sweeps import tick_parts
from cortexd.scheduling.hints import Hints
from cortexd.scheduling.placement import EvictionTerms
from cortexd.scheduling.scheduler import Scheduler
from cortexd.scheduling.terms import SchedulingTerms

SWEEP_SECONDS = 10.0
LOAD_TIMEOUT_SECONDS = 1800.0


def evicting_by(strategy: str) -> Callable[[FleetSpec], CortexPolicy]:
    """Return what makes the policy of another eviction strategy than the daemon's default."""
    terms = SchedulingTerms(eviction=EvictionTerms(strategy=strategy))
    return lambda fleet: CortexPolicy(fleet, terms)


class CortexPolicy:
    """Passes events to the scheduler and its effects to the simulator; `terms` are the scheduler's
    settings, the daemon's defaults if there are none. A client of the trace is a session.

    The scheduler knows footprints as if they were configured, and learns load times. The daemon
    wakes it when a request has waited long enough, the simulator every second.
    """

    def __init__(self, fleet: FleetSpec, terms: SchedulingTerms | None = None) -> None:
        listed: dict[str, dict[str, ReplicaState]] = {name: {} for name in fleet.nodes}
        for model in fleet.models.values():
            for node in model.nodes:
                listed[node][model.id] = ReplicaState.UNLOADED
        state = Fleet(
            [NodeTerms(node.name, "", node.memory_mb) for node in fleet.nodes.values()],
            {model.id: ModelTerms(model.seats) for model in fleet.models.values()},
            Footprints(lambda _, model: fleet.models[model].size_mb, {}),
            default_terms=ModelTerms(1),
            now=0.0,
            down_after=2,
            load_timeout=LOAD_TIMEOUT_SECONDS,
        )
        self.scheduler = Scheduler(state, terms or SchedulingTerms())
        self._requests: dict[str, Request] = {}
        self._leases: dict[int, Lease] = {}
        self._load_began_at: dict[tuple[str, str], float] = {}
        self._swept_at = 0.0
        for name, replicas in listed.items():
            self.scheduler.handle(Observed(name, Observation(1, replicas), 0.0), 0.0)

    def arrive(self, request: Request, now: float) -> list[Action]:
        """Submit the request."""
        name = str(request.number)
        self._requests[name] = request
        hints = Hints(session=request.client)
        submit = Submit(name, request.model, requester=self.requester(request), hints=hints)
        return self._handle(submit, now)

    def requester(self, _request: Request) -> Requester:
        """Return for whom a request is sent: all clients are one requester."""
        return ANYONE

    def begun(self, request: Request, now: float) -> None:
        """Note that a request has its lease."""

    def finished(self, request: Request, now: float) -> list[Action]:
        """Give the lease back."""
        return self._handle(LeaseEnded(self._leases.pop(request.number)), now)

    def loaded(self, node: str, model: str, now: float) -> list[Action]:
        """Report the load."""
        seconds = now - self._load_began_at.pop((node, model))
        return self._handle(LoadDone(node, model, seconds), now)

    def unloaded(self, node: str, model: str, now: float) -> list[Action]:
        """Report the unload, all of whose memory came back."""
        return self._handle(UnloadDone(node, model), now)

    def tick(self, now: float) -> list[Action]:
        """Dispatch a Tick, and at intervals a Sweep."""
        if now - self._swept_at >= SWEEP_SECONDS:
            self._swept_at = now
            return self._handle(Sweep(), now)
        parts = tick_parts(lambda: self.scheduler.is_ticking)
        return [action for part in parts for action in self._handle(part, now)]

    def _decide(self, event: Event, now: float) -> tuple[Effect, ...]:
        """Pass one event to the scheduler, and return the effects."""
        return self.scheduler.handle(event, now)

    def _handle(self, event: Event, now: float) -> list[Action]:
        actions: list[Action] = []
        for effect in self._decide(event, now):
            match effect:
                case Grant(lease):
                    request = self._requests.pop(lease.request_id)
                    self._leases[request.number] = lease
                    self.begun(request, now)
                    actions.append(Begin(request, lease.node))
                case Reject(request_id, error):
                    actions.append(Refuse(self._requests.pop(request_id), error.message))
                case StartLoad(node, model):
                    self._load_began_at[node, model] = now
                    actions.append(Load(node, model))
                case StartUnload(node, model):
                    actions.append(Unload(node, model))
        return actions
