"""The names under which clients may address the gateway, against DNS rebinding.

A page in a browser may read what its own origin answers. Whoever owns the page's name can let it
resolve to the gateway's address, and the browser then takes the gateway for that origin. Its
requests give the page away in one place: their Host header has the page's name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Final

from twisted.web.http_headers import Headers

ANY: Final = "*"

PRIVATE_SUFFIXES: Final = (".localhost", ".local", ".internal", ".home.arpa", ".lan")
"""Ends of names that no public name server can resolve: RFC 6761 6.3, RFC 6762 3, ICANN board
resolution 2024.07.29.06, RFC 8375 3. The last one is not reserved, but no such domain exists."""

MOST_REMEMBERED: Final = 256
"""How many Host headers we remember: clients use a few, and only an attack uses more."""


class Hosts:
    """The names of the gateway: those of its machine, and the ``configured`` ones.

    A configured name that begins with a dot stands for all names that end so, ANY for each name.
    ``machine`` is the machine's own name. Addresses are always accepted, as are names without a dot
    and names with one of PRIVATE_SUFFIXES: a page cannot have such a name from a public server.
    """

    def __init__(self, configured: Collection[str] = (), machine: str = "") -> None:
        names = [name.lower().removesuffix(".") for name in (*configured, machine) if name]
        self._accepts_any = ANY in names
        self._names = frozenset(name for name in names if not name.startswith("."))
        self._suffixes = (*PRIVATE_SUFFIXES, *(name for name in names if name.startswith(".")))
        self._remembered: dict[bytes, bool] = {}

    def accepts(self, headers: Headers, forwarded: Collection[str] = ()) -> bool:
        """Return whether a request with these headers may be served.

        A request without Host is served, because every browser sends one. ``forwarded`` are the
        hosts for which a trusted proxy says that it got the request: they have to be ours too, as
        the proxy may have put another into Host.
        """
        if self._accepts_any:
            return True
        if forwarded and not all(map(self.names, forwarded)):
            return False
        given = headers.getRawHeaders(b"host")
        if not given:
            return True
        if len(given) > 1:
            return False  # RFC 9112 3.2: a server must refuse it
        known = self._remembered.get(given[0])
        if known is None:
            known = self.names(given[0].decode("latin-1"))
            if len(self._remembered) < MOST_REMEMBERED:
                self._remembered[given[0]] = known
        return known

    def names(self, host: str) -> bool:
        """Return whether the value of a Host header (RFC 9110 7.2) names the gateway."""
        name, brackets, after = host.strip().lower().rpartition("]")
        if not brackets:
            name, _, after = after.partition(":")
        else:
            name, after = name.removeprefix("["), after.removeprefix(":")
        if after and not (after.isascii() and after.isdecimal()):
            return False
        if _is_address(name):
            return True
        name = name.removesuffix(".")
        if not name:
            return not host.strip()
        return "." not in name or name in self._names or name.endswith(self._suffixes)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


EVERY_HOST: Final = Hosts([ANY])
