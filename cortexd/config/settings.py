"""The contents of a configuration: one Struct for each table of the file.

Only the Struct of a table knows its keys, their types, bounds and defaults, so that a new key is
one new line. ``cortexd.config.reading`` reads a file into these Structs and checks the values that
depend on each other.
"""

import functools
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from cortexd.config.addresses import (
    AbsolutePath,
    Broadcast,
    CertifiedName,
    HardwareAddress,
    Listen,
    NodeEndpoint,
    ProxyAddress,
    SocketPath,
    only,
    quoted,
)
from cortexd.config.values import (
    NOTHING,
    Count,
    CountOrZero,
    Label,
    Mebibytes,
    MebibytesOrZero,
    NodeName,
    OctalMode,
    RestartSeconds,
    Seconds,
    SecondsOrZero,
    Word,
)
from cortexd.engines.engine import Dialect, Engine
from cortexd.engines.registry import BY_DIALECT, ENGINES

ENGINE_NAME: Final = " or ".join(map(quoted, ENGINES))
MODEL_ALIAS: Final = "a name without control characters and without space at either end"
MODEL_ID: Final = f'{MODEL_ALIAS}, other than "default"'
ORIGIN: Final = '"*", or an origin such as "http://localhost:3000": scheme, host and port, no path'
HOST_OR_SUFFIX: Final = '"*", a name such as "gpu.example.com", or an end of names: ".example.com"'


def _is_name(value: str) -> bool:
    return value.isprintable() and value == value.strip() != ""


def _is_model_id(value: str) -> bool:
    # Every node's /v1/models lists a pseudo-model "default", an alias of one of the others.
    return _is_name(value) and value != "default"


Effort = Literal["minimal", "low", "medium", "high", "xhigh", "max"]
EngineName = Annotated[str, only(ENGINE_NAME, ENGINES.__contains__)]
HostOrSuffix = Annotated[
    str, only(HOST_OR_SUFFIX, re.compile(r"\*|\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*").fullmatch)
]
ModelAlias = Annotated[str, only(MODEL_ALIAS, _is_name)]
ModelId = Annotated[str, only(MODEL_ID, _is_model_id)]
Origin = Annotated[
    str, only(ORIGIN, re.compile(r"\*|[A-Za-z][A-Za-z0-9+.-]*://[A-Za-z0-9._:\[\]-]+").fullmatch)
]


class GatewaySettings(Struct, kw_only=True, frozen=True):
    """[gateway]: the daemon's addresses and files, and its timeouts.

    `tls_certificate` and `tls_key` are the PEM files with which clients speak TLS at `listen`, and
    `http_listen` is an address on loopback for plain HTTP beside it.
    `body_memory_mb` are the MiB that the bodies of all requests together may take, and
    `body_timeout` is the time for the body of a request that brings less than 4 KiB a second.
    `max_clients` is the number of connections served at a time; None for as many as the limit of
    open files allows. `max_delay` is the delay in seconds above which new requests are refused.
    `upstream_timeout` is the silence of a node, in seconds, after which a request to it fails.
    With `show_waiting`, a streamed chat shows what it waits for.
    `grace_seconds` is the time for streams to end after the daemon was asked to stop.
    `hosts` are further names under which clients may address the gateway, and `trusted_proxies` the
    peers whose X-Forwarded-For states the client. With `proxy_protocol`, their connections begin
    with a PROXY header. `cors_origins` are the
    origins whose pages may send requests and read our answers in a browser, and
    `models_status` is the form of a model's status in the list of models. `prompt_hygiene` says
    whether lines that clients change in each request are left out of system prompts. The log has
    the events from `log_level` on.
    """

    listen: Listen = "127.0.0.1:8000"
    http_listen: Listen | None = None
    tls_certificate: AbsolutePath | None = None
    tls_key: AbsolutePath | None = None
    metrics_listen: Listen = "127.0.0.1:9100"
    control_socket: SocketPath | None = None
    control_mode: OctalMode = "660"
    state_dir: AbsolutePath | None = None
    max_body_mb: Count = 32
    body_memory_mb: Count = 512
    body_timeout: Seconds = 60.0
    max_clients: Count | None = None
    max_delay: SecondsOrZero = 0.5
    hold_seconds: Seconds = 5.0
    keepalive_seconds: Seconds = 10.0
    show_waiting: bool = False
    connect_timeout: Seconds = 5.0
    upstream_timeout: Seconds = 600.0
    grace_seconds: Seconds = 30.0
    allow_http_control: bool = False
    allow_image_urls: bool = True
    hosts: tuple[HostOrSuffix, ...] = ()
    trusted_proxies: tuple[ProxyAddress, ...] = ()
    proxy_protocol: bool = False
    cors_origins: tuple[Origin, ...] = ()
    models_status: Literal["flat", "object"] = "flat"
    prompt_hygiene: Literal["strip", "off"] = "strip"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class AuthSettings(Struct, kw_only=True, frozen=True):
    """[auth]: who may use the gateway.

    `keys_file` has the keys; without one no request needs a key. `open` says that this is meant,
    also where others than this machine can connect. With `metrics`, /metrics needs a key too.
    """

    keys_file: AbsolutePath | None = None
    open: bool = False
    metrics: bool = False


