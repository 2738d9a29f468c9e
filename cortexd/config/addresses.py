"""Addresses as people write them: where to listen, where a node is, where a socket lies.

What is refused is refused by ValueError, with what was found and what is allowed in one line.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, Final
from urllib.parse import urlsplit

from msgspec import Meta

# sockaddr_un.sun_path is 108 bytes on Linux, the closing NUL included (unix(7)).
LONGEST_SOCKET_PATH: Final = 107
HIGHEST_PORT: Final = 65535
EVERY_IPV4: Final = "0.0.0.0"  # noqa: S104 -- compared with, not bound
# A longer value is cut in messages, so that they stay one readable line.
LONGEST_SHOWN: Final = 60

ABSOLUTE_PATH: Final = "an absolute path"
ENDPOINT: Final = 'an http:// or https:// URL of host and port only, such as "http://10.0.0.7:8080"'
LISTEN: Final = (
    'ADDRESS:PORT such as "127.0.0.1:8000", "[::1]:8000" or ":8000" with a port of 0 to 65535, '
    'or a Twisted endpoint such as "systemd:domain=INET:name=http"'
)
SOCKET_PATH: Final = f"an absolute path of at most {LONGEST_SOCKET_PATH} bytes"

ADDRESS_AND_PORT: Final = re.compile(
    r"(?:\[(?P<v6>.+)\]|(?P<v4>[0-9.]*|localhost)):(?P<port>[0-9]{1,5})"
)
# The endpoint types Twisted listens on by itself; what starts otherwise is taken for ADDRESS:PORT.
ENDPOINT_DESCRIPTION: Final = re.compile(r"(?:tcp|tcp6|ssl|tls|unix|systemd|haproxy):.+")
# What resolvers take (RFC 1035, 2.3.4, has the lengths), and what a certificate can be for.
LONGEST_HOST_NAME: Final = 253
HOST_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
CERTIFIED_LABEL: Final = re.compile(r"(?!(?!xn)..--)[a-z0-9]([a-z0-9-]*[a-z0-9])?")
UNIX_DESCRIPTION: Final = re.compile(r"unix:(?:address=)?(?P<path>(?:\\.|[^:\\])*)(?::.*)?")


# ---------------------------------------------------------------------- what a message shows


def one_line(text: str) -> str:
    """Return a text with what would break a line or hide in a terminal escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable(text: str) -> str:
    """Return a text on one line, cut where it is too long for a message."""
    return one_line(text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "...")


def quoted(text: str) -> str:
    """Return a text as `printable` does, in the quotes it has in a file."""
    return f'"{printable(text)}"'


def refusal(found: str, expected: str) -> ValueError:
    """Return the error for a value, already as a message shows it, and what is allowed instead."""
    return ValueError(f"found {found}, expected {expected}")


def parsed(expected: str, parse: Callable[[str], str]) -> Meta:
    """Bound a string by a function that returns it in its final form or raises ValueError."""
    return Meta(extra={"noun": expected, "parse": parse})


def only(expected: str, holds: Callable[[str], object]) -> Meta:
    """Bound a string by a condition."""

    def parse(value: str) -> str:
        if not holds(value):
            raise refusal(quoted(value), expected)
        return value

    return parsed(expected, parse)


# ---------------------------------------------------------------------- paths


def _is_absolute_path(value: str) -> bool:
    return value.startswith("/") and value.isprintable()


def socket_path(value: str) -> str:
    """Return the path of a UNIX socket unchanged; ValueError if it is relative or too long to bind.

    Relative paths are refused because a daemon changes its directory.
    """
    if not _is_absolute_path(value):  # a lone surrogate, which has no bytes, is not printable
        raise refusal(quoted(value), SOCKET_PATH)
    if (length := len(value.encode())) > LONGEST_SOCKET_PATH:
        raise refusal(f"{quoted(value)} of {length} bytes", SOCKET_PATH)
    return value


# ---------------------------------------------------------------------- nodes


def _url_host(host: str) -> str | None:
    """Return a host as a URL writes it, or None if it is neither a name nor an IP address.

    A name may have what resolvers take and domains may not, such as "gpu_1"; but one whose last
    part is a number would be an IPv4 address (https://url.spec.whatwg.org/#ends-in-a-number-checker).
    """
    if ":" in host:
        return f"[{ipaddress.IPv6Address(host)}]" if "%" not in host else None
    if not HOST_NAME.fullmatch(host) or len(host) > LONGEST_HOST_NAME:
        return None
    if host.removesuffix(".").rpartition(".")[2].isdecimal():
        return str(ipaddress.IPv4Address(host))
    return host


