"""The configuration file: TOML in, frozen and checked values out.

Reading walks the file along the types of ``cortexd.config.settings``. The error for a wrong value
therefore has the path of its key, the value that was found, and the values that the type allows.
"""

import datetime
import difflib
import math
import operator
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NoReturn, cast

from msgspec import inspect as types

from cortexd.config.addresses import (
    host_and_port,
    path_prefix,
    quoted,
    refusal,
)
from cortexd.config.exposure import exposure
from cortexd.config.listening import objection
from cortexd.config.settings import (
    NOTHING,
    Config,
    GatewaySettings,
    ModelSettings,
    NodeSettings,
)
from cortexd.engines.engine import Dialect
from cortexd.engines.registry import ENGINES
from cortexd.text import one_line, printable


class ConfigError(Exception):
    """Raised when a configuration cannot be used; its message is one line for its author."""


# ---------------------------------------------------------------------- values and messages


def _shown(value: object) -> str:
    """Render a TOML value in the form in which it stands in the file."""
    match value:
        case bool():
            return str(value).lower()
        case int() if value.bit_length() > 63:  # Python does not print very long integers
            return "an integer beyond 64 bits"
        case int() | float():
            return repr(value)
        case str():
            return quoted(value)
        case list():
            return "a list" if value else "an empty list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def _key(key: str) -> str:
    """Write a key as TOML requires it: in quotes, unless it is a bare key."""
    return printable(key) if re.fullmatch(r"[A-Za-z0-9_-]+", key) else quoted(key)


# ---------------------------------------------------------------------- from TOML to the tables

CONFIG_TYPE: Final = cast(types.StructType, types.type_info(Config))
BOUNDS: Final = (
    ("gt", ">", operator.gt),
    ("ge", ">=", operator.ge),
    ("lt", "<", operator.lt),
    ("le", "<=", operator.le),
)


class _FaultError(Exception):
    """Raised inside this module for a fault; ConfigError adds the name of the file."""


def _fail(path: str, wrong: object) -> NoReturn:
    raise _FaultError(f"{path}: {wrong}")


def _unwrapped(kind: types.Type) -> tuple[types.Type, str | None, Callable[[Any], Any] | None]:
    """Return the type without Meta and `| None` (TOML has no null), its noun and its parser."""
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
    """Describe the values that a type allows at a key path."""
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
        case types.DictType(value_type=item):
            return f"a table, each value {_expected(item, path)}"
        case types.BoolType():
            return "true or false"
        case types.DateTimeType():
            return "a date and time with its time zone, such as 2027-01-31T18:00:00Z"
        case types.StructType():
            return "a table" if path.endswith("]") else f"a table, [{path}]"
    return noun or "a string"


def _build(kind: types.Type, value: object, path: str) -> Any:
    """Convert a TOML value to the type of its field, or raise _FaultError with a key path."""
    plain, _, parse = _unwrapped(kind)
    match plain, value:
        case types.StructType(), dict():
            return _table(plain, value, path)
        case types.VarTupleType(item_type=item), list() if len(value) >= (plain.min_length or 0):
            return tuple(
                _build(item, entry, f"{path}[{index}]{_label(item, entry)}")
                for index, entry in enumerate(value)
            )
        case types.DictType(key_type=name, value_type=item), dict():
            built = {k: _build(item, entry, f"{path}.{_key(k)}") for k, entry in value.items()}
            return MappingProxyType({_build(name, k, f"a key of {path}"): built[k] for k in built})
        case types.LiteralType(values=values), str() if value in values:
            return value
        case types.BoolType(), bool():
            return value
        case types.DateTimeType(), datetime.datetime() if value.tzinfo is not None:
            return value
        case types.StrType(), str():
            try:
                return parse(value) if parse else value
            except ValueError as error:
                _fail(path, error)
        case ((types.IntType() | types.FloatType()), _):
            if (number := _number(plain, value)) is not None:
                return number
    shown = "another value" if _is_secret(kind) else _shown(value)
    _fail(path, refusal(shown, _expected(kind, path)))


def _is_secret(kind: types.Type) -> bool:
    """Return whether no message may show a value of this type."""
    match kind:
        case types.Metadata(type=inner, extra=extra):
            return bool((extra or {}).get("secret")) or _is_secret(inner)
        case types.UnionType(types=members):
            return any(map(_is_secret, members))
    return False


