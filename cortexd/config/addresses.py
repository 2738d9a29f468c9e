"""Addresses in the configuration: listeners, nodes and UNIX sockets.

A wrong address raises ValueError, with the value that was found and the allowed ones in one line.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, Final
from urllib.parse import urlsplit

from msgspec import Meta

from cortexd.text import printable

# sockaddr_un.sun_path has 108 bytes on Linux, the closing NUL included (unix(7)).
LONGEST_SOCKET_PATH: Final = 107
HIGHEST_PORT: Final = 65535
EVERY_IPV4: Final = "0.0.0.0"  # noqa: S104 -- compared with, not bound

ABSOLUTE_PATH: Final = "an absolute path"
BROADCAST: Final = 'an IPv4 address and a port, such as "192.168.1.255:9"'
CERTIFIED_NAME: Final = 'a host name such as "gateway.example.com", or an IP address'
ENDPOINT: Final = (
    'an http:// or https:// URL such as "http://10.0.0.7:8080" or "https://gpu.example.com/a", '
    "of host, port and path only"
)
GATEWAY: Final = (
    'HOST:PORT with a port of 1 to 65535, such as "gateway.example.com:8700", "10.0.0.2:8700" or '
    '"[::1]:8700"'
)
HARDWARE: Final = 'six bytes in hexadecimal, such as "00:1b:21:3a:4f:5e"'
LISTEN: Final = (
    'ADDRESS:PORT such as "127.0.0.1:8000", "[::1]:8000" or ":8000" with a port of 0 to 65535, '
    'or a Twisted endpoint such as "systemd:domain=INET:name=http"'
)
PROXY: Final = 'an IP address, a network such as "10.0.0.0/8", or "unix"'
SOCKET_PATH: Final = f"an absolute path of at most {LONGEST_SOCKET_PATH} bytes"

ADDRESS_AND_PORT: Final = re.compile(
    r"(?:\[(?P<v6>.+)\]|(?P<v4>[0-9.]*|localhost)):(?P<port>[0-9]{1,5})"
)
# Twisted's own endpoint types; a value that starts otherwise is read as ADDRESS:PORT.
ENDPOINT_DESCRIPTION: Final = re.compile(r"(?:tcp|tcp6|ssl|tls|unix|systemd|haproxy):.+")
# Host names that resolvers accept (lengths: RFC 1035, 2.3.4), and labels that certificates allow.
LONGEST_HOST_NAME: Final = 253
HOST_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
CERTIFIED_LABEL: Final = re.compile(r"(?!(?!xn)..--)[a-z0-9]([a-z0-9-]*[a-z0-9])?")
# Segments of a path (RFC 3986 3.3). "@" is left out: a password may contain a slash.
PATH_SEGMENTS: Final = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})+)*")
ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~-]")
UNIX_DESCRIPTION: Final = re.compile(r"unix:(?:address=)?(?P<path>(?:\\.|[^:\\])*)(?::.*)?")
DESCRIPTION_PART: Final = re.compile(r"((?:\\.|[^:\\])*)(?::|$)")
# How many values without a key a description has before it names the length of its queue.
VALUES_BEFORE_BACKLOG: Final = {"tcp": 2, "tcp6": 1, "ssl": 5, "tls": 2, "unix": 2}
BACKLOG: Final = 4096  # as many as Linux allows by default (net.core.somaxconn)


# ---------------------------------------------------------------------- values in messages


def quoted(text: str) -> str:
    """Return a text as `printable` does, in double quotes as in the file."""
    return f'"{printable(text)}"'


def refusal(found: str, expected: str) -> ValueError:
    """Return the error for a value, given as a message shows it, and the values allowed."""
    return ValueError(f"found {found}, expected {expected}")


def parsed(expected: str, parse: Callable[[str], str]) -> Meta:
    """Restrict a string by a function that returns its final form or raises ValueError."""
    return Meta(extra={"noun": expected, "parse": parse})


def only(expected: str, holds: Callable[[str], object]) -> Meta:
    """Restrict a string by a condition."""

    def parse(value: str) -> str:
        if not holds(value):
            raise refusal(quoted(value), expected)
        return value

    return parsed(expected, parse)


def secret(expected: str, holds: Callable[[str], object]) -> Meta:
    """Restrict a string by a condition, and never show it."""

    def parse(value: str) -> str:
        if not holds(value):
            raise refusal("another value", expected)
        return value

    return Meta(extra={"noun": expected, "parse": parse, "secret": True})


# ---------------------------------------------------------------------- paths


def _is_absolute_path(value: str) -> bool:
    return value.startswith("/") and value.isprintable()


def socket_path(value: str) -> str:
    """Return the path of a UNIX socket unchanged; ValueError if it is relative or too long to bind.

    A daemon changes its working directory, so a relative path would be ambiguous.
    """
    if not _is_absolute_path(value):  # also rejects a lone surrogate, which has no bytes
        raise refusal(quoted(value), SOCKET_PATH)
    if (length := len(value.encode())) > LONGEST_SOCKET_PATH:
        raise refusal(f"{quoted(value)} of {length} bytes", SOCKET_PATH)
    return value


# ---------------------------------------------------------------------- nodes


def _url_host(host: str) -> str | None:
    """Return a host in the form of a URL, or None if it is neither a name nor an IP address.

    A name may contain characters that resolvers accept but domains do not, such as "gpu_1". A name
    whose last part is a number is read as an IPv4 address
    (https://url.spec.whatwg.org/#ends-in-a-number-checker).
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


def _path_prefix(path: str) -> str | None:
    """Return a path in its final form, without trailing slash, or None if it is no prefix.

    Escapes of characters that need none are replaced, and the others have capital digits, so that
    equal prefixes are equal texts (RFC 3986 6.2.2). A segment of dots would be resolved on the way.
    """

    def unescaped(escape: re.Match[str]) -> str:
        character = chr(int(escape[1], 16))
        return character if UNRESERVED.fullmatch(character) else escape[0].upper()

    path = path.removesuffix("/")
    if not PATH_SEGMENTS.fullmatch(path):
        return None
    path = ESCAPE.sub(unescaped, path)
    return None if {".", ".."} & set(path.split("/")) else path


def node_endpoint(value: str) -> str:
    """Return a node's URL without trailing slash and with its host in lower case.

    Raises ValueError if it is not an http:// or https:// URL of a host, and optionally a port and
    a path, which then begins the path of every request. The message does not repeat a user name or
    password in the URL.
    """
    # urlsplit silently drops tabs and line ends, so we check for them first.
    if "@" in value:
        raise refusal("a URL with a user name", ENDPOINT)  # or a password
    if not value.isprintable() or set(" ?#\\") & set(value):
        raise refusal(quoted(value), ENDPOINT)
    try:
        parts = urlsplit(value)
        host, port = _url_host(parts.hostname or ""), parts.port
    except ValueError:
        raise refusal(quoted(value), ENDPOINT) from None
    prefix = _path_prefix(parts.path)
    if parts.scheme not in ("http", "https") or host is None or port == 0 or prefix is None:
        raise refusal(quoted(value), ENDPOINT)
    if prefix.endswith("/v1"):
        raise refusal(f"{quoted(value)}, but cortexd adds /v1 to the path by itself", ENDPOINT)
    if parts.scheme == "https" and not _may_be_certified(host):
        raise refusal(f"{quoted(value)}, a name that no certificate can contain", ENDPOINT)
    return f"{parts.scheme}://{host}" + ("" if port is None else f":{port}") + prefix


def path_prefix(endpoint: str) -> str:
    """Return the path of a URL of `node_endpoint`, "" without one."""
    return urlsplit(endpoint).path


def host_and_port(endpoint: str) -> tuple[str | None, int]:
    """Return host and port of a URL of `node_endpoint`."""
    url = urlsplit(endpoint)
    return url.hostname, url.port or {"http": 80, "https": 443}[url.scheme]


# ---------------------------------------------------------------------- the gateway


def gateway_address(value: str) -> str:
    """Return the HOST:PORT of a gateway for its agents, with the host as URLs have it.

    Raises ValueError for anything else.
    """
    host, colon, port = value.rpartition(":")
    number = int(port) if re.fullmatch(r"[0-9]{1,5}", port) else 0
    try:
        written = _url_host(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        written = None
    if not colon or written is None or ("[" in written) != host.startswith("["):
        raise refusal(quoted(value), GATEWAY)
    if not 0 < number <= HIGHEST_PORT:
        raise refusal(quoted(value), GATEWAY)
    return f"{written.lower()}:{number}"


def host_of(address: str) -> str:
    """Return the host of an address of `gateway_address`, an IPv6 address without brackets."""
    return address.rpartition(":")[0].strip("[]")


def port_of(address: str) -> int:
    """Return the port of an address of `gateway_address`."""
    return int(address.rpartition(":")[2])


def is_loopback(host: str) -> bool:
    """Return whether a host is an address of this machine alone, or the name localhost."""
    try:
        if host == "localhost":
            return True
        address = ipaddress.ip_address(host)
        mapped = getattr(address, "ipv4_mapped", None)  # an older Python's is no loopback
        return bool((mapped or address).is_loopback)
    except ValueError:
        return False


def certified_name(value: str) -> str:
    """Return a name or an address for a certificate, in lower case. Raises ValueError."""
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        pass
    name = value.lower()
    is_name = HOST_NAME.fullmatch(name) and len(name) <= LONGEST_HOST_NAME and name[-1] != "."
    if not is_name or name.rpartition(".")[2].isdecimal() or not _may_be_certified(name):
        raise refusal(quoted(value), CERTIFIED_NAME)
    return name


# ---------------------------------------------------------------------- listeners


def _listen_address(listen: str) -> tuple[str, int] | None:
    """Return IP address ("" for every IPv4 address) and port of ADDRESS:PORT, else None."""
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
    `tcp6:8000:interface=\:\:`, `:8000` becomes `tcp:8000` (every IPv4 address), and localhost
    becomes 127.0.0.1. A value that is already a description comes back unchanged. Quoting follows
    twisted.internet.endpoints. Raises ValueError with the value found and the values allowed.
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


def with_backlog(description: str) -> str:
    """Return a description of `endpoint_description` with room for BACKLOG clients in its queue.

    The queue holds clients that the kernel has connected and we have not accepted yet. Twisted
    gives it room for 50, and a client beyond these waits for seconds until its kernel tries again.
    A description that states its `backlog` keeps it, and so does a socket from systemd.
    """
    *parts, _ = DESCRIPTION_PART.findall(description)
    kind, *values = parts[description.startswith("haproxy:") :]
    before = VALUES_BEFORE_BACKLOG.get(kind)
    if before is None or any(value.startswith("backlog=") for value in values):
        return description
    if sum(not re.match(r"[A-Za-z_]\w*=", value) for value in values) > before:
        return description
    return f"{description}:backlog={BACKLOG}"


def _listen(value: str) -> str:
    endpoint_description(value)
    return value


def collide(first: str, second: str) -> bool:
    """Return whether the second of two valid listen addresses overlaps the first."""
    one, other = _listen_address(first), _listen_address(second)
    if one is None or other is None:
        return first == second and not re.match(r"tcp6?:(port=)?0+(:|$)", first)
    if one[1] != other[1] or one[1] == 0:
        return False
    hosts = {one[0] or EVERY_IPV4, other[0] or EVERY_IPV4}
    if len(hosts) == 1 or "::" in hosts:  # on Linux [::] includes the IPv4 addresses (ipv6(7))
        return True
    return EVERY_IPV4 in hosts and not any(":" in host for host in hosts)


def _is_broadcast(value: str) -> bool:
    host, colon, port = value.rpartition(":")
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return bool(colon) and re.fullmatch(r"[0-9]{1,5}", port) is not None and 0 < int(port) < 1 << 16


def proxy_address(value: str) -> str:
    """Return the address or network of a proxy unchanged, or ValueError: "unix" for local sockets.

    A network is refused if its address has bits beyond its length, because either may be meant.
    """
    if value == "unix":
        return value
    try:
        ipaddress.ip_network(value)
    except ValueError:
        pass
    else:
        return value
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise refusal(quoted(value), PROXY) from None
    raise refusal(quoted(value), f'{PROXY}; the network is "{network}"')


# ---------------------------------------------------------------------- types of keys

AbsolutePath = Annotated[str, only(ABSOLUTE_PATH, _is_absolute_path)]
Broadcast = Annotated[str, only(BROADCAST, _is_broadcast)]
CertifiedName = Annotated[str, parsed(CERTIFIED_NAME, certified_name)]
GatewayAddress = Annotated[str, parsed(GATEWAY, gateway_address)]
HardwareAddress = Annotated[
    str, only(HARDWARE, re.compile(r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}").fullmatch)
]
Listen = Annotated[str, parsed(LISTEN, _listen)]
NodeEndpoint = Annotated[str, parsed(ENDPOINT, node_endpoint)]
ProxyAddress = Annotated[str, parsed(PROXY, proxy_address)]
SocketPath = Annotated[str, parsed(SOCKET_PATH, socket_path)]
