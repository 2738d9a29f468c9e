"""The configuration file: TOML in, frozen and checked values out.

Each table of the file is one Struct below, and a Struct is the only place that knows the table's
keys, their types, bounds and defaults: a new key is one new line there. Reading walks the file
beside those types, so that what is refused is named by its key path, with what was found and what
the type allows.
"""

import difflib
import functools
import ipaddress
import math
import operator
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, NoReturn, cast
from urllib.parse import urlsplit

from msgspec import Meta, Struct, field
from msgspec import inspect as types

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
MODEL_ALIAS: Final = "a name without control characters and without space at either end"
MODEL_ID: Final = f'{MODEL_ALIAS}, other than "default"'
NODE_NAME: Final = "1 to 64 characters of A-Z a-z 0-9 . _ -"
OCTAL_MODE: Final = '3 or 4 octal digits in quotes, such as "660"'
SOCKET_PATH: Final = f"an absolute path of at most {LONGEST_SOCKET_PATH} bytes"

ADDRESS_AND_PORT: Final = re.compile(
    r"(?:\[(?P<v6>.+)\]|(?P<v4>[0-9.]*|localhost)):(?P<port>[0-9]{1,5})"
)
# The endpoint types Twisted listens on by itself; what starts otherwise is taken for ADDRESS:PORT.
ENDPOINT_DESCRIPTION: Final = re.compile(r"(?:tcp|tcp6|ssl|tls|unix|systemd|haproxy):.+")
UNIX_DESCRIPTION: Final = re.compile(r"unix:(?:address=)?(?P<path>(?:\\.|[^:\\])*)(?::.*)?")


class ConfigError(Exception):
    """Raised when a configuration cannot be used; its text is one line for whoever wrote it."""


# ---------------------------------------------------------------------- what a message shows


def _one_line(text: str) -> str:
    """Escape what would break a line or hide in a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _printable(text: str) -> str:
    return _one_line(text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "...")


def _shown(value: object) -> str:
    """Render a TOML value as a person would recognise it in the file."""
    match value:
        case bool():
            return str(value).lower()
        case int() if value.bit_length() > 63:  # beyond TOML's own limit, and Python prints not all
            return "an integer beyond 64 bits"
        case int() | float():
            return repr(value)
        case str():
            return f'"{_printable(value)}"'
        case list():
            return "a list" if value else "an empty list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def _refusal(value: object, expected: str) -> ValueError:
    return ValueError(f"found {_shown(value)}, expected {expected}")


# ---------------------------------------------------------------------- what a string must be


def _is_name(value: str) -> bool:
    return value.isprintable() and value == value.strip() != ""


def _is_model_id(value: str) -> bool:
    # "default" is the pseudo-model in every node's /v1/models: it stands for one of the others.
    return _is_name(value) and value != "default"


def _is_absolute_path(value: str) -> bool:
    return value.startswith("/") and value.isprintable()


def _is_socket_path(value: str) -> bool:
    return _is_absolute_path(value) and len(value.encode()) <= LONGEST_SOCKET_PATH


def socket_path(value: str) -> str:
    """Return the path of a UNIX socket unchanged; ValueError if it is relative or too long to bind.

    Relative paths are refused because a daemon changes its directory.
    """
    if not _is_socket_path(value):
        length = f" of {len(value.encode())} bytes" if _is_absolute_path(value) else ""
        raise ValueError(f"found {_shown(value)}{length}, expected {SOCKET_PATH}")
    return value


def _url_host(host: str) -> str | None:
    """Return a host as a URL writes it, or None if it is neither a name nor an IP address."""
    if ":" in host:
        return f"[{ipaddress.IPv6Address(host)}]" if "%" not in host else None
    return host if re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", host) else None


def _node_endpoint(value: str) -> str:
    """Return a node's URL without trailing slash and with its host in lower case."""
    # urlsplit drops tabs and line ends without a word, so they are looked for before it.
    if "@" in value:
        raise ValueError(f"found a URL with a user name, expected {ENDPOINT}")  # or a password
    if not value.isprintable() or set(" ?#\\") & set(value):
        raise _refusal(value, ENDPOINT)
    try:
        parts = urlsplit(value)
        host, port = _url_host(parts.hostname or ""), parts.port
    except ValueError:
        raise _refusal(value, ENDPOINT) from None
    proper = parts.scheme in ("http", "https") and parts.path in ("", "/")
    if not proper or host is None or port == 0:
        raise _refusal(value, ENDPOINT)
    return f"{parts.scheme}://{host}" + ("" if port is None else f":{port}")


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
        raise _refusal(listen, LISTEN)
    host, port = address
    family = "tcp6" if ":" in host else "tcp"
    quoted = re.sub(r"([\\:=])", r"\\\1", host)
    return f"{family}:{port}:interface={quoted}" if host else f"{family}:{port}"


