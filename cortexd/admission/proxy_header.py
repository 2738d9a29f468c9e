"""The PROXY header, versions 1 and 2: whose connection a proxy passes on.

It comes before all other bytes of the connection, those of TLS included. The source is HAProxy's
specification, "The PROXY protocol, versions 1 & 2", of 2020/03/05. A daemon that has handed
over writes the same header for the connections that it passes on, with a token in a field of its
own.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from cortexd.admission.proxies import UNIX

VERSION_1: Final = b"PROXY "
LONGEST_1: Final = 107
"""Bytes of the longest line of version 1, its end included."""

VERSION_2: Final = b"\r\n\r\n\0\r\nQUIT\n"
HEAD_2: Final = 16
"""Bytes of version 2 before its addresses: the signature, command, family, and length."""

LONGEST_2: Final = 4096
"""Bytes of the longest header of version 2 that we read: a proxy may add a client's certificate."""

_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
_FAMILIES: Final = frozenset({0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32})
_ADDRESS_BYTES: Final = {0x00: 0, 0x10: 12, 0x20: 36, 0x30: 216}
_TOKEN: Final = 0xE0
"""The first type of field that programs may give a meaning of their own."""


class ProxyHeaderError(Exception):
    """Raised for bytes that begin no PROXY header; the message says what is wrong with them."""


class ProxyHeader(NamedTuple):
    """A header: host and port of the client, or ``None`` where the connection is the proxy's own.

    ``rest`` are the bytes after the header, and ``token`` is that of a daemon that has handed over.
    """

    source: tuple[str, int] | None
    rest: bytes
    token: bytes = b""

    def has_token_of(self, tokens: Collection[bytes]) -> bool:
        """Return whether the header has one of these tokens."""
        return any(hmac.compare_digest(self.token, token) for token in tokens if token)


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """Return the header at the beginning of a connection, ``None`` while it is not whole.

    Raises ProxyHeaderError as soon as the bytes can become no header.
    """
    if data[: len(VERSION_2)] == VERSION_2[: len(data)]:
        return _read_2(data)
    if data[: len(VERSION_1)] == VERSION_1[: len(data)]:
        return _read_1(data)
    raise ProxyHeaderError("it does not begin with a PROXY header")


def _read_1(data: bytes) -> ProxyHeader | None:
    line, end, rest = data[:LONGEST_1].partition(b"\r\n")
    if not end:
        if len(data) >= LONGEST_1:
            raise ProxyHeaderError(f"its PROXY header is longer than {LONGEST_1} bytes")
        return None
    rest = data[len(line) + len(end) :]
    words = line.decode("latin-1").split(" ")
    if words[1] == "UNKNOWN":
        return ProxyHeader(None, rest)
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise _malformed()
    kind = ipaddress.IPv4Address if words[1] == "TCP4" else ipaddress.IPv6Address
    try:
        source, _ = kind(words[2]), kind(words[3])
    except ValueError:
        raise _malformed() from None
    if "%" in words[2]:
        raise _malformed()
    port, _ = _port(words[4]), _port(words[5])
    return ProxyHeader((_plain(source), port), rest)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 0xFFFF):
        raise _malformed()
    return int(text)


def _read_2(data: bytes) -> ProxyHeader | None:
    if len(data) < HEAD_2:
        return None
    command, family, length = data[12], data[13], int.from_bytes(data[14:HEAD_2])
    if command not in (_LOCAL, _PROXY) or family not in _FAMILIES:
        raise ProxyHeaderError("its PROXY header has a version, command or family that is unknown")
    end = HEAD_2 + length
    if end > LONGEST_2:
        raise ProxyHeaderError(f"its PROXY header is longer than {LONGEST_2} bytes")
    if len(data) < end:
        return None
    addresses, rest = data[HEAD_2:end], data[end:]
    if command == _LOCAL:
        return ProxyHeader(None, rest)
    fields = _ADDRESS_BYTES[family & 0xF0]
    if length < fields:
        raise _malformed()
    source = None
    if family == _TCP4:
        host4 = ipaddress.IPv4Address(addresses[:4])
        source = _plain(host4), int.from_bytes(addresses[8:10])
    elif family == _TCP6:
        host6 = ipaddress.IPv6Address(addresses[:16])
        source = _plain(host6), int.from_bytes(addresses[32:34])
    token = next((value for kind, value in _fields(addresses[fields:]) if kind == _TOKEN), b"")
    return ProxyHeader(source, rest, token)


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        end = 3 + int.from_bytes(data[1:3])
        if len(data) < end:
            raise _malformed()
        yield data[0], data[3:end]
        data = data[end:]


def _malformed() -> ProxyHeaderError:
    return ProxyHeaderError("its PROXY header is malformed")


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return str(getattr(address, "ipv4_mapped", None) or address)


def write_proxy_header(host: str, port: int, token: bytes) -> bytes:
    """Return the header, of version 2, for the connection of a client; ``host`` may be UNIX."""
    family, addresses = 0x00, b""
    if host != UNIX:
        address = ipaddress.ip_address(host.partition("%")[0])
        family = _TCP4 if address.version == 4 else _TCP6
        ports = port.to_bytes(2) + bytes(2)
        addresses = address.packed + bytes(len(address.packed)) + ports
    content = addresses + bytes([_TOKEN]) + len(token).to_bytes(2) + token
    return VERSION_2 + bytes([_PROXY, family]) + len(content).to_bytes(2) + content
