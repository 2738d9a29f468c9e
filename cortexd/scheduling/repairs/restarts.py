"""The planned restarts under way, at most one for each node, and those of the last hour.

A planned restart goes through these phases, forward only.

===========  =================================================  ====================================
phase        what happens                                       what ends it
===========  =================================================  ====================================
due          the node serves on                                 its window opens
draining     the node is closed: leases and loads end           nothing runs there
restarting   its agent restarts the engine                      the new process answers
trimming     what should not be loaded is unloaded              nothing more need go
loading      the node is open: what is missing is loaded into   nothing more fits
             free memory
===========  =================================================  ====================================

The window of an idle restart opens when nothing has run on the node for a while and nobody waits
for it. That of an urgent one opens at once, except while another node restarts that lists one of
its models. An engine that has ended is restarted at once in any case. ``windows`` has these rules.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Final

from cortexd.fleet.nodes import Node
from cortexd.scheduling.repairs.reasons import Kind, Urgency
from cortexd.text import printable

BUDGET_SECONDS: Final = 3600.0
"""The time in which a node may be restarted ``restart_budget`` times."""

FIRST_PAUSE_SECONDS: Final = 60.0
LONGEST_PAUSE_SECONDS: Final = 3600.0
"""How long after a restart in vain the next one is not planned: doubled with each one in a row."""

MOST_DOUBLINGS: Final = 10

RELAPSE_SECONDS: Final = 60.0
"""A reason that is back so soon shows that the restart for it was in vain."""


class Phase(enum.Enum):
    """The phases of a planned restart, in their order."""

    DUE = "due"
    DRAINING = "draining"
    RESTARTING = "restarting"
    TRIMMING = "trimming"
    LOADING = "loading"


CLOSED_PHASES: Final = frozenset({Phase.DRAINING, Phase.RESTARTING, Phase.TRIMMING})
"""The phases in which the node is closed."""


@dataclass(slots=True, eq=False, repr=False)
class Restart:
    """One planned restart of the engine on ``node``, in its ``phase`` since ``since``.

    ``number`` is that of the decision. ``reason`` is in words, ``kinds`` has it for metrics.
    ``waits_for`` says in words why a restart that is due has not begun. One that ``is_ordered`` is
    an operator's; ``cuts`` is his wish to end leases at once, ``cold`` to load only pinned models.
    ``for_model`` is the model for whose waiting requests the restart is urgent, if it is for that.

    ``wanted`` are the models that were loaded before. With ``spares`` others are unloaded only if
    too much is loaded, because unloads have left memory behind on the node. ``ordered_at`` is when
    the agent got its order, ``done_at`` when it reported the end. ``trimmed_at`` is when trimming
    last went on. ``tried`` are the missing models whose loads have begun.
    """

    node: Node
    number: int
    reason: str
    kinds: tuple[Kind, ...]
    urgency: Urgency
    since: float
    is_ordered: bool = False
    cuts: bool = False
    cold: bool = False
    for_model: str = ""
    phase: Phase = Phase.DUE
    waits_for: str = ""
    closed_at: float = inf
    ordered_at: float = inf
    done_at: float = inf
    trimmed_at: float = -inf
    wanted: frozenset[str] = frozenset()
    spares: bool = False
    tried: set[str] = field(default_factory=set)

    @property
    def is_closed(self) -> bool:
        """Whether the node is closed for it."""
        return self.phase in CLOSED_PHASES

    def enter(self, phase: Phase, now: float) -> None:
        """Go on to a phase."""
        self.phase, self.since = phase, now

    def __repr__(self) -> str:
        return f"<Restart {self.number} of {printable(self.node.name)}: {self.phase.value}>"


class Restarts:
    """The restarts under way, by node; those that have begun in the last hour; failures in a row.

    All rooms may read it.
    """

    def __init__(self) -> None:
        self._by_node: dict[str, Restart] = {}
        self._begun: dict[str, deque[float]] = {}
        self._failures: dict[str, tuple[int, float]] = {}
        self._mended: dict[str, tuple[frozenset[Kind], float]] = {}

    def __iter__(self) -> Iterator[Restart]:
        return iter(list(self._by_node.values()))

    def __len__(self) -> int:
        return len(self._by_node)

    def on(self, node: str) -> Restart | None:
        """Return the restart that is planned or under way on a node, if any."""
        return self._by_node.get(node)

    def awaited_by(self, model: str, only: Collection[str] | None = None) -> Restart | None:
        """Return the restart that a request for a model waits for, on ``only`` these nodes."""
        for restart in self._by_node.values():
            node = restart.node
            is_shut = node.closed or node.awaits_restart
            if is_shut and model in node.replicas and (only is None or node.name in only):
                return restart
        return None

    def add(self, restart: Restart) -> None:
        """Add a restart that is due. Raises KeyError where its node has one already."""
        name = restart.node.name
        if name in self._by_node:
            raise KeyError(f"a restart of node {name} is planned already")
        self._by_node[name] = restart

    def remove(self, restart: Restart) -> None:
        """Remove a restart that ends."""
        del self._by_node[restart.node.name]

    # The last hour.

    def note_begun(self, node: str, now: float) -> None:
        """Note that the engine of a node is restarted."""
        self._begun.setdefault(node, deque()).append(now)

    def begun(self, node: str, now: float) -> int:
        """Return how many restarts of a node have begun in the last hour."""
        times = self._begun.get(node)
        if times is None:
            return 0
        while times and times[0] <= now - BUDGET_SECONDS:
            times.popleft()
        if not times:
            del self._begun[node]
        return len(times)

    # Failures.

    def note_end(self, restart: Restart, now: float, *, failed: bool) -> None:
        """Note that a restart that had begun is over."""
        node = restart.node.name
        self._mended.pop(node, None)
        if failed:
            self._note_vain(node, now)
        elif restart.is_ordered:
            self._failures.pop(node, None)
        else:
            self._mended[node] = frozenset(restart.kinds), now

    def is_fresh(self, node: str, now: float) -> bool:
        """Return whether an automatic restart of a node has just ended well.

        Once that is no longer so, it has helped.
        """
        mended = self._mended.get(node)
        if mended is None:
            return False
        if now - mended[1] < RELAPSE_SECONDS:
            return True
        del self._mended[node]
        self._failures.pop(node, None)
        return False

    def note_reasons(self, node: str, kinds: Collection[Kind], now: float) -> None:
        """Note why a node needs a restart while the last one ``is_fresh``: it may be in vain."""
        before, _ = self._mended[node]
        if not before.isdisjoint(kinds):
            del self._mended[node]
            self._note_vain(node, now)

    def _note_vain(self, node: str, now: float) -> None:
        count, _ = self._failures.get(node, (0, 0.0))
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(count, MOST_DOUBLINGS))
        self._failures[node] = count + 1, now + pause

    def rests_until(self, node: str) -> float:
        """Return until when no restart of a node is planned because the last one was in vain."""
        return self._failures.get(node, (0, -inf))[1]

    def forget(self, node: str) -> None:
        """Forget the failures of a node that has left the configuration."""
        self._failures.pop(node, None)
        self._mended.pop(node, None)
