"""Where and how the daemon's listeners listen, as a configuration says: pure.

TLS comes from ``tls_certificate`` and ``tls_key``, or from the files in a description that begins
with ``ssl:``. Both lead to the same ``Listening``: a description without TLS, and the files.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from cortexd.config.addresses import (
    DESCRIPTION_PART,
    EVERY_IPV4,
    collide,
    endpoint_description,
    gateway_address,
    quoted,
    refusal,
)
from cortexd.config.settings import AgentsSettings, Config, GatewaySettings
from cortexd.text import printable

LISTEN: Final = "gateway.listen"
HTTP_LISTEN: Final = "gateway.http_listen"
METRICS_LISTEN: Final = "gateway.metrics_listen"
AGENTS_LISTEN: Final = "agents.listen"

LOCAL_NAME: Final = "localhost"
EVERY_IPV6: Final = "::"
NAMED_VALUE: Final = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)

# The values of each kind of description in their order, as Twisted's endpoints take them.
VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "backlog", "interface"),
    "tls": ("path", "port", "backlog", "interface"),
    "unix": ("address", "mode", "backlog", "lockfile"),
    "systemd": ("domain", "index", "name"),
    "ssl": (
        *("port", "privateKey", "certKey", "sslmethod"),
        *("interface", "backlog", "extraCertChain", "dhParameters"),
    ),
}
OF_TLS: Final = frozenset({"privateKey", "certKey", "sslmethod", "extraCertChain", "dhParameters"})
DEFAULT_KEY: Final = "server.pem"
PROXIED: Final = "haproxy:"


class Files(NamedTuple):
    """The PEM files of a listener with TLS: ``chain`` and ``dh_parameters`` may be missing."""

    certificate: str
    key: str
    chain: str | None = None
    dh_parameters: str | None = None


class Listening(NamedTuple):
    """How a listener listens: ``listen`` as in the file, ``description`` the same without TLS.

    ``files`` are those of its TLS, ``None`` for plain HTTP. ``are_keys`` says that they come from
    ``tls_certificate`` and ``tls_key``, and not from the description.
    """

    listen: str
    description: str
    files: Files | None = None
    are_keys: bool = False

    @property
    def is_tls(self) -> bool:
        """Whether clients speak TLS there."""
        return self.files is not None or kind_of(self.description) == "tls"

    @property
    def is_proxied(self) -> bool:
        """Whether each connection there begins with a proxy's PROXY header."""
        return self.description.startswith(PROXIED)

    @property
    def is_reached_by_us(self) -> bool:
        """Whether a process of this machine can connect without a further protocol."""
        return kind_of(self.description) != "tls" and not self.is_proxied


def objection(gateway: GatewaySettings) -> str | None:
    """Return why listeners cannot be as the keys say, ``None`` if they can.

    Addresses may overlap, and TLS be given by half or twice.
    """
    taken: dict[str, str] = {}
    for name in ("listen", "http_listen", "metrics_listen"):
        listen = getattr(gateway, name)
        if listen is None:
            continue
        try:
            listening(listen)
        except ValueError as error:
            return f"gateway.{name}: {quoted(listen)}: {error}"
        for other, address in taken.items():
            if collide(address, listen):
                words = f"an address that does not overlap gateway.{other} ({printable(address)})"
                return f"gateway.{name}: {refusal(quoted(listen), words)}"
        taken[name] = listen
    certificate, key = gateway.tls_certificate, gateway.tls_key
    if certificate is None and key is None:
        return None
    if key is None:
        return "gateway.tls_key: missing, expected a file beside gateway.tls_certificate"
    if certificate is None:
        return "gateway.tls_certificate: missing, expected a file beside gateway.tls_key"
    if listening(gateway.listen).is_tls:
        words = f"no such key with TLS in gateway.listen ({printable(gateway.listen)})"
        return f"gateway.tls_certificate: {refusal(quoted(certificate), words)}"
    return None


def listenings(gateway: GatewaySettings) -> dict[str, Listening | None]:
    """Return how each listener listens, by its key; ``None`` for one that does not.

    Raises ValueError for a description with an option of TLS that we do not have.
    """
    files = None
    if gateway.tls_certificate is not None:
        files = Files(gateway.tls_certificate, gateway.tls_key or gateway.tls_certificate)
    http = gateway.http_listen
    return {
        LISTEN: listening(gateway.listen, files),
        HTTP_LISTEN: None if http is None else listening(http),
        METRICS_LISTEN: listening(gateway.metrics_listen),
    }