def _number(kind: types.IntType | types.FloatType, value: object) -> int | float | None:
    """Convert a value to the number type, or return None if it is no number or out of bounds."""
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


def _label(kind: types.Type, entry: object) -> str:
    """Return ` (gpu-small)` for an entry of a table, which is easier to find by its name or id."""
    if not isinstance(kind, types.StructType) or not isinstance(entry, dict):
        return ""
    # The id of an entry that should have a name may be a secret.
    has_name = any(field.name == "name" for field in kind.fields)
    name = entry.get("name" if has_name else "id")
    return f" ({printable(name)})" if isinstance(name, str) and name else ""


def _table(kind: types.StructType, table: dict[str, object], path: str) -> Any:
    prefix = f"{path}." if path else ""
    fields = {known.name: known for known in kind.fields}
    for key in table:
        if key not in fields:
            nearest = difflib.get_close_matches(key, fields, n=1)
            advice = f"did you mean {prefix}{nearest[0]}?" if nearest else ""
            advice = advice or f"the keys here are {', '.join(fields)}"
            raise _FaultError(f"unknown key {prefix}{_key(key)}; {advice}")
    values = {}
    for key, known in fields.items():
        if key in table:
            values[key] = _build(known.type, table[key], prefix + key)
        elif known.required:
            _fail(prefix + key, f"missing, expected {_expected(known.type, prefix + key)}")
    return kind.cls(**values)


# ---------------------------------------------------------------------- checks across keys

_UNMANAGED: Final = "such a server loads and unloads models by itself"


def _claim(claims: dict[object, str], claim: object, value: str, holder: str, key: str) -> None:
    """Record the entry that uses a unique value, or raise _FaultError if another entry does."""
    if first := claims.get(claim):
        words = f"a unique value: {first} has the same one"
        _fail(f"{holder}.{key}", refusal(_shown(value), words))
    claims[claim] = holder


def _check_once(path: str, names: tuple[str, ...]) -> None:
    seen: set[str] = set()
    for position, name in enumerate(names):
        if name in seen:
            _fail(f"{path}[{position}]", refusal(f"{quoted(name)} again", "each name once"))
        seen.add(name)


def _check_nodes(nodes: tuple[NodeSettings, ...], aliases: Mapping[str, str]) -> None:
    names: dict[object, str] = {}
    addresses: dict[object, str] = {}
    for index, node in enumerate(nodes):
        path = f"nodes[{index}] ({node.name})"
        _check_engine(path, node)
        if node.vram_mb is None and node.runs.abilities.is_managed:
            _fail(f"{path}.vram_mb", "missing, expected an integer of MiB > 0")
        _claim(names, node.name, node.name, path, "name")
        server = (host_and_port(node.endpoint), path_prefix(node.endpoint))
        _claim(addresses, server, node.endpoint, path, "endpoint")
        _check_tls(path, node)
        if not node.runs.abilities.is_managed:
            _check_unmanaged(path, node)
        _check_anthropic(path, node)
        _check_responses(path, node)
        _check_once(f"{path}.pinned", node.pinned)
        named = [(f"pinned[{position}]", pinned) for position, pinned in enumerate(node.pinned)]
        for key, model in named + [(f"models.{_key(model)}", model) for model in node.models]:
            if stands_for := aliases.get(model):
                words = f"a model's id: this is an alias of {quoted(stands_for)}"
                _fail(f"{path}.{key}", refusal(quoted(model), words))


def _check_engine(path: str, node: NodeSettings) -> None:
    """Raise _FaultError for a dialect that chooses another engine than `engine` does."""
    if node.engine is None or node.dialect is None:
        return
    speaks_only_messages = node.runs.abilities.dialects == {Dialect.MESSAGES}
    if (node.dialect == Dialect.MESSAGES.value) != speaks_only_messages:
        _fail(f"{path}.dialect", refusal(_shown(node.dialect), _no_such_key(node)))


def _no_such_key(node: NodeSettings) -> str:
    """Return the words for a key that must be left out, because of the node's engine."""
    chosen_by = f"engine {quoted(node.engine)}" if node.engine else 'dialect "anthropic"'
    return f"no such key with the {chosen_by}"


def _managed_instead_of(node: NodeSettings) -> str:
    """Return the engines that take orders, by the key with which a node chose one that does not."""
    if node.engine is None:
        return 'dialect "openai"'
    managed = [name for name, engine in ENGINES.items() if engine.abilities.is_managed]
    return f"engine {' or '.join(map(quoted, managed))}"


