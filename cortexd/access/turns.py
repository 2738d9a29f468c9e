"""Who is next: jobs that wait, each at the turn of the client from which it comes."""

from __future__ import annotations

from collections import deque
from ipaddress import IPv6Address, ip_address
from typing import Final, Generic, TypeVar

MOST: Final = 512
"""How many jobs wait at most; comparing so many keys takes half a minute."""

MOST_EACH: Final = 64
"""How many jobs of one client wait at most, so that it waits for a few seconds itself."""

J = TypeVar("J")


def client_group(host: str) -> str:
    """Return which clients share a turn: an IPv6 client chooses among all addresses of its /64."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    mapped = address.ipv4_mapped
    return str(mapped) if mapped else address.packed[:8].hex()


class Turns(Generic[J]):
    """The jobs that wait; ``take`` gives one of each client in turn."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[J]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, client: str, job: J) -> J | None:
        """Let a job wait. Returns a job that has no room, which may be this one.

        Where all places are taken, the client with the most jobs gives one up, the last.
        """
        waiting = self._waiting.get(client, ())
        if len(waiting) >= MOST_EACH:
            return job
        refused: J | None = None
        if self._count >= MOST:
            longest = max(self._waiting, key=lambda each: len(self._waiting[each]))
            if len(self._waiting[longest]) <= len(waiting) + 1:
                return job
            refused = self._waiting[longest].pop()
            self._count -= 1
        self._waiting.setdefault(client, deque()).append(job)
        self._count += 1
        return refused

    def take(self) -> J | None:
        """Return the job whose turn it is, ``None`` where none waits."""
        for client, waiting in self._waiting.items():
            job = waiting.popleft()
            self._count -= 1
            del self._waiting[client]
            if waiting:
                self._waiting[client] = waiting  # behind all others
            return job
        return None

    def remove(self, client: str, job: J) -> None:
        """Forget a job, if it waits."""
        waiting = self._waiting.get(client, deque())
        if job in waiting:
            waiting.remove(job)
            self._count -= 1
            if not waiting:
                del self._waiting[client]
