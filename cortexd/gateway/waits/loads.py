"""How far loads are, as clients and operators are told; pure."""

from __future__ import annotations

from typing import NamedTuple

from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Replica
from cortexd.fleet.states import ReplicaState


class LoadProgress(NamedTuple):
    """A load that is under way: its seconds so far, and what is expected of all and of the rest.

    ``total`` and ``rest`` are ``None`` where nothing is known of loads of the model on the node.
    """

    elapsed: float
    total: float | None
    rest: float | None

    @property
    def share(self) -> float | None:
        """How much of the load is done, from 0 to 1; below 1 as long as it goes on."""
        if self.total is None:
            return None
        return min(0.99, self.elapsed / self.total) if self.total > 0 else 0.99


def progress(fleet: Fleet, replica: Replica, now: float) -> LoadProgress | None:
    """Return how far the load of a replica is, ``None`` if it is not being loaded."""
    if replica.state is not ReplicaState.LOADING:
        return None
    elapsed = max(0.0, now - replica.load_began_at)
    total = fleet.footprints.load_seconds(*replica.key)
    return LoadProgress(elapsed, total, None if total is None else max(0.0, total - elapsed))
