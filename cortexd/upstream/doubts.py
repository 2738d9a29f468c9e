"""Asks a node at once whether its process is still the same, when it has closed a connection.

A node closes connections when its process ends, and seldom otherwise: mistral.rs keeps idle ones
open (nodes.md 8.6). Until the next poll we would take a process that has just started for the old
one, and send it requests for models that it has not loaded. It would load them by itself, beside
any load of ours and whatever its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from cortexd.config.addresses import host_and_port
from cortexd.dispatcher import Dispatcher
from cortexd.scheduling.events import ConnectionLost
from cortexd.upstream.client import NodeClient
from cortexd.upstream.connection import LostConnection

MAX_FAILURES = 3
"""After so many failed polls in a row only the regular polls go on."""

_address = lru_cache(maxsize=4096)(host_and_port)


class Doubts:
    """Polls a node with ``poll`` when a connection to it was lost; no request goes there meanwhile.

    A connection that was idle counts once in ``interval`` seconds, because some servers close all
    idle connections after a while. A reload may replace the interval.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        clients: Mapping[str, NodeClient],
        poll: Callable[[NodeClient], Deferred[None]],
        clock: IReactorTime,
        interval: float,
    ) -> None:
        self._dispatcher = dispatcher
        self._clients = clients
        self._poll = poll
        self._clock = clock
        self.interval = interval
        self._asked: set[str] = set()
        self._quiet_until: dict[str, float] = {}

    def lost(self, lost: LostConnection) -> None:
        """Doubt all nodes at the address of a connection that was lost."""
        now = self._clock.seconds()
        for name, node in self._dispatcher.fleet.nodes.items():
            if _address(node.endpoint) != lost.address:
                continue
            if lost.was_idle:
                if now < self._quiet_until.get(name, 0.0):
                    continue
                self._quiet_until[name] = now + self.interval
            self._dispatcher.dispatch(ConnectionLost(name))
            self._ask(name)

    def _ask(self, name: str) -> None:
        client = self._clients.get(name)
        node = self._dispatcher.fleet.nodes[name]
        if client is None or not node.is_doubted or name in self._asked:
            return
        if node.failures >= MAX_FAILURES:
            return  # it closes the connections of polls too, each of which would cause the next
        self._asked.add(name)
        asked_at = self._clock.seconds()
        self._poll(client).addBoth(self._answered, name, asked_at)

    def _answered(self, result: object, name: str, asked_at: float) -> None:
        self._asked.discard(name)
        node = self._dispatcher.fleet.nodes.get(name)
        if node is not None and node.doubted_at > asked_at:
            self._ask(name)  # another connection has ended since
