"""The proxies in front of the gateway, and the clients behind them.

A proxy connects from its own address, and states in X-Forwarded-For whose request it passes on: it
appends the address of its own peer to what came with the request. So the entries that trusted
proxies wrote are the last ones, and all before them are the client's words.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Final

UNIX: Final = "unix"
"""The host of a peer that came over a UNIX socket."""

MOST_HOPS: Final = 32
"""How many entries are read: no chain of proxies is longer, and a client may send thousands."""

MOST_REMEMBERED: Final = 256
"""How many peers, and how many entries, we remember."""

LONGEST_ENTRY: Final = 80
"""Characters of the longest entry that is read: an IPv6 address with brackets and port has 47."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Proxies:
    """The ``trusted`` proxies: addresses, networks, or UNIX for all peers over UNIX sockets.

    ``send_header`` says that their connections begin with a PROXY header. Raises ValueError for
    another text.
    """

    def __init__(self, trusted: Collection[str] = (), *, send_header: bool = False) -> None:
        self.trusted = tuple(trusted)
        self.send_header = send_header
        self._networks = [ipaddress.ip_network(each) for each in trusted if each != UNIX]
        self._remembered: dict[str, bool] = {}
        self._hops: dict[str, tuple[str, bool] | None] = {}

    def trusts(self, host: str) -> bool:
        """Return whether the peer at a host is a trusted proxy."""
        if not self.trusted:
            return False
        known = self._remembered.get(host)
        if known is None:
            known = self._find(host)
            if len(self._remembered) < MOST_REMEMBERED:
                self._remembered[host] = known
        return known

    def introduces(self, host: str) -> bool:
        """Return whether a connection from a host must begin with a PROXY header."""
        return self.send_header and self.trusts(host)

    def _find(self, host: str) -> bool:
        if host == UNIX:
            return UNIX in self.trusted
        address = _address(host.partition("%")[0])
        return address is not None and self._has(address)

    def _has(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def client(self, peer: str, forwarded: str) -> str:
        """Return the host of the client behind the host ``peer``.

        ``forwarded`` has the values of all X-Forwarded-For, joined by commas. The client is the
        last entry that is not a trusted proxy. An entry that is no address hides the client, and
        then the proxy that wrote it stands for the client.
        """
        if not self.trusts(peer):
            return peer
        client = peer
        for entry in reversed(forwarded.rsplit(",", MOST_HOPS)[-MOST_HOPS:]):
            hop = self._hop(entry)
            if hop is None:
                break
            client, is_proxy = hop
            if not is_proxy:
                break
        return client

    def _hop(self, entry: str) -> tuple[str, bool] | None:
        """Return the address in an entry, and whether it is a trusted proxy's."""
        if len(entry) > LONGEST_ENTRY:
            return None
        try:
            return self._hops[entry]
        except KeyError:  # reading an address takes some 20 us
            address = _entry(entry)
            hop = None if address is None else (str(address), self._has(address))
            if len(self._hops) >= MOST_REMEMBERED:
                self._hops.clear()
            self._hops[entry] = hop
            return hop


def host_text(host: str) -> str:
    """Return a peer's host; an IPv4 address in the form of IPv6 becomes IPv4."""
    if host.startswith("::ffff:"):
        return str(_address(host) or host)
    return host


def _entry(text: str) -> Address | None:
    """Read an entry: an address, with or without a port; an IPv6 address may have brackets."""
    text = text.strip(" \t")
    if text.startswith("["):
        host, bracket, after = text[1:].partition("]")
        has_port = after.startswith(":") and _is_port(after[1:])
        return _address(host) if ":" in host and bracket and (has_port or not after) else None
    host, colon, port = text.partition(":")
    if colon and ":" not in port:
        return _address(host) if _is_port(port) else None
    return _address(text)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= len("65535")


def _address(text: str) -> Address | None:
    """Read an address; one of IPv4 in the form of IPv6 becomes IPv4, and zones are refused."""
    if "%" in text:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


NO_PROXIES: Final = Proxies()
