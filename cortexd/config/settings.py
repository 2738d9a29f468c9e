"""What a configuration says: each table of the file is one Struct here.

A Struct is the only place that knows its table's keys, their types, bounds and defaults: a new key
is one new line. ``cortexd.config.reading`` reads a file into them and checks what must fit
together.
"""

import functools
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, field

from cortexd.config.addresses import AbsolutePath, Listen, NodeEndpoint, SocketPath, only

MODEL_ALIAS: Final = "a name without control characters and without space at either end"
MODEL_ID: Final = f'{MODEL_ALIAS}, other than "default"'
NODE_NAME: Final = "1 to 64 characters of A-Z a-z 0-9 . _ -"
OCTAL_MODE: Final = '3 or 4 octal digits in quotes, such as "660"'
NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def _is_name(value: str) -> bool:
    return value.isprintable() and value == value.strip() != ""


def _is_model_id(value: str) -> bool:
    # "default" is the pseudo-model in every node's /v1/models: it stands for one of the others.
    return _is_name(value) and value != "default"


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
    allow_image_urls: bool = True


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
    footprints in MiB that count there instead of those in [[models]]. A node of the `dialect`
    "anthropic" needs no `vram_mb`; `anthropic` says whether one of the other dialect is sent
    Messages requests translated or as they are. `api_key_file` holds the key its server wants.
    """

    name: NodeName
    endpoint: NodeEndpoint
    vram_mb: Mebibytes | None = None
    reserve_mb: MebibytesOrZero = 0
    max_resident: CountOrZero = 0
    pinned: tuple[ModelId, ...] = ()
    models: Mapping[ModelId, Mebibytes] = NOTHING
    dialect: Literal["openai", "anthropic"] = "openai"
    anthropic: Literal["translate", "native"] = "translate"
    api_key_file: AbsolutePath | None = None

    @property
    def budget_mb(self) -> int:
        """What models may fill there, in MiB; 0 where its memory is not known."""
        return 0 if self.vram_mb is None else self.vram_mb - self.reserve_mb

    @property
    def speaks_messages_alone(self) -> bool:
        """Whether it is no mistral.rs server: it takes Messages, and its models are its own."""
        return self.dialect == "anthropic"


class ModelSettings(Struct, kw_only=True, frozen=True):
    """[[models]]: what is known of a model beforehand; `vram_mb` is its footprint in MiB.

    One of higher `priority` stays longer. `ttl` are the seconds after which it is unloaded when
    idle, 0 for never and None for the `idle_ttl` of [eviction]; `pinned_on` are names of nodes.
    `context_window`, `max_output_tokens` and `image_tokens`, what an image is estimated at, are in
    tokens; the rest is for translations and means what it does in
    ``cortexd.dialects.wire.profile``.
    """

    id: ModelId
    aliases: tuple[ModelAlias, ...] = ()
    max_concurrency: Count = 32
    vram_mb: Mebibytes | None = None
    priority: int = 0
    ttl: SecondsOrZero | None = None
    pinned_on: tuple[NodeName, ...] = ()
    context_window: Count | None = None
    max_output_tokens: Count | None = None
    image_tokens: Count | None = None
    vision: bool | None = None
    reasoning_control: Literal["toggle", "effort", "none"] = "toggle"
    mid_system: Literal["user", "pass", "hoist"] = "user"
    tool_id_format: Literal["any", "mistral9"] = "any"
    alternate: bool = True
    inline_thinking: bool = False


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