NO_AUTH: Final = AuthSettings()
"""The settings of a file without the table [auth]."""


class EvictionSettings(Struct, kw_only=True, frozen=True):
    """[eviction]: which models make room, and after how many unloads a node is due for a restart.

    Every `interval` seconds the models that were idle for `idle_ttl` seconds are unloaded; 0 means
    never.
    """

    strategy: Literal["heat", "lru", "priority"] = "heat"
    interval: Seconds = 10.0
    idle_ttl: SecondsOrZero = 0.0
    defrag_after_cycles: CountOrZero = 50


class PollingSettings(Struct, kw_only=True, frozen=True):
    """[polling]: how often, in seconds, nodes are polled, and when a node counts as down."""

    interval: Seconds = 5.0
    timeout: Seconds = 2.0
    down_after: Count = 2
    system_info_interval: Seconds = 60.0


class SchedulingSettings(Struct, kw_only=True, frozen=True):
    """[scheduling]: the length of a model's queue, and limits in seconds.

    A request waits for at most `queue_timeout`, and after `max_wait` a model in use makes room for
    it. A model that was loaded less than `min_residency` ago is the last to make room. A replica
    that has failed `eject_after` requests in a row gets no more for `eject_seconds`, twice as long
    each time up to `max_eject_seconds`; with `eject_after` 0 none is ejected. `probe` says whether
    idle models are asked what their chat templates can do, `affinity` whether requests that go on
    with a conversation prefer the copy that has read it, `prefetch` whether what a node has lost is
    loaded before it is requested.
    """

    load_timeout: Seconds = 1800.0
    max_queue: Count = 256
    queue_timeout: Seconds = 600.0
    max_wait: Seconds = 30.0
    min_residency: SecondsOrZero = 10.0
    eject_after: CountOrZero = 3
    eject_seconds: Seconds = 10.0
    max_eject_seconds: Seconds = 300.0
    affinity: bool = True
    prefetch: bool = True
    probe: bool = True


class RepairSettings(Struct, kw_only=True, frozen=True):
    """[repair]: how agents restart engines that need it; times in seconds.

    `automatic` says whether that happens without an operator, and `restart_budget` how often in an
    hour for one node. A node is idle `idle_seconds` after its last request. A restart, with the
    loads that follow from it, may take `restart_timeout`.
    """

    automatic: bool = True
    restart_budget: Count = 4
    idle_seconds: SecondsOrZero = 60.0
    restart_timeout: RestartSeconds = 900.0


