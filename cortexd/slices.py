"""Long work in slices: between two slices, the reactor serves others."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, TypeVar

from twisted.internet.task import deferLater

T = TypeVar("T")


async def in_slices(steps: Iterable[T], clock: Any, at_once: int) -> list[T]:
    """Return all that ``steps`` yields, at most ``at_once`` of it in one turn of the reactor.

    Work of one slice begins and ends in the caller's own turn. What the steps read may change
    between two slices. Cancelling ends the work.
    """
    remaining = iter(steps)
    done = list(islice(remaining, at_once))
    size = len(done)
    while size == at_once:
        await deferLater(clock, 0)
        piece = list(islice(remaining, at_once))
        size = len(piece)
        done += piece
    return done
