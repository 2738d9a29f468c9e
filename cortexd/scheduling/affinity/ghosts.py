"""Engines that read prompts for clients that have left: each such *ghost* counts as a busy slot.

mistral.rs notices that a client has left only when it sends the next chunk, so it reads a prompt to
its end first (nodes.md 8.1, 8.2). A ghost ends once the engine has begun an answer to a request
that came after it, since prompts are read in their order; at the latest when the prefill should be
over.
It takes part in the choice of a replica only: a replica that has slots is still granted if no other
is, and nothing waits for a ghost, neither requests nor evictions.

Pure: ``now`` is an argument, in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cortexd.fleet.learning.prefills import Paces, Reading
from cortexd.fleet.leases import count_ghosts
from cortexd.fleet.nodes import Lease, Replica
from cortexd.fleet.states import ANSWERING_STATES

LEAST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 120.0
"""How long a ghost lasts at least and at most from when its client left."""

MOST_GHOSTS: Final = 64
"""How many ghosts an engine has at most: clients choose how often they leave."""


@dataclass(frozen=True, slots=True, eq=False)
class Ghost:
    """A prefill that goes on since ``since``, and should be over ``until``.

    ``lease`` was that of its request. It counts in ``replicas``: an adapter's, and its base's.
    ``stamp`` changes when the engine does.
    """

    lease: Lease
    replicas: tuple[Replica, ...]
    since: float
    until: float
    stamp: tuple[float, int]


class Ghosts:
    """The ghosts of all engines, oldest first; ``Replica.ghosts`` counts those of each replica."""

    def __init__(self) -> None:
        self._by_engine: dict[tuple[str, str], list[Ghost]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_engine)

    @property
    def all(self) -> tuple[Ghost, ...]:
        """Every ghost."""
        return tuple(ghost for ghosts in self._by_engine.values() for ghost in ghosts)

    def on(self, lease: Lease) -> bool:
        """Whether the engine of a lease has ghosts."""
        return _engine(lease) in self._by_engine

    def begin(
        self, lease: Lease, replica: Replica, reading: Reading, paces: Paces, now: float
    ) -> None:
        """Let a request of ``replica`` that has ended leave a ghost."""
        replicas = [replica]
        base = replica.node.replicas.get(replica.base) if replica.base is not None else None
        if base is not None:
            replicas.append(base)
        expected = paces.prefill_seconds(lease.node, lease.model, reading.prompt_tokens)
        if reading.is_whole:
            expected += paces.answer_seconds(lease.node, lease.model)
        left = lease.granted_at + expected - now
        until = now + min(LONGEST_SECONDS, max(LEAST_SECONDS, left))
        ghosts = self._by_engine.setdefault(_engine(lease), [])
        ghost = Ghost(lease, tuple(replicas), now, until, _stamp(replica))
        ghosts.append(ghost)
        for each in replicas:
            count_ghosts(each, 1)
        if len(ghosts) > MOST_GHOSTS:
            self._end(ghosts.pop(0))

    def answered(self, lease: Lease) -> None:
        """End the ghosts before a request whose answer has begun."""
        self._keep(_engine(lease), lambda ghost: ghost.lease.number > lease.number)

    def expire(self, now: float) -> None:
        """End the ghosts that should be over, and those of engines that have gone."""
        for engine in list(self._by_engine):
            self._keep(engine, lambda ghost: now < ghost.until and _lives(ghost))

    def _keep(self, engine: tuple[str, str], keeps: Callable[[Ghost], bool]) -> None:
        ghosts = self._by_engine.get(engine)
        if ghosts is None:
            return
        kept: list[Ghost] = []
        for ghost in ghosts:
            if keeps(ghost):
                kept.append(ghost)
            else:
                self._end(ghost)
        if kept:
            self._by_engine[engine] = kept
        else:
            del self._by_engine[engine]

    def _end(self, ghost: Ghost) -> None:
        for replica in ghost.replicas:
            count_ghosts(replica, -1)


def _engine(lease: Lease) -> tuple[str, str]:
    return lease.node, lease.base or lease.model


def _stamp(replica: Replica) -> tuple[float, int]:
    return replica.loaded_at, replica.node.restarts


def _lives(ghost: Ghost) -> bool:
    engine = ghost.replicas[-1]
    is_up = engine.listed in ANSWERING_STATES and engine.is_listed
    return is_up and _stamp(ghost.replicas[0]) == ghost.stamp