def _listen(value: str) -> str:
    endpoint_description(value)
    return value


def _collide(first: str, second: str) -> bool:
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


# ---------------------------------------------------------------------- the tables and their keys


def _parsed(expected: str, parse: Callable[[str], str]) -> Meta:
    """Bound a string by a function that returns it in its final form or raises ValueError."""
    return Meta(extra={"noun": expected, "parse": parse})


def _only(expected: str, holds: Callable[[str], object]) -> Meta:
    """Bound a string by a condition."""

    def parse(value: str) -> str:
        if not holds(value):
            raise _refusal(value, expected)
        return value

    return _parsed(expected, parse)


AbsolutePath = Annotated[str, _only(ABSOLUTE_PATH, _is_absolute_path)]
Count = Annotated[int, Meta(ge=1)]
CountOrNever = Annotated[int, Meta(ge=0)]
Listen = Annotated[str, _parsed(LISTEN, _listen)]
Mebibytes = Annotated[int, Meta(gt=0, extra={"noun": "an integer of MiB"})]
ModelAlias = Annotated[str, _only(MODEL_ALIAS, _is_name)]
ModelId = Annotated[str, _only(MODEL_ID, _is_model_id)]
NodeEndpoint = Annotated[str, _parsed(ENDPOINT, _node_endpoint)]
NodeName = Annotated[str, _only(NODE_NAME, re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch)]
OctalMode = Annotated[str, _only(OCTAL_MODE, re.compile(r"[0-7]{3,4}").fullmatch)]
Seconds = Annotated[float, Meta(gt=0, extra={"noun": "a number of seconds"})]
SocketPath = Annotated[str, _parsed(SOCKET_PATH, socket_path)]


class GatewaySettings(Struct, kw_only=True, frozen=True):
    """[gateway]: where the daemon listens and keeps things, and how patient it is.

    `upstream_timeout` is the silence in seconds after which a node is given up during a request,
    `grace_seconds` the time streams have to end once the daemon was told to stop.
    """

    listen: Listen = "127.0.0.1:8000"
    metrics_listen: Listen = "127.0.0.1:9100"
    control_socket: SocketPath | None = None
    control_mode: OctalMode = "660"
    state_dir: AbsolutePath | None = None
    max_body_mb: Count = 50
    hold_seconds: Seconds = 5.0
    keepalive_seconds: Seconds = 10.0
    connect_timeout: Seconds = 5.0
    upstream_timeout: Seconds = 600.0
    grace_seconds: Seconds = 30.0


class EvictionSettings(Struct, kw_only=True, frozen=True):
    """[eviction]: which models make room, and after how many unloads a node is repaired."""

    strategy: Literal["lru", "priority"] = "lru"
    defrag_after_cycles: CountOrNever = 50


class PollingSettings(Struct, kw_only=True, frozen=True):
    """[polling]: how often, in seconds, nodes are asked what they hold, and when one is down."""

    interval: Seconds = 5.0
    timeout: Seconds = 2.0
    down_after: Count = 2
    system_info_interval: Seconds = 60.0


class SchedulingSettings(Struct, kw_only=True, frozen=True):
    """[scheduling]: how long, in seconds, the loading of a model may take."""

    load_timeout: Seconds = 1800.0


class NodeSettings(Struct, kw_only=True, frozen=True):
    """[[nodes]]: a machine with a mistral.rs server, its budget in MiB and its pinned models."""

    name: NodeName
    endpoint: NodeEndpoint
    vram_mb: Mebibytes
    pinned: tuple[ModelId, ...] = ()


class ModelSettings(Struct, kw_only=True, frozen=True):
    """[[models]]: what is known of a model beforehand; `vram_mb` is its footprint in MiB."""

    id: ModelId
    aliases: tuple[ModelAlias, ...] = ()
    max_concurrency: Count = 32
    vram_mb: Mebibytes | None = None


class Config(Struct, kw_only=True, frozen=True, dict=True):
    """A whole configuration, every value checked alone and together by `load` and `parse`."""

    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    eviction: EvictionSettings = field(default_factory=EvictionSettings)
    polling: PollingSettings = field(default_factory=PollingSettings)
    scheduling: SchedulingSettings = field(default_factory=SchedulingSettings)
    nodes: Annotated[tuple[NodeSettings, ...], Meta(min_length=1)]
    models: tuple[ModelSettings, ...] = ()

    def model(self, model_id: str) -> ModelSettings:
        """Return the settings of the model with this id, or the defaults if none are given."""
        return self._models_by_id.get(model_id) or ModelSettings(id=model_id)

    @functools.cached_property
    def aliases(self) -> Mapping[str, str]:
        """The model id that each alias stands for."""
        return MappingProxyType({alias: m.id for m in self.models for alias in m.aliases})

    @functools.cached_property
    def _models_by_id(self) -> Mapping[str, ModelSettings]:
        return {model.id: model for model in self.models}


