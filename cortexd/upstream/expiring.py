"""When the certificates of nodes expire."""

from __future__ import annotations

from collections.abc import Mapping

from cortexd.upstream.client import NodeClient
from cortexd.upstream.connections import NodePool


def certificates(pool: NodePool, clients: Mapping[str, NodeClient]) -> dict[str, float]:
    """Return when the certificates of nodes expire, in UNIX time, where that is known."""
    found = {name: pool.not_after(each.endpoint, each.files) for name, each in clients.items()}
    return {name: not_after for name, not_after in found.items() if not_after is not None}
