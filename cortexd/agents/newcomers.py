"""The connections that have not been admitted yet, and which of them makes room: pure.

Whoever reaches the listener may open connections and be silent. Each takes memory until its time is
over, so only so many may be there at a time, and only some of them from one peer. The oldest makes
room, because a true agent is admitted within a moment.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

SHARE_OF_PEER: Final = 4
"""One peer may have a fourth of the connections, or one at least."""

C = TypeVar("C", bound=Hashable)


class Newcomers(Generic[C]):
    """The connections that wait to be admitted, oldest first, at most ``most`` of them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._peers: dict[C, str] = {}
        self._by_peer: dict[str, dict[C, None]] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[C]:
        return iter(self._peers)

    def enter(self, connection: C, peer: str) -> C | None:
        """Take a connection in; return the one that must make room, ``None`` if there is room.

        The one that makes room is not waiting any more.
        """
        of_peer = self._by_peer.get(peer, {})
        leaving: C | None = None
        if len(of_peer) >= max(1, self.most // SHARE_OF_PEER):
            leaving = next(iter(of_peer))
        elif len(self._peers) >= max(1, self.most):
            leaving = next(iter(self._peers))
        if leaving is not None:
            self.leave(leaving)
        self._peers[connection] = peer
        self._by_peer.setdefault(peer, {})[connection] = None
        return leaving

    def leave(self, connection: C) -> bool:
        """Forget a connection that was admitted, or is gone; return whether it was waiting."""
        peer = self._peers.pop(connection, None)
        if peer is None:
            return False
        of_peer = self._by_peer[peer]
        del of_peer[connection]
        if not of_peer:
            del self._by_peer[peer]
        return True