def _check_tls(path: str, node: NodeSettings) -> None:
    """Raise _FaultError for files of TLS where no TLS is, and for half of a certificate."""
    for key in ("ca_file", "client_certificate", "client_key"):
        value = getattr(node, key)
        if value is not None and not node.endpoint.startswith("https:"):
            words = f"no such key with the endpoint {quoted(node.endpoint)}, which is not https"
            _fail(f"{path}.{key}", refusal(quoted(value), words))
    for key, other in (
        ("client_certificate", "client_key"),
        ("client_key", "client_certificate"),
    ):
        if getattr(node, key) is None and getattr(node, other) is not None:
            _fail(f"{path}.{key}", f"missing, expected an absolute path, as {other} is set")


def _check_unmanaged(path: str, node: NodeSettings) -> None:
    """Raise _FaultError for a key that has no meaning for a node that manages its own models."""
    for key in ("pinned", "max_resident", "models"):
        value = getattr(node, key)
        if value:
            shown = {"pinned": "a list", "models": "a table"}.get(key, _shown(value))
            _fail(f"{path}.{key}", refusal(shown, f"{_no_such_key(node)}: {_UNMANAGED}"))


def _check_anthropic(path: str, node: NodeSettings) -> None:
    """Raise _FaultError for a choice of Messages or chats that a node's engine does not leave."""
    dialects = node.runs.abilities.dialects
    if node.anthropic == "native" and dialects != set(Dialect):
        gets = (
            "always gets Messages unchanged" if Dialect.MESSAGES in dialects else "gets chats only"
        )
        words = f"{_no_such_key(node)}: such a server {gets}"
        _fail(f"{path}.anthropic", refusal(_shown(node.anthropic), words))


def _check_responses(path: str, node: NodeSettings) -> None:
    """Raise _FaultError for responses passed on to a node whose engine does not answer them."""
    if node.responses == "native" and not node.runs.abilities.answers_responses:
        words = f"{_no_such_key(node)}: such a server does not answer responses itself"
        _fail(f"{path}.responses", refusal(_shown(node.responses), words))


def _check_models(models: tuple[ModelSettings, ...], nodes: Mapping[str, NodeSettings]) -> None:
    claims: dict[object, str] = {}
    entries = [(f"models[{i}] ({printable(model.id)})", model) for i, model in enumerate(models)]
    for path, model in entries:
        _claim(claims, model.id, model.id, path, "id")
    for path, model in entries:
        for position, alias in enumerate(model.aliases):
            _claim(claims, alias, alias, path, f"aliases[{position}]")
        _check_once(f"{path}.pinned_on", model.pinned_on)
        for position, name in enumerate(model.pinned_on):
            if name not in nodes:
                nearest = difflib.get_close_matches(name, nodes, n=1)
                words = ", such as ".join(["the name of a node", *map(quoted, nearest)])
                _fail(f"{path}.pinned_on[{position}]", refusal(quoted(name), words))
            if not nodes[name].runs.abilities.is_managed:
                words = (
                    f"the name of a node of the {_managed_instead_of(nodes[name])}: {_UNMANAGED}"
                )
                _fail(f"{path}.pinned_on[{position}]", refusal(quoted(name), words))
        window, answer = model.context_window, model.max_output_tokens
        if window is not None and answer is not None and answer > window:
            words = f"at most context_window, which is {window}"
            _fail(f"{path}.max_output_tokens", refusal(_shown(answer), words))


def _check_room(path: str, node: NodeSettings, config: Config) -> None:
    """Raise _FaultError for footprints and pins that do not fit into a node's memory."""
    budget, pins = node.budget_mb, config.pins[node.name]
    if node.vram_mb is None:
        return
    if budget <= 0:
        words = f"less than vram_mb, which is {node.vram_mb}"
        _fail(f"{path}.reserve_mb", refusal(_shown(node.reserve_mb), words))
    words = f"at most {budget}, which is vram_mb minus reserve_mb"
    for model, footprint in node.models.items():
        if footprint > budget:
            _fail(f"{path}.models.{_key(model)}", refusal(_shown(footprint), words))
    footprints = {model: config.footprint_mb(node.name, model) or 0 for model in pins}
    if (taken := sum(footprints.values())) > budget:
        named = ", ".join(f"{model} {size}" for model, size in footprints.items() if size)
        _fail(path, refusal(f"pinned models of {taken} MiB ({printable(named)})", words))
    if 0 < node.max_resident < len(pins):
        words = f"0 or at least {len(pins)}, the number of models pinned there"
        _fail(f"{path}.max_resident", refusal(_shown(node.max_resident), words))