class ResponsesSettings(Struct, kw_only=True, frozen=True):
    """[responses]: how long, in seconds since their last use, and how many MiB are stored."""

    max_age: Seconds = 2_592_000.0
    max_mb: Mebibytes = 512


class AgentsSettings(Struct, kw_only=True, frozen=True):
    """[agents]: where the agents beside engines connect, and with which certificates.

    Without `listen` there are no agents. `certificate` and `key` are the PEM files of the gateway's
    certificate for agents, and `ca` is the file with the authorities of theirs; without these three
    the gateway has an authority of its own in its state directory. `names` are further names and
    addresses in the certificate that this one makes.
    """

    listen: Listen | None = None
    certificate: AbsolutePath | None = None
    key: AbsolutePath | None = None
    ca: AbsolutePath | None = None
    names: tuple[CertifiedName, ...] = ()


class NodePowerSettings(Struct, kw_only=True, frozen=True):
    """[nodes.power]: how a node that nobody needs is let sleep, and how it is woken; in seconds.

    `wake` is the hardware address of its network card, and `broadcast` is where the packets go that
    wake it. `suspend` is a command that lets the node sleep; without it, the node's agent has one.
    A node may sleep after `idle_seconds` without a request, and must answer within `wake_seconds`
    after it was woken.
    """

    wake: HardwareAddress
    broadcast: Broadcast = "255.255.255.255:9"
    suspend: tuple[Word, ...] = ()
    idle_seconds: Seconds = 1800.0
    wake_seconds: Seconds = 120.0


class NodeSettings(Struct, kw_only=True, frozen=True):
    """[[nodes]]: a machine with a server of an `engine`, its memory in MiB and its pinned models.

    `max_resident` is how many models the node may hold at a time, 0 for any number. `models` has
    footprints in MiB that replace those of [[models]] on this node. `dialect` chooses the engine if
    `engine` does not. A node that manages its models itself needs no `vram_mb`. `anthropic` says
    whether a node that speaks both dialects gets Messages requests translated or unchanged, and
    `responses` whether a node that answers responses itself gets them translated or unchanged.
    `api_key_file` contains the API key of its server. `ca_file` contains the certificates of the
    authorities that may sign the server's certificate, instead of those that the system trusts.
    `client_certificate` is the certificate that we show the server, and `client_key` is its key.
    A node with `power` may sleep. `labels` are the words for it in `only_on` and `prefer` of
    [[models]].
    """

    name: NodeName
    endpoint: NodeEndpoint
    vram_mb: Mebibytes | None = None
    reserve_mb: MebibytesOrZero = 0
    max_resident: CountOrZero = 0
    pinned: tuple[ModelId, ...] = ()
    models: Mapping[ModelId, Mebibytes] = NOTHING
    engine: EngineName | None = None
    dialect: Literal["openai", "anthropic"] | None = None
    anthropic: Literal["translate", "native"] = "translate"
    responses: Literal["translate", "native"] = "translate"
    api_key_file: AbsolutePath | None = None
    ca_file: AbsolutePath | None = None
    client_certificate: AbsolutePath | None = None
    client_key: AbsolutePath | None = None
    power: NodePowerSettings | None = None
    labels: tuple[Label, ...] = ()

    @property
    def budget_mb(self) -> int:
        """The MiB that models may fill on the node; 0 if its memory is unknown."""
        return 0 if self.vram_mb is None else self.vram_mb - self.reserve_mb

    @property
    def runs(self) -> Engine:
        """The engine of its server."""
        if self.engine is not None:
            return ENGINES[self.engine]
        return BY_DIALECT[Dialect(self.dialect or "openai")]