def all_listenings(config: Config) -> dict[str, Listening | None]:
    """Return how each listener listens, that of agents too; see `listenings`."""
    return {**listenings(config.gateway), AGENTS_LISTEN: agents_listening(config.agents)}


def agents_listening(agents: AgentsSettings) -> Listening | None:
    """Return how the listener of agents listens, whose TLS is not one of its files."""
    return None if agents.listen is None else listening(agents.listen)


def agents_address(agents: AgentsSettings) -> str | None:
    """Return the HOST:PORT at which agents connect, ``None`` if the keys do not say.

    The host is the first of the names of our own certificate, or else the one address at which we
    listen.
    """
    where = agents_listening(agents)
    if where is None:
        return None
    values = values_of(where.description)
    host = next(iter(agents.names), None) or values.get("interface", "")
    if host in ("", EVERY_IPV4, EVERY_IPV6):
        return None
    try:
        return gateway_address(f"{f'[{host}]' if ':' in host else host}:{values.get('port')}")
    except ValueError:
        return None


def agents_objection(agents: AgentsSettings, gateway: GatewaySettings) -> str | None:
    """Return why agents cannot connect as the keys say, ``None`` if they can."""
    if agents.listen is not None:
        kind = endpoint_description(agents.listen).partition(":")[0]
        if kind not in ("tcp", "tcp6", "systemd"):
            words = "ADDRESS:PORT or a systemd: endpoint; TLS is there anyway"
            return f"{AGENTS_LISTEN}: {refusal(quoted(agents.listen), words)}"
        for name in ("listen", "http_listen", "metrics_listen"):
            other = getattr(gateway, name)
            if other is not None and collide(other, agents.listen):
                words = f"an address that does not overlap gateway.{name} ({printable(other)})"
                return f"{AGENTS_LISTEN}: {refusal(quoted(agents.listen), words)}"
    files = ("certificate", "key", "ca")
    given = [name for name in files if getattr(agents, name) is not None]
    for name in files:
        if given and name not in given:
            return f"agents.{name}: missing, expected a file beside agents.{given[0]}"
    return None


def listening(listen: str, files: Files | None = None) -> Listening:
    """Return how a listener with a valid address listens, with ``files`` of the keys.

    Raises ValueError as `listenings` does.
    """
    description = endpoint_description(listen)
    if kind_of(description) != "ssl":
        return Listening(listen, description, files, are_keys=files is not None)
    values = values_of(description)
    if "sslmethod" in values:
        raise ValueError("sslmethod is not supported, since clients use TLS 1.2 or later anyway")
    key = values.get("privateKey", DEFAULT_KEY)
    own = Files(
        values.get("certKey", key), key, values.get("extraCertChain"), values.get("dhParameters")
    )
    plain = [f"{name}={_escaped(value)}" for name, value in values.items() if name not in OF_TLS]
    proxied = PROXIED if description.startswith(PROXIED) else ""
    return Listening(listen, f"{proxied}tcp:{':'.join(plain)}", own)


def kind_of(description: str) -> str:
    """Return the kind of a description: the word before its first colon, or after "haproxy:"."""
    return description.removeprefix(PROXIED).partition(":")[0]


def values_of(description: str) -> dict[str, str]:
    """Return the values of a description by their names; those of an unknown kind have none."""
    kind, *parts = DESCRIPTION_PART.findall(description.removeprefix(PROXIED))
    names = iter(VALUES.get(kind, ()))
    values: dict[str, str] = {}
    for part in parts[:-1]:  # the last match is the empty end
        if named := NAMED_VALUE.fullmatch(part):
            values[named[1]] = _unescaped(named[2])
        elif (name := next(names, None)) is not None:
            values[name] = _unescaped(part)
    return values


def is_local(description: str, inherited: str | None = None) -> bool | None:
    """Return whether only this machine reaches a listener; ``None`` if that is not known.

    ``inherited`` is the address of the socket that systemd passes, empty for one without an
    address. A name other than "localhost" counts as an address beyond this machine, because a
    resolver decides what it means.
    """
    values = values_of(description)
    match kind_of(description):
        case "unix":
            return True
        case "systemd":
            if values.get("domain") == "UNIX":
                return True
            return None if inherited is None else _is_loopback(inherited)
        case "tcp" | "tcp6" | "tls":
            return _is_loopback(values.get("interface", ""))
        case _:
            return False


def _is_loopback(host: str) -> bool:
    if host == LOCAL_NAME:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _escaped(text: str) -> str:
    return re.sub(r"([\\:=])", r"\\\1", text)
