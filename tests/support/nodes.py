"""Fleets in a given state, for tests of decisions over them."""

from collections.abc import Collection, Mapping

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.footprints import Footprints, LearnedLoad
from cortexd.fleet.nodes import ModelTerms, NodeTerms, Replica
from cortexd.fleet.states import (
    NodeHealth,
    Observation,
    Operation,
    PollFailure,
    ReplicaState,
    SystemInfo,
)

LOADED, LOADING = ReplicaState.LOADED, ReplicaState.LOADING
UNLOADED, STUCK = ReplicaState.UNLOADED, ReplicaState.STUCK
DRAINING, UNLOADING = ReplicaState.DRAINING, ReplicaState.UNLOADING
UNKNOWN, UP = NodeHealth.UNKNOWN, NodeHealth.UP
BUSY_LOADING, DOWN = NodeHealth.BUSY_LOADING, NodeHealth.DOWN
LOAD, DRAIN, UNLOAD = Operation.LOAD, Operation.DRAIN, Operation.UNLOAD

LISTED_STATES = (LOADED, LOADING, UNLOADED, STUCK)
"""The states that a node's own listing has."""

LOAD_TIMEOUT = 100.0
BUDGET_MB = 24_000
SILENT = PollFailure("no answer within 2 s", silent=True)
REFUSED = PollFailure("connection refused", silent=False)
NOTHING: Mapping[str, int] = {}

Listing = Mapping[str, ReplicaState]


def seen(created: int | None = 100, **replicas: ReplicaState) -> Observation:
    """Return a poll's observation of a process that started at ``created``."""
    return Observation(created, replicas)


def memory(used_mb: int, total_mb: int = BUDGET_MB) -> SystemInfo:
    """Return the system report of a node with this much memory in use."""
    return SystemInfo("0.9.2", total_mb, total_mb - used_mb)


def make_fleet(
    *nodes: NodeTerms | str,
    sizes: Mapping[str, int] = NOTHING,
    learned: Mapping[tuple[str, str], LearnedLoad] | None = None,
    models: Mapping[str, ModelTerms] | None = None,
    capacity: int = 4,
    down_after: int = 1,
    now: float = 0.0,
) -> Fleet:
    """Return a fleet before its first poll; ``sizes`` are its known footprints."""
    return Fleet(
        [
            NodeTerms(node, f"http://{node}:1234", BUDGET_MB) if isinstance(node, str) else node
            for node in nodes
        ],
        models or {},
        Footprints(lambda _, model: sizes.get(model), learned or {}),
        default_terms=ModelTerms(capacity),
        now=now,
        down_after=down_after,
        load_timeout=LOAD_TIMEOUT,
    )


def fleet_of(
    listings: Mapping[str, Listing | None],
    *,
    sizes: Mapping[str, int] = NOTHING,
    learned: Mapping[tuple[str, str], LearnedLoad] | None = None,
    models: Mapping[str, ModelTerms] | None = None,
    capacity: int = 4,
    budget_mb: int | Mapping[str, int] = BUDGET_MB,
    max_resident: int = 0,
    pinned: Mapping[str, tuple[str, ...]] | None = None,
    unmanaged: Collection[str] = (),
    now: float = 0.0,
) -> Fleet:
    """Return a fleet of nodes that list these models; a node with ``None`` refuses connections.

    The nodes in ``unmanaged`` load and unload models by themselves.
    """
    fleet = make_fleet(
        *(
            NodeTerms(
                name,
                f"http://{name}:1234",
                budget_mb if isinstance(budget_mb, int) else budget_mb[name],
                max_resident,
                (pinned or {}).get(name, ()),
                name not in unmanaged,
            )
            for name in listings
        ),
        sizes=sizes,
        learned=learned,
        models=models,
        capacity=capacity,
        now=now,
    )
    for name, listing in listings.items():
        if listing is None:
            fleet.fail(name, REFUSED, now)
        else:
            fleet.observe(name, Observation(100, listing), now)
    return fleet


def replica_on(fleet: Fleet, node: str, model: str) -> Replica:
    """Return a replica that must exist."""
    return fleet.nodes[node].replicas[model]


def states_on(fleet: Fleet, node: str) -> dict[str, ReplicaState]:
    """Return the state of each model of a node."""
    return {model: replica.state for model, replica in fleet.nodes[node].replicas.items()}