class ModelSettings(Struct, kw_only=True, frozen=True):
    """[[models]]: the settings of a model; `vram_mb` is its footprint in MiB.

    A model of a higher `priority` stays longer. `ttl` is the number of idle seconds after which the
    model is unloaded, 0 for never and None for the `idle_ttl` of [eviction]. `pinned_on` are names
    of nodes. At least `min_copies` copies are loaded, and never more than `max_copies`, 0 for any
    number. With `only_on` it is used only on nodes with one of these labels; of several nodes it is
    loaded on those with a label in `prefer`, the first label first. `context_window`,
    `max_output_tokens` and `image_tokens` (the estimate for an image) are in tokens. The other keys
    are for translations and have the same meaning as in ``cortexd.dialects.wire.profile``. Where
    one of them is None, a probe finds it out.
    """

    id: ModelId
    aliases: tuple[ModelAlias, ...] = ()
    max_concurrency: Count = 32
    vram_mb: Mebibytes | None = None
    priority: int = 0
    ttl: SecondsOrZero | None = None
    pinned_on: tuple[NodeName, ...] = ()
    min_copies: CountOrZero = 0
    max_copies: CountOrZero = 0
    only_on: tuple[Label, ...] = ()
    prefer: tuple[Label, ...] = ()
    context_window: Count | None = None
    max_output_tokens: Count | None = None
    image_tokens: Count | None = None
    vision: bool | None = None
    reasoning_control: Literal["toggle", "effort", "none"] | None = None
    efforts: tuple[Effort, ...] | None = None
    system_role: bool | None = None
    mid_system: Literal["user", "pass", "hoist"] | None = None
    alternate: bool | None = None
    tool_turns: bool | None = None
    parallel_calls: bool | None = None
    text_beside_calls: bool | None = None
    user_after_tool: bool | None = None
    tool_id_format: Literal["any", "mistral9"] | None = None
    inline_thinking: bool = False


class Config(Struct, kw_only=True, frozen=True, dict=True):
    """A whole configuration. `load` and `parse` check each value, and the values together."""

    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    auth: AuthSettings = NO_AUTH
    eviction: EvictionSettings = field(default_factory=EvictionSettings)
    polling: PollingSettings = field(default_factory=PollingSettings)
    scheduling: SchedulingSettings = field(default_factory=SchedulingSettings)
    repair: RepairSettings = field(default_factory=RepairSettings)
    responses: ResponsesSettings = field(default_factory=ResponsesSettings)
    agents: AgentsSettings = field(default_factory=AgentsSettings)
    nodes: Annotated[tuple[NodeSettings, ...], Meta(min_length=1)]
    models: tuple[ModelSettings, ...] = ()

    @property
    def has_auth(self) -> bool:
        """Whether the file has the table [auth]: newer files have, and are held to it."""
        return self.auth is not NO_AUTH

    def model(self, model_id: str) -> ModelSettings:
        """Return the settings of the model with this id, or the defaults if it has no entry."""
        return self._models_by_id.get(model_id) or ModelSettings(id=model_id)

    @functools.cached_property
    def aliases(self) -> Mapping[str, str]:
        """The model id that each alias stands for."""
        return MappingProxyType({alias: m.id for m in self.models for alias in m.aliases})

    @functools.cached_property
    def pins(self) -> Mapping[str, tuple[str, ...]]:
        """The ids of the models pinned on each node: first `pinned`, then `pinned_on`."""
        pins = {node.name: dict.fromkeys(node.pinned) for node in self.nodes}
        for model in self.models:
            for name in model.pinned_on:
                pins[name][model.id] = None
        return MappingProxyType({name: tuple(ids) for name, ids in pins.items()})

    def footprint_mb(self, node: str, model: str) -> int | None:
        """Return the configured MiB of a model on a node, both by name; None if not configured."""
        return self._models_by_node[node].get(model) or self.model(model).vram_mb

    @functools.cached_property
    def _models_by_node(self) -> Mapping[str, Mapping[str, int]]:
        return {node.name: node.models for node in self.nodes}

    @functools.cached_property
    def _models_by_id(self) -> Mapping[str, ModelSettings]:
        return {model.id: model for model in self.models}
