"""How far loads are, as clients and operators are told; pure."""

from __future__ import annotations

from typing import NamedTuple

from cortexd.fleet.nodes import Replica
from cortexd.fleet.states import ReplicaState
from cortexd.scheduling.estimating.coming import until
from cortexd.scheduling.scheduler import Scheduler


class LoadProgress(NamedTuple):
    """A load that is under way: its seconds so far, and what is expected of all and of the rest.

    ``is_measured``: such loads have been seen before, so that nothing is assumed.
    """

    elapsed: float
    total: float
    rest: float
    is_measured: bool

    @property
    def share(self) -> float:
        """How much of the load is done, from 0 to 1; below 1 as long as it goes on."""
        total = self.elapsed + self.rest
        return min(0.99, self.elapsed / total) if total > 0 else 0.99


def progress(scheduler: Scheduler, replica: Replica, now: float) -> LoadProgress | None:
    """Return how far the load of a replica is, ``None`` if it is not being loaded."""
    if replica.state is not ReplicaState.LOADING:
        return None
    elapsed = max(0.0, now - replica.load_began_at)
    load = scheduler.expect_load(replica, replica.load_began_at)
    end = until(replica.load_began_at, load.seconds, now)
    return LoadProgress(elapsed, load.seconds, max(0.0, end - now), load.is_measured)
