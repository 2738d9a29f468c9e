"""The configuration file: TOML in, frozen and checked values out.

Each table of the file is one Struct below, and a Struct is the only place that knows the table's
keys, their types, bounds and defaults: a new key is one new line there. Reading walks the file
beside those types, so that what is refused is named by its key path, with what was found and what
the type allows.
"""

import difflib
import functools
import math
import operator
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, NoReturn, cast

from msgspec import Meta, Struct, field
from msgspec import inspect as types

from cortexd.addresses import (
    AbsolutePath,
    Listen,
    NodeEndpoint,
    SocketPath,
    collide,
    host_and_port,
    one_line,
    only,
    printable,
    quoted,
    refusal,
)

MODEL_ALIAS: Final = "a name without control characters and without space at either end"
MODEL_ID: Final = f'{MODEL_ALIAS}, other than "default"'
NODE_NAME: Final = "1 to 64 characters of A-Z a-z 0-9 . _ -"
OCTAL_MODE: Final = '3 or 4 octal digits in quotes, such as "660"'
NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class ConfigError(Exception):
    """Raised when a configuration cannot be used; its text is one line for whoever wrote it."""


# ---------------------------------------------------------------------- values and messages


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
            return quoted(value)
        case list():
            return "a list" if value else "an empty list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def _key(key: str) -> str:
    """Write a key as TOML wants it: in quotes unless it is bare."""
    return printable(key) if re.fullmatch(r"[A-Za-z0-9_-]+", key) else quoted(key)


def _is_name(value: str) -> bool:
    return value.isprintable() and value == value.strip() != ""


def _is_model_id(value: str) -> bool:
    # "default" is the pseudo-model in every node's /v1/models: it stands for one of the others.
    return _is_name(value) and value != "default"


# ---------------------------------------------------------------------- the tables and their keys


Count = Annotated[int, Meta(ge=1)]
CountOrZero = Annotated[int, Meta(ge=0)]
Mebibytes = Annotated[int, Meta(gt=0, extra={"noun": "an integer of MiB"})]
MebibytesOrZero = Annotated[int, Meta(ge=0, extra={"noun": "an integer of MiB"})]
ModelAlias = Annotated[str, only(MODEL_ALIAS, _is_name)]
ModelId = Annotated[str, only(MODEL_ID, _is_model_id)]
NodeName = Annotated[str, only(NODE_NAME, re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch)]
OctalMode = Annotated[str, only(OCTAL_MODE, re.compile(r"[0-7]{3,4}").fullmatch)]
Seconds = Annotated[float, Meta(gt=0, extra={"noun": "a number of seconds"})]
SecondsOrZero = Annotated[float, Meta(ge=0, extra={"noun": "a number of seconds"})]


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
    allow_http_control: bool = False


class EvictionSettings(Struct, kw_only=True, frozen=True):
    """[eviction]: which models make room, and after how many unloads a node is repaired.

    Every `interval` seconds those are looked for that were idle for `idle_ttl` seconds; 0 is never.
    """

    strategy: Literal["lru", "priority"] = "lru"
    interval: Seconds = 10.0
    idle_ttl: SecondsOrZero = 0.0
    defrag_after_cycles: CountOrZero = 50


class PollingSettings(Struct, kw_only=True, frozen=True):
    """[polling]: how often, in seconds, nodes are asked what they hold, and when one is down."""

    interval: Seconds = 5.0
    timeout: Seconds = 2.0
    down_after: Count = 2
    system_info_interval: Seconds = 60.0


class SchedulingSettings(Struct, kw_only=True, frozen=True):
    """[scheduling]: how many requests of a model may wait, and the seconds that things may take.

    A request waits for `queue_timeout` at most, and after `max_wait` a model in use makes room for
    it; one loaded for less than `min_residency` is the last to make room.
    """

    load_timeout: Seconds = 1800.0
    max_queue: Count = 256
    queue_timeout: Seconds = 600.0
    max_wait: Seconds = 30.0
    min_residency: SecondsOrZero = 10.0


class NodeSettings(Struct, kw_only=True, frozen=True):
    """[[nodes]]: a machine with a mistral.rs server, its memory in MiB and its pinned models.

    `max_resident` is how many models it may hold at a time, 0 for any number; `models` has the
    footprints in MiB that count there instead of those in [[models]].
    """

    name: NodeName
    endpoint: NodeEndpoint
    vram_mb: Mebibytes
    reserve_mb: MebibytesOrZero = 0
    max_resident: CountOrZero = 0
    pinned: tuple[ModelId, ...] = ()
    models: Mapping[ModelId, Mebibytes] = NOTHING

    @property
    def budget_mb(self) -> int:
        """What models may fill there, in MiB."""
        return self.vram_mb - self.reserve_mb