# ---------------------------------------------------------------------- from TOML to the tables

CONFIG_TYPE: Final = cast(types.StructType, types.type_info(Config))
BOUNDS: Final = (
    ("gt", ">", operator.gt),
    ("ge", ">=", operator.ge),
    ("lt", "<", operator.lt),
    ("le", "<=", operator.le),
)


class _FaultError(Exception):
    """Raised inside this module with what is wrong, before the file's name is put before it."""


def _fail(path: str, wrong: object) -> NoReturn:
    raise _FaultError(f"{path}: {wrong}")


def _unwrapped(kind: types.Type) -> tuple[types.Type, str | None, Callable[[Any], Any] | None]:
    """Return the type under its Meta and its `| None` (TOML has no null), its noun and parser."""
    noun, parse = None, None
    while True:
        match kind:
            case types.Metadata(type=inner, extra=extra):
                kind, noun, parse = inner, (extra or {}).get("noun"), (extra or {}).get("parse")
            case types.UnionType(types=members):
                kind = next(inner for inner in members if not isinstance(inner, types.NoneType))
            case _:
                return kind, noun, parse


def _bounds(kind: types.IntType | types.FloatType) -> Iterator[tuple[str, Any, Any]]:
    for attribute, sign, holds in BOUNDS:
        if (bound := getattr(kind, attribute)) is not None:
            yield sign, holds, bound


def _expected(kind: types.Type, path: str) -> str:
    """Say in words what a type allows at a key path."""
    kind, noun, _ = _unwrapped(kind)
    match kind:
        case types.IntType() | types.FloatType():
            noun = noun or ("an integer" if isinstance(kind, types.IntType) else "a number")
            limits = " and ".join(f"{sign} {bound}" for sign, _, bound in _bounds(kind))
            return f"{noun} {limits}".rstrip()
        case types.LiteralType(values=values):
            return " or ".join(map(_shown, values))
        case types.VarTupleType(item_type=types.StructType(), min_length=least):
            return f"{'at least one' if least else 'any number of'} [[{path}]]"
        case types.VarTupleType(item_type=item):
            return f"a list of strings, each {_expected(item, path)}"
        case types.StructType():
            return "a table" if path.endswith("]") else f"a table, [{path}]"
    return noun or "a string"


def _build(kind: types.Type, value: object, path: str) -> Any:
    """Return a TOML value as its field holds it, or raise _FaultError with the path of a fault."""
    plain, _, parse = _unwrapped(kind)
    match plain, value:
        case types.StructType(), dict():
            return _table(plain, value, path)
        case types.VarTupleType(item_type=item), list() if len(value) >= (plain.min_length or 0):
            return tuple(
                _build(item, entry, f"{path}[{index}]{_label(entry)}")
                for index, entry in enumerate(value)
            )
        case types.LiteralType(values=values), str() if value in values:
            return value
        case types.StrType(), str():
            try:
                return parse(value) if parse else value
            except ValueError as error:
                _fail(path, error)
        case ((types.IntType() | types.FloatType()), _):
            if (number := _number(plain, value)) is not None:
                return number
    _fail(path, _refusal(value, _expected(kind, path)))


