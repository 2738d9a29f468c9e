"""Fleets with several copies of a model, and the ends of requests to it."""

from __future__ import annotations

from cortexd.fleet.breaker import Outcome
from cortexd.fleet.learning.prefills import Reading
from cortexd.scheduling.events import LeaseEnded, Submit
from cortexd.scheduling.hints import Hints
from cortexd.scheduling.terms import SchedulingTerms
from tests.support.scheduling import World, setup


def copies(*nodes: str, capacity: int = 4, is_on: bool = True) -> World:
    """Return a world with a copy of model m on each of these nodes."""
    return World(
        setup(
            dict.fromkeys(nodes, 1_000),
            {"m": 10},
            {node: ["m"] for node in nodes},
            capacity=capacity,
            terms=SchedulingTerms(affinity=is_on),
        )
    )


def submit(world: World, hints: Hints, only: str = "") -> str:
    """Request a copy of model m, and return the request's id; with ``only`` on that node."""
    request_id = f"leaning-{len(world.journal)}"
    among = frozenset({only}) if only else None
    world.tell(Submit(request_id, "m", only=among, hints=hints))
    return request_id


def answer(world: World, request_id: str, reading: Reading) -> None:
    """End the lease of a request that was answered whole."""
    ended = LeaseEnded(world.leases.pop(request_id), Outcome(answered=True, reading=reading))
    world.tell(ended)


def leave(world: World, request_id: str, reading: Reading) -> None:
    """End the lease of a request whose client has left."""
    world.tell(LeaseEnded(world.leases.pop(request_id), Outcome(reading=reading)))