class ModelSettings(Struct, kw_only=True, frozen=True):
    """[[models]]: what is known of a model beforehand; `vram_mb` is its footprint in MiB.

    One of higher `priority` stays longer. `ttl` are the seconds after which it is unloaded when
    idle, 0 for never and None for the `idle_ttl` of [eviction]; `pinned_on` are names of nodes.
    """

    id: ModelId
    aliases: tuple[ModelAlias, ...] = ()
    max_concurrency: Count = 32
    vram_mb: Mebibytes | None = None
    priority: int = 0
    ttl: SecondsOrZero | None = None
    pinned_on: tuple[NodeName, ...] = ()


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
    def pins(self) -> Mapping[str, tuple[str, ...]]:
        """The ids of the models pinned on each node: those it names, then those that name it."""
        pins = {node.name: dict.fromkeys(node.pinned) for node in self.nodes}
        for model in self.models:
            for name in model.pinned_on:
                pins[name][model.id] = None
        return MappingProxyType({name: tuple(ids) for name, ids in pins.items()})

    def footprint_mb(self, node: str, model: str) -> int | None:
        """Return the MiB that a model takes on a node, both by name; None if the file has none."""
        return self._models_by_node[node].get(model) or self.model(model).vram_mb

    @functools.cached_property
    def _models_by_node(self) -> Mapping[str, Mapping[str, int]]:
        return {node.name: node.models for node in self.nodes}

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
        case types.DictType(value_type=item):
            return f"a table, each value {_expected(item, path)}"
        case types.BoolType():
            return "true or false"
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
        case types.DictType(key_type=name, value_type=item), dict():
            built = {k: _build(item, entry, f"{path}.{_key(k)}") for k, entry in value.items()}
            return MappingProxyType({_build(name, k, f"a key of {path}"): built[k] for k in built})
        case types.LiteralType(values=values), str() if value in values:
            return value
        case types.BoolType(), bool():
            return value
        case types.StrType(), str():
            try:
                return parse(value) if parse else value
            except ValueError as error:
                _fail(path, error)
        case ((types.IntType() | types.FloatType()), _):
            if (number := _number(plain, value)) is not None:
                return number
    _fail(path, refusal(_shown(value), _expected(kind, path)))


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


# ---------------------------------------------------------------------- what must fit together


def _claim(claims: dict[object, str], claim: object, value: str, holder: str, key: str) -> None:
    """Note who holds what only one entry may hold, or raise _FaultError naming who has it."""
    if first := claims.get(claim):
        words = f"one that nothing else has: {first} has this one"
        _fail(f"{holder}.{key}", refusal(_shown(value), words))
    claims[claim] = holder


def _check_once(path: str, names: tuple[str, ...]) -> None:
    seen: set[str] = set()
    for position, name in enumerate(names):
        if name in seen:
            _fail(f"{path}[{position}]", refusal(f"{quoted(name)} again", "it once"))
        seen.add(name)


def _check_nodes(nodes: tuple[NodeSettings, ...], aliases: Mapping[str, str]) -> None:
    names: dict[object, str] = {}
    addresses: dict[object, str] = {}
    for index, node in enumerate(nodes):
        path = f"nodes[{index}] ({node.name})"
        _claim(names, node.name, node.name, path, "name")
        _claim(addresses, host_and_port(node.endpoint), node.endpoint, path, "endpoint")
        _check_once(f"{path}.pinned", node.pinned)
        named = [(f"pinned[{position}]", pinned) for position, pinned in enumerate(node.pinned)]
        for key, model in named + [(f"models.{_key(model)}", model) for model in node.models]:
            if stands_for := aliases.get(model):
                words = f"a model's id: this is an alias of {quoted(stands_for)}"
                _fail(f"{path}.{key}", refusal(quoted(model), words))


def _check_models(models: tuple[ModelSettings, ...], nodes: Mapping[str, object]) -> None:
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


def _check_room(path: str, node: NodeSettings, config: Config) -> None:
    """Raise _FaultError for footprints and pins that a node has no room for."""
    budget, pins = node.budget_mb, config.pins[node.name]
    if budget <= 0:
        words = f"less than vram_mb, which is {node.vram_mb}"
        _fail(f"{path}.reserve_mb", refusal(_shown(node.reserve_mb), words))
    words = f"at most {budget}, what reserve_mb leaves of vram_mb"
    for model, footprint in node.models.items():
        if footprint > budget:
            _fail(f"{path}.models.{_key(model)}", refusal(_shown(footprint), words))
    footprints = {model: config.footprint_mb(node.name, model) or 0 for model in pins}
    if (taken := sum(footprints.values())) > budget:
        named = ", ".join(f"{model} {size}" for model, size in footprints.items() if size)
        _fail(path, refusal(f"pins of {taken} MiB ({printable(named)})", words))
    if 0 < node.max_resident < len(pins):
        words = f"0 or at least {len(pins)}, the number of models pinned there"
        _fail(f"{path}.max_resident", refusal(_shown(node.max_resident), words))


def _check_together(config: Config) -> None:
    """Raise _FaultError for values that are right each alone and wrong together."""
    gateway = config.gateway
    if collide(gateway.listen, gateway.metrics_listen):
        words = f"an address that gateway.listen ({printable(gateway.listen)}) does not take"
        _fail("gateway.metrics_listen", refusal(_shown(gateway.metrics_listen), words))
    _check_models(config.models, {node.name: node for node in config.nodes})
    _check_nodes(config.nodes, config.aliases)
    for index, node in enumerate(config.nodes):
        _check_room(f"nodes[{index}] ({node.name})", node, config)


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
    except ValueError as error:  # what Python will not convert, such as a number of 5000 digits
        raise _FaultError(f"not valid TOML: {one_line(str(error))}") from None


def parse(text: str, source: str, overrides: Mapping[str, str] = NOTHING) -> Config:
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
        raise ConfigError(f"{one_line(source)}: {fault}") from None
    return config


def load(path: str | os.PathLike[str], overrides: Mapping[str, str] = NOTHING) -> Config:
    """Return the configuration in a file of UTF-8 TOML, `overrides` laid over it as in `parse`.

    Raises ConfigError as `parse` does, and for a file that is missing, unreadable or not UTF-8.
    """
    source = os.fspath(path)
    try:
        content = Path(source).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise ConfigError(
            f"{one_line(source)}: cannot be read ({one_line(reason)}), expected a TOML file"
        ) from None
    try:
        text = content.decode("utf-8-sig")  # some editors put a byte order mark first
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"found byte 0x{content[error.start]:02x}, expected UTF-8 text"
        raise ConfigError(f"{one_line(source)}: line {line}: {found}") from None
    return parse(text, source, overrides)
