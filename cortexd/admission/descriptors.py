"""How the open files that a process may have are shared between clients, nodes and the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OWN_FILES: Final = 40
"""Open files of the daemon itself: log, reactor, listeners, stores, a few of cortexctl."""

FILES_OF_A_NODE: Final = 4
"""Connections to a node without a request: a poll, a read of its memory, an order, a probe."""

MOST_METRICS_CLIENTS: Final = 16
"""Prometheus and a few people with curl; each keeps one connection."""

MOST_ACCEPTED: Final = 32
"""Clients that are accepted in one turn: more requests would hold up the answers in progress."""

MOST_REFUSED: Final = 256
"""Clients that are accepted in one turn while all are refused, which is quick. In an overload turns
are long, and few of them would let the queue grow."""

MOST_NEWCOMERS: Final = 256
"""Connections of agents that may wait to be admitted at a time."""

MOST_CLIENTS: Final = 16_384
"""The default limit where files are plenty: a process serves some 1500 streams at a time."""

FEWEST_CLIENTS: Final = 16
"""The limit where files are so few that nothing is left for clients."""


@dataclass(frozen=True, slots=True)
class Shares:
    """How many open files each part of the daemon may use.

    ``clients``          connections of clients that are served
    ``surplus``          connections beyond these, which only learn that the gateway is full
    ``accepted``         clients accepted in one turn, before others made room for them
    ``refused``          the same while requests are refused
    ``metrics_clients``  connections to the metrics listener
    ``newcomers``        connections of agents that are not admitted yet
    ``kept``             idle connections to one node
    ``is_short``         whether there are too few files for ``clients``
    """

    clients: int
    surplus: int
    accepted: int
    refused: int
    metrics_clients: int
    kept: int
    is_short: bool
    newcomers: int = 0


def shares(
    open_files: int, nodes: int, wished: int | None, most_kept: int, *, has_agents: bool = False
) -> Shares:
    """Return the shares of ``open_files`` before ``nodes`` nodes.

    ``wished`` is the configured number of clients, ``most_kept`` the most idle connections to a
    node. Each client may have a request at a node, which takes a second file, and the idle
    connections to all nodes together may be a quarter as many as the clients. With ``has_agents``
    each node may have an agent, which has a connection to us.
    """
    burst = min(MOST_REFUSED, max(4, open_files // 16))
    newcomers = min(MOST_NEWCOMERS, burst) if has_agents else 0
    fixed = OWN_FILES + nodes * (FILES_OF_A_NODE + 1) + MOST_METRICS_CLIENTS + 2 * burst
    fixed += nodes * has_agents + newcomers
    possible = (open_files - fixed) * 4 // 9
    clients = min(possible, MOST_CLIENTS if wished is None else wished)
    wanted = FEWEST_CLIENTS if wished is None else wished
    served = max(clients, min(FEWEST_CLIENTS, wanted))
    return Shares(
        clients=served,
        surplus=burst,
        accepted=min(MOST_ACCEPTED, burst),
        refused=burst,
        metrics_clients=MOST_METRICS_CLIENTS,
        kept=max(1, min(most_kept, served // (4 * max(1, nodes)))),
        is_short=possible < wanted,
        newcomers=newcomers,
    )


def files_needed(nodes: int, clients: int, *, has_agents: bool = False) -> int:
    """Return how many open files are enough for ``clients`` clients before ``nodes`` nodes."""
    fixed = OWN_FILES + nodes * (FILES_OF_A_NODE + 1) + MOST_METRICS_CLIENTS + 2 * MOST_REFUSED
    fixed += (nodes + MOST_NEWCOMERS) * has_agents
    return fixed + -(-clients * 9 // 4)