def _may_be_certified(host: str) -> bool:
    labels = host.removesuffix(".").split(".")
    return host.startswith("[") or all(map(CERTIFIED_LABEL.fullmatch, labels))


def node_endpoint(value: str) -> str:
    """Return a node's URL without trailing slash and with its host in lower case.

    Raises ValueError for what is not an http:// or https:// URL of a host and perhaps a port; a
    user name or password in it is not repeated.
    """
    # urlsplit drops tabs and line ends without a word, so they are looked for before it.
    if "@" in value:
        raise refusal("a URL with a user name", ENDPOINT)  # or a password
    if not value.isprintable() or set(" ?#\\") & set(value):
        raise refusal(quoted(value), ENDPOINT)
    try:
        parts = urlsplit(value)
        host, port = _url_host(parts.hostname or ""), parts.port
    except ValueError:
        raise refusal(quoted(value), ENDPOINT) from None
    proper = parts.scheme in ("http", "https") and parts.path in ("", "/")
    if not proper or host is None or port == 0:
        raise refusal(quoted(value), ENDPOINT)
    if parts.scheme == "https" and not _may_be_certified(host):
        raise refusal(f"{quoted(value)}, a name that no certificate can have", ENDPOINT)
    return f"{parts.scheme}://{host}" + ("" if port is None else f":{port}")


def host_and_port(endpoint: str) -> tuple[str | None, int]:
    """Return the host and the port that a URL of `node_endpoint` leads to."""
    url = urlsplit(endpoint)
    return url.hostname, url.port or {"http": 80, "https": 443}[url.scheme]


# ---------------------------------------------------------------------- listeners


def _listen_address(listen: str) -> tuple[str, int] | None:
    """Return the IP address ("" is every IPv4 one) and port of ADDRESS:PORT, None for others."""
    match = ADDRESS_AND_PORT.fullmatch(listen)
    if not match or not listen.isprintable() or int(match["port"]) > HIGHEST_PORT:
        return None
    try:
        if match["v6"]:
            return str(ipaddress.IPv6Address(match["v6"])), int(match["port"])
        host = "127.0.0.1" if match["v4"] == "localhost" else match["v4"]
        return host and str(ipaddress.IPv4Address(host)), int(match["port"])
    except ValueError:
        return None


def endpoint_description(listen: str) -> str:
    r"""Return the Twisted server endpoint description for a listen address.

    `0.0.0.0:8000` becomes `tcp:8000:interface=0.0.0.0`, `[::]:8000` becomes
    `tcp6:8000:interface=\:\:`, `:8000` becomes `tcp:8000` (every IPv4 address), and localhost is
    127.0.0.1. What is a description already comes back unchanged; the quoting is the one of
    twisted.internet.endpoints. Raises ValueError with what was found and what is allowed.
    """
    if ENDPOINT_DESCRIPTION.fullmatch(listen) and listen.isprintable():
        if unix := UNIX_DESCRIPTION.fullmatch(listen):
            socket_path(re.sub(r"\\(.)", r"\1", unix["path"]))
        return listen
    address = _listen_address(listen)
    if address is None:
        raise refusal(quoted(listen), LISTEN)
    host, port = address
    family = "tcp6" if ":" in host else "tcp"
    interface = re.sub(r"([\\:=])", r"\\\1", host)
    return f"{family}:{port}:interface={interface}" if host else f"{family}:{port}"


def _listen(value: str) -> str:
    endpoint_description(value)
    return value


def collide(first: str, second: str) -> bool:
    """Tell whether the second of two valid listen addresses would find its port taken."""
    one, other = _listen_address(first), _listen_address(second)
    if one is None or other is None:
        return first == second and not re.match(r"tcp6?:(port=)?0+(:|$)", first)
    if one[1] != other[1] or one[1] == 0:
        return False
    hosts = {one[0] or EVERY_IPV4, other[0] or EVERY_IPV4}
    if len(hosts) == 1 or "::" in hosts:  # Linux gives [::] the IPv4 addresses too (ipv6(7))
        return True
    return EVERY_IPV4 in hosts and not any(":" in host for host in hosts)


# ---------------------------------------------------------------------- types of keys

AbsolutePath = Annotated[str, only(ABSOLUTE_PATH, _is_absolute_path)]
Listen = Annotated[str, parsed(LISTEN, _listen)]
NodeEndpoint = Annotated[str, parsed(ENDPOINT, node_endpoint)]
SocketPath = Annotated[str, parsed(SOCKET_PATH, socket_path)]
