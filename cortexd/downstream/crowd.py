"""The connections to one listener, under limits: which one makes room, which one is turned away."""

from __future__ import annotations

from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

from cortexd.admission.clients import ClientLimits
from cortexd.admission.shedding import RETRY_SECONDS, is_sheddable
from cortexd.dialects.wire.paths import canonical
from cortexd.downstream.targets import without_authority
from cortexd.errors import GatewayBusy
from cortexd.logs import get_logger

FULL: Final = "full"
IDLE: Final = "idle"
OVERLOAD: Final = "overload"

MOST_SEARCHED: Final = 32
"""Among how many idle connections we look for one whose client has read its last answer."""

ROOMY_AGAIN: Final = 0.9
"""Below this share of its limit a listener counts as full no longer."""

log = get_logger("cortexd.http")


class Member(Protocol):
    """A connection in the crowd."""

    @property
    def has_unsent(self) -> bool:
        """Whether bytes of an answer wait for the client to read."""

    def make_room(self) -> None:
        """Close the connection, which is between two requests."""

    def turn_away(self) -> None:
        """Close the connection at once."""


M = TypeVar("M", bound=Member)


class Crowd(Generic[M]):
    """The open ``connections``; those between two requests are ``idle``, longest first.

    ``surplus`` are connections beyond the limit, whose requests are refused. While ``is_shedding``
    is set, all requests that make work are. ``closed`` and ``refused`` count by reason.
    """

    def __init__(self, limits: ClientLimits) -> None:
        self.limits = limits
        self.connections: set[M] = set()
        self.idle: dict[M, None] = {}
        self.surplus: set[M] = set()
        self.is_shedding = False
        self.closed = {IDLE: 0, FULL: 0}
        self.refused = {FULL: 0, OVERLOAD: 0}
        self._is_full = False

    def enter(self, connection: M) -> bool:
        """Take a new connection in; return whether it is one of the surplus.

        Where all places are taken, the longest idle connection makes room.
        """
        limits = self.limits
        is_surplus = self._served() >= limits.clients and not self._evict()
        if is_surplus and len(self.surplus) >= limits.surplus:
            self.closed[FULL] += 1
            connection.turn_away()
            return False
        self.connections.add(connection)
        self.idle[connection] = None
        if is_surplus:
            self.surplus.add(connection)
        return is_surplus

    def leave(self, connection: M) -> None:
        """Forget a connection that is gone."""
        self.connections.discard(connection)
        self.idle.pop(connection, None)
        self.surplus.discard(connection)
        if self._is_full and self._served() < self.limits.clients * ROOMY_AGAIN:
            self._is_full = False
            log.info("clients_fit_again", closed=dict(self.closed), refused=dict(self.refused))

    def objection(self, connection: M, method: bytes, path: bytes) -> GatewayBusy | None:
        """Return why a request is refused because of the load, ``None`` if it is not."""
        if not is_sheddable(method, canonical(without_authority(path.partition(b"?")[0]))):
            return None
        if connection in self.surplus:
            if self._served() < self.limits.clients:
                self.surplus.discard(connection)
            else:
                return self._refused(
                    FULL,
                    f"the gateway serves {self.limits.clients} connections already, as many as it "
                    "may (gateway.max_clients); try again shortly",
                )
        if self.is_shedding:
            return self._refused(
                OVERLOAD,
                "the gateway is overloaded: it has more answers in progress than it can pass on in "
                "time; try again shortly",
            )
        return None

    def _refused(self, reason: str, words: str) -> GatewayBusy:
        self.refused[reason] += 1
        return GatewayBusy(words, retry_after=RETRY_SECONDS)

    def _served(self) -> int:
        return len(self.connections) - len(self.surplus)

    def _evict(self) -> bool:
        if not self._is_full:
            self._is_full = True
            log.warning("clients_full", limit=self.limits.clients, idle=len(self.idle))
        for connection in islice(self.idle, MOST_SEARCHED):
            if not connection.has_unsent and connection not in self.surplus:
                self.connections.discard(connection)
                del self.idle[connection]
                self.closed[IDLE] += 1
                connection.make_room()
                return True
        return False
