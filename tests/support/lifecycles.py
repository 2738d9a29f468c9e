"""Loads and unloads at nodes, for tests that record how they end."""

from dataclasses import replace
from typing import Any

from twisted.python.failure import Failure

from cortexd.fleet.states import NodeHealth, ReplicaState, SystemInfo
from cortexd.scheduling.events import (
    Event,
    LoadDone,
    LoadFailed,
    LoadWanted,
    UnloadDone,
    UnloadFailed,
    UnloadWanted,
)
from cortexd.testing import SimulatedModel, SimulatedNode
from tests.support.fleets import MODEL, FleetTestCase, InMemoryFleet

COLD = "acme/cold"
STATUS, RELOAD, UNLOAD = (f"/v1/models/{operation}" for operation in ("status", "reload", "unload"))
SYSTEM = "/v1/system/info"
METRICS = "/metrics"
LOAD_SECONDS = 60.0
COLD_MB = 4_000
MEMORY_MB = 24_576


def cold(**fields: Any) -> SimulatedModel:
    return SimulatedModel(
        **{
            "id": COLD,
            "loaded": False,
            "load_seconds": LOAD_SECONDS,
            "size_mb": COLD_MB,
            **fields,
        }
    )


def says(free_mb: int) -> SystemInfo:
    """Return a simulated node's system report while this much memory is free."""
    return SystemInfo("0.9.2", MEMORY_MB, free_mb)


class LifecycleTestCase(FleetTestCase):
    """``ends`` are the events that report the ends of operations, oldest first.

    ``systems`` are the nodes' system reports at the ends of successful operations.
    """

    def setUp(self) -> None:
        super().setUp()
        self.ends: list[Event] = []
        self.systems: list[SystemInfo | None] = []

    def fleet_of(self, *nodes: Any, **settings: Any) -> InMemoryFleet:
        fleet = self.fleet(*nodes, **settings)
        self.listen(fleet)
        return fleet

    def listen(self, fleet: InMemoryFleet) -> None:
        handle = fleet.scheduler.handle

        def listening(event: Event, now: float) -> Any:
            if isinstance(event, LoadDone | UnloadDone):
                self.systems.append(event.system)
                self.ends.append(replace(event, system=None))
            elif isinstance(event, LoadFailed | UnloadFailed):
                self.ends.append(event)
            return handle(event, now)

        self.patch(fleet.scheduler, "handle", listening)

    def load(self, fleet: InMemoryFleet, model: str = COLD, node: str | None = None) -> None:
        fleet.dispatcher.dispatch(LoadWanted(model, node))
        fleet.flush()

    def unload(self, fleet: InMemoryFleet, model: str = MODEL, **wish: Any) -> None:
        fleet.dispatcher.dispatch(UnloadWanted(model, **wish))
        fleet.flush()

    def state(self, fleet: InMemoryFleet, model: str = COLD, node: str = "a") -> ReplicaState:
        replica = fleet.fleet.replica(node, model)
        assert replica is not None
        return replica.state

    def health(self, fleet: InMemoryFleet, node: str = "a") -> NodeHealth:
        return fleet.fleet.nodes[node].health

    def assert_at_rest(self, fleet: InMemoryFleet) -> None:
        """Assert that no operation is in progress, in the scheduler or here."""
        assert {} == fleet.scheduler.swaps.nodes
        assert {} == fleet.lifecycle._operations

    def assert_never_bricked(self, *nodes: SimulatedNode) -> None:
        for node in nodes:
            assert 0 == node.journal.report().wrong_reloads


def reload_behind_our_back(node: SimulatedNode, model: str = COLD) -> None:
    def ignore(failure: Failure) -> None:
        """Ignore a failure, because the test does not wait for its operation."""

    node.running_process.reload(model).addErrback(ignore)


def break_newest_connection(fleet: InMemoryFleet, node: str = "a") -> None:
    fleet.node_ends(node)[-1].abortConnection()
    fleet.flush()