def _number(kind: types.IntType | types.FloatType, value: object) -> int | float | None:
    """Return a value as the number a type wants, or None if it is not one or out of bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int) and value.bit_length() > 63:
        return None
    if isinstance(kind, types.FloatType):
        value = float(value)
    elif isinstance(value, float):
        return None
    within = math.isfinite(value) and all(holds(value, bound) for _, holds, bound in _bounds(kind))
    return value if within else None


def _label(entry: object) -> str:
    """Return ` (gpu-small)` for an entry that says its name or id: nobody likes to count tables."""
    named = entry if isinstance(entry, dict) else {}
    name = named.get("name", named.get("id"))
    return f" ({_printable(name)})" if isinstance(name, str) and name else ""


def _table(kind: types.StructType, table: dict[str, object], path: str) -> Any:
    prefix = f"{path}." if path else ""
    fields = {known.name: known for known in kind.fields}
    for key in table:
        if key not in fields:
            shown = _printable(key) if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _shown(key)
            nearest = difflib.get_close_matches(key, fields, n=1)
            advice = f"did you mean {prefix}{nearest[0]}?" if nearest else ""
            advice = advice or f"the keys here are {', '.join(fields)}"
            raise _FaultError(f"unknown key {prefix}{shown}; {advice}")
    values = {}
    for key, known in fields.items():
        if key in table:
            values[key] = _build(known.type, table[key], prefix + key)
        elif known.required:
            _fail(prefix + key, f"missing, expected {_expected(known.type, prefix + key)}")
    return kind.cls(**values)


# ---------------------------------------------------------------------- what must fit together


def _claim(claims: dict[object, str], claim: object, value: str, holder: str, key: str) -> None:
    """Note who holds what only one entry may hold, or raise _FaultError naming who has it."""
    if first := claims.get(claim):
        words = f"one that nothing else has: {first} has this one"
        _fail(f"{holder}.{key}", _refusal(value, words))
    claims[claim] = holder


def _check_nodes(nodes: tuple[NodeSettings, ...], aliases: Mapping[str, str]) -> None:
    names: dict[object, str] = {}
    addresses: dict[object, str] = {}
    for index, node in enumerate(nodes):
        path = f"nodes[{index}] ({node.name})"
        url = urlsplit(node.endpoint)
        address = url.hostname, url.port or {"http": 80, "https": 443}[url.scheme]
        _claim(names, node.name, node.name, path, "name")
        _claim(addresses, address, node.endpoint, path, "endpoint")
        for position, pinned in enumerate(node.pinned):
            if stands_for := aliases.get(pinned):
                words = f"a model's id: this is an alias of {_shown(stands_for)}"
                _fail(f"{path}.pinned[{position}]", _refusal(pinned, words))


def _check_models(models: tuple[ModelSettings, ...]) -> None:
    claims: dict[object, str] = {}
    entries = [(f"models[{i}] ({_printable(model.id)})", model) for i, model in enumerate(models)]
    for path, model in entries:
        _claim(claims, model.id, model.id, path, "id")
    for path, model in entries:
        for position, alias in enumerate(model.aliases):
            _claim(claims, alias, alias, path, f"aliases[{position}]")


def _check_together(config: Config) -> None:
    """Raise _FaultError for values that are right each alone and wrong together."""
    gateway = config.gateway
    if _collide(gateway.listen, gateway.metrics_listen):
        words = f"an address that gateway.listen ({_printable(gateway.listen)}) does not take"
        _fail("gateway.metrics_listen", _refusal(gateway.metrics_listen, words))
    _check_models(config.models)
    _check_nodes(config.nodes, config.aliases)


# ---------------------------------------------------------------------- reading


def _toml(text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        wrong, _, place = str(error).removesuffix(")").rpartition(" (at ")
        if place == "end of document":
            place = f"line {len(text.splitlines()) or 1}"
        raise _FaultError(f"{place}: not valid TOML: {_one_line(wrong)}") from None
    except RecursionError:
        raise _FaultError("not valid TOML: lists or tables nested too deeply") from None
    except ValueError as error:  # what Python will not convert, such as a number of 5000 digits
        raise _FaultError(f"not valid TOML: {_one_line(str(error))}") from None


NO_OVERRIDES: Final[Mapping[str, str]] = MappingProxyType({})


def parse(text: str, source: str, overrides: Mapping[str, str] = NO_OVERRIDES) -> Config:
    """Return the configuration a TOML text holds; `source` is what errors call it, mostly a path.

    `overrides` are values of [gateway] from the command line; they count instead of the file's.

    Raises ConfigError for what is not TOML, an unknown or a missing key, a value that its key does
    not allow, and values that do not go together.
    """
    try:
        table = _toml(text)
        gateway = table.setdefault("gateway", {})
        if isinstance(gateway, dict):
            gateway.update(overrides)
        config = cast(Config, _table(CONFIG_TYPE, table, ""))
        _check_together(config)
    except _FaultError as fault:
        raise ConfigError(f"{_one_line(source)}: {fault}") from None
    return config


def load(path: str | os.PathLike[str], overrides: Mapping[str, str] = NO_OVERRIDES) -> Config:
    """Return the configuration in a file of UTF-8 TOML, `overrides` laid over it as in `parse`.

    Raises ConfigError as `parse` does, and for a file that is missing, unreadable or not UTF-8.
    """
    source = os.fspath(path)
    try:
        content = Path(source).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise ConfigError(
            f"{_one_line(source)}: cannot be read ({_one_line(reason)}), expected a TOML file"
        ) from None
    try:
        text = content.decode("utf-8-sig")  # some editors put a byte order mark first
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"found byte 0x{content[error.start]:02x}, expected UTF-8 text"
        raise ConfigError(f"{_one_line(source)}: line {line}: {found}") from None
    return parse(text, source, overrides)