def _check_proxies(gateway: GatewaySettings) -> None:
    """Raise _FaultError for PROXY headers of nobody, or of peers that are not trusted proxies."""
    if gateway.proxy_protocol and not gateway.trusted_proxies:
        words = "false, or the proxies that send the header in gateway.trusted_proxies"
        _fail("gateway.proxy_protocol", refusal("true", words))
    for key in ("listen", "http_listen", "metrics_listen"):
        listen = getattr(gateway, key) or ""
        if gateway.trusted_proxies and listen.startswith("haproxy:"):
            words = 'an endpoint without "haproxy:", which believes every peer; set proxy_protocol'
            _fail(f"gateway.{key}", refusal(_shown(listen), words))


def _check_together(config: Config) -> None:
    """Raise _FaultError for values that are valid alone and contradict each other."""
    _check_proxies(config.gateway)
    if (refused := objection(config.gateway) or exposure(config).refused) is not None:
        raise _FaultError(refused)
    _check_models(config.models, {node.name: node for node in config.nodes})
    _check_nodes(config.nodes, config.aliases)
    for index, node in enumerate(config.nodes):
        _check_room(f"nodes[{index}] ({node.name})", node, config)
    if config.auth.metrics and config.auth.keys_file is None:
        words = "false, or the file with the keys in auth.keys_file"
        _fail("auth.metrics", refusal("true", words))


# ---------------------------------------------------------------------- reading


def _toml(text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        wrong, _, place = str(error).removesuffix(")").rpartition(" (at ")
        if place == "end of document":
            place = f"line {len(text.splitlines()) or 1}"
        raise _FaultError(f"{place}: not valid TOML: {one_line(wrong)}") from None
    except RecursionError:
        raise _FaultError("not valid TOML: lists or tables nested too deeply") from None
    except ValueError as error:  # Python does not convert a number of 5000 digits
        raise _FaultError(f"not valid TOML: {one_line(str(error))}") from None


def parse(text: str, source: str, overrides: Mapping[str, str] = NOTHING) -> Config:
    """Return the configuration of a TOML text; errors call it `source`, which is usually a path.

    `overrides` are values of [gateway] from the command line; they replace those of the file.

    Raises ConfigError for invalid TOML, for an unknown or a missing key, for a value that its key
    does not allow, and for values that contradict each other.
    """
    try:
        table = _toml(text)
        gateway = table.setdefault("gateway", {})
        if isinstance(gateway, dict):
            gateway.update(overrides)
        config = cast(Config, _table(CONFIG_TYPE, table, ""))
        _check_together(config)
    except _FaultError as fault:
        raise ConfigError(f"{one_line(source)}: {fault}") from None
    return config


def load(path: str | os.PathLike[str], overrides: Mapping[str, str] = NOTHING) -> Config:
    """Return the configuration of a TOML file in UTF-8; `overrides` are those of `parse`.

    Raises ConfigError as `parse` does, and for a file that is missing, unreadable or not UTF-8.
    """
    source = os.fspath(path)
    try:
        content = Path(source).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise unreadable(source, error) from None
    return parse(decoded(content, source), source, overrides)


def unreadable(source: str, error: Exception) -> ConfigError:
    """Return the error for a file that cannot be read."""
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    return ConfigError(
        f"{one_line(source)}: cannot be read ({one_line(reason)}), expected a TOML file"
    )


def decoded(content: bytes, source: str) -> str:
    """Return the text of a file. Raises ConfigError for other bytes than UTF-8."""
    try:
        return content.decode("utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"found byte 0x{content[error.start]:02x}, expected UTF-8 text"
        raise ConfigError(f"{one_line(source)}: line {line}: {found}") from None


def table_of(kind: types.StructType, found: str | Mapping[str, object], source: str) -> Any:
    """Return the Struct of a type for a TOML text, or for a table of one, with its values checked.

    Raises ConfigError as `parse` does.
    """
    try:
        return _table(kind, _toml(found) if isinstance(found, str) else dict(found), "")
    except _FaultError as fault:
        raise ConfigError(f"{one_line(source)}: {fault}") from None
