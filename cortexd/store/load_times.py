"""How long loads took, by node and model, in the state's file."""

from __future__ import annotations

from collections.abc import Mapping

from cortexd.fleet.learning.load_times import LoadTime
from cortexd.fleet.learning.timing import Timing
from cortexd.fleet.nodes import ReplicaKey
from cortexd.store.journal import Store
from cortexd.store.statements import PUT_LOAD_TIME, SELECT_LOAD_TIMES


def put_load_time(store: Store, node: str, model: str, known: LoadTime) -> None:
    """Store what loads of a model on a node took, in place of what was known before.

    Raises sqlite3.IntegrityError for a NaN.
    """
    timings = [
        value
        for each in (known.cold, known.warm)
        for value in (each.count, float(each.mean), float(each.variance))
    ]
    values = (node, model, *timings, known.process)
    store.write({("load_time", node, model): (PUT_LOAD_TIME, values)})


def load_times(store: Store) -> Mapping[ReplicaKey, LoadTime]:
    """Return what loads took, by node and model; what is not written yet is not among it."""
    return {
        (node, model): LoadTime(Timing(*timings[:3]), Timing(*timings[3:]), process)
        for node, model, *timings, process in store.rows((SELECT_LOAD_TIMES, ()))
    }
