"""The configuration file: TOML in, frozen and checked values out.

``cortexd.config.tables`` walks the file along the types of ``cortexd.config.settings``; the checks
here are those of values that depend on each other.
"""

import difflib
import os
from collections.abc import Mapping
from typing import Final, cast

from msgspec import inspect as types

from cortexd.config.addresses import (
    host_and_port,
    path_prefix,
    quoted,
    refusal,
)
from cortexd.config.copies import check_copies
from cortexd.config.exposure import exposure
from cortexd.config.listening import agents_objection, objection
from cortexd.config.settings import (
    Config,
    GatewaySettings,
    ModelSettings,
    NodeSettings,
)
from cortexd.config.tables import (
    ConfigError,
    FaultError,
    as_written,
    decoded,
    fail,
    key_text,
    struct_of,
    text_of,
    toml_table,
)
from cortexd.config.values import NOTHING
from cortexd.engines.engine import Dialect
from cortexd.engines.registry import ENGINES
from cortexd.text import one_line, printable

__all__ = ["ConfigError", "decoded", "load", "parse"]

CONFIG_TYPE: Final = cast(types.StructType, types.type_info(Config))

# ---------------------------------------------------------------------- checks across keys

_UNMANAGED: Final = "such a server loads and unloads models by itself"


def _claim(claims: dict[object, str], claim: object, value: str, holder: str, key: str) -> None:
    """Record the entry that uses a unique value, or raise FaultError if another entry does."""
    if first := claims.get(claim):
        words = f"a unique value: {first} has the same one"
        fail(f"{holder}.{key}", refusal(as_written(value), words))
    claims[claim] = holder


def _check_once(path: str, names: tuple[str, ...]) -> None:
    seen: set[str] = set()
    for position, name in enumerate(names):
        if name in seen:
            fail(f"{path}[{position}]", refusal(f"{quoted(name)} again", "each name once"))
        seen.add(name)


def _check_nodes(nodes: tuple[NodeSettings, ...], aliases: Mapping[str, str]) -> None:
    names: dict[object, str] = {}
    addresses: dict[object, str] = {}
    for index, node in enumerate(nodes):
        path = f"nodes[{index}] ({node.name})"
        _check_engine(path, node)
        if node.vram_mb is None and node.runs.abilities.is_managed:
            fail(f"{path}.vram_mb", "missing, expected an integer of MiB > 0")
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
        for key, model in named + [(f"models.{key_text(model)}", model) for model in node.models]:
            if stands_for := aliases.get(model):
                words = f"a model's id: this is an alias of {quoted(stands_for)}"
                fail(f"{path}.{key}", refusal(quoted(model), words))


def _check_engine(path: str, node: NodeSettings) -> None:
    """Raise FaultError for a dialect that chooses another engine than `engine` does."""
    if node.engine is None or node.dialect is None:
        return
    speaks_only_messages = node.runs.abilities.dialects == {Dialect.MESSAGES}
    if (node.dialect == Dialect.MESSAGES.value) != speaks_only_messages:
        fail(f"{path}.dialect", refusal(as_written(node.dialect), _no_such_key(node)))


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
    """Raise FaultError for files of TLS where no TLS is, and for half of a certificate."""
    for key in ("ca_file", "client_certificate", "client_key"):
        value = getattr(node, key)
        if value is not None and not node.endpoint.startswith("https:"):
            words = f"no such key with the endpoint {quoted(node.endpoint)}, which is not https"
            fail(f"{path}.{key}", refusal(quoted(value), words))
    for key, other in (
        ("client_certificate", "client_key"),
        ("client_key", "client_certificate"),
    ):
        if getattr(node, key) is None and getattr(node, other) is not None:
            fail(f"{path}.{key}", f"missing, expected an absolute path, as {other} is set")


def _check_unmanaged(path: str, node: NodeSettings) -> None:
    """Raise FaultError for a key that has no meaning for a node that manages its own models."""
    for key in ("pinned", "max_resident", "models"):
        value = getattr(node, key)
        if value:
            shown = {"pinned": "a list", "models": "a table"}.get(key, as_written(value))
            fail(f"{path}.{key}", refusal(shown, f"{_no_such_key(node)}: {_UNMANAGED}"))


def _check_anthropic(path: str, node: NodeSettings) -> None:
    """Raise FaultError for a choice of Messages or chats that a node's engine does not leave."""
    dialects = node.runs.abilities.dialects
    if node.anthropic == "native" and dialects != set(Dialect):
        gets = (
            "always gets Messages unchanged" if Dialect.MESSAGES in dialects else "gets chats only"
        )
        words = f"{_no_such_key(node)}: such a server {gets}"
        fail(f"{path}.anthropic", refusal(as_written(node.anthropic), words))


def _check_responses(path: str, node: NodeSettings) -> None:
    """Raise FaultError for responses passed on to a node whose engine does not answer them."""
    if node.responses == "native" and not node.runs.abilities.answers_responses:
        words = f"{_no_such_key(node)}: such a server does not answer responses itself"
        fail(f"{path}.responses", refusal(as_written(node.responses), words))


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
                fail(f"{path}.pinned_on[{position}]", refusal(quoted(name), words))
            if not nodes[name].runs.abilities.is_managed:
                words = (
                    f"the name of a node of the {_managed_instead_of(nodes[name])}: {_UNMANAGED}"
                )
                fail(f"{path}.pinned_on[{position}]", refusal(quoted(name), words))
        window, answer = model.context_window, model.max_output_tokens
        if window is not None and answer is not None and answer > window:
            words = f"at most context_window, which is {window}"
            fail(f"{path}.max_output_tokens", refusal(as_written(answer), words))


def _check_room(path: str, node: NodeSettings, config: Config) -> None:
    """Raise FaultError for footprints and pins that do not fit into a node's memory."""
    budget, pins = node.budget_mb, config.pins[node.name]
    if node.vram_mb is None:
        return
    if budget <= 0:
        words = f"less than vram_mb, which is {node.vram_mb}"
        fail(f"{path}.reserve_mb", refusal(as_written(node.reserve_mb), words))
    words = f"at most {budget}, which is vram_mb minus reserve_mb"
    for model, footprint in node.models.items():
        if footprint > budget:
            fail(f"{path}.models.{key_text(model)}", refusal(as_written(footprint), words))
    footprints = {model: config.footprint_mb(node.name, model) or 0 for model in pins}
    if (taken := sum(footprints.values())) > budget:
        named = ", ".join(f"{model} {size}" for model, size in footprints.items() if size)
        fail(path, refusal(f"pinned models of {taken} MiB ({printable(named)})", words))
    if 0 < node.max_resident < len(pins):
        words = f"0 or at least {len(pins)}, the number of models pinned there"
        fail(f"{path}.max_resident", refusal(as_written(node.max_resident), words))


def _check_proxies(gateway: GatewaySettings) -> None:
    """Raise FaultError for PROXY headers of nobody, or of peers that are not trusted proxies."""
    if gateway.proxy_protocol and not gateway.trusted_proxies:
        words = "false, or the proxies that send the header in gateway.trusted_proxies"
        fail("gateway.proxy_protocol", refusal("true", words))
    for key in ("listen", "http_listen", "metrics_listen"):
        listen = getattr(gateway, key) or ""
        if gateway.trusted_proxies and listen.startswith("haproxy:"):
            words = 'an endpoint without "haproxy:", which believes every peer; set proxy_protocol'
            fail(f"gateway.{key}", refusal(as_written(listen), words))


def _check_together(config: Config) -> None:
    """Raise FaultError for values that are valid alone and contradict each other."""
    _check_proxies(config.gateway)
    if (refused := objection(config.gateway) or exposure(config).refused) is not None:
        raise FaultError(refused)
    if (refused := agents_objection(config.agents, config.gateway)) is not None:
        raise FaultError(refused)
    _check_models(config.models, {node.name: node for node in config.nodes})
    _check_nodes(config.nodes, config.aliases)
    check_copies(config)
    for index, node in enumerate(config.nodes):
        _check_room(f"nodes[{index}] ({node.name})", node, config)
        if node.power is not None and not node.power.suspend and config.agents.listen is None:
            words = "missing, expected a command, as there are no agents without agents.listen"
            fail(f"nodes[{index}] ({node.name}).power.suspend", words)
    if config.auth.metrics and config.auth.keys_file is None:
        words = "false, or the file with the keys in auth.keys_file"
        fail("auth.metrics", refusal("true", words))


# ---------------------------------------------------------------------- reading


def parse(text: str, source: str, overrides: Mapping[str, str] = NOTHING) -> Config:
    """Return the configuration of a TOML text; errors call it `source`, which is usually a path.

    `overrides` are values of [gateway] from the command line; they replace those of the file.

    Raises ConfigError for invalid TOML, for an unknown or a missing key, for a value that its key
    does not allow, and for values that contradict each other.
    """
    try:
        table = toml_table(text)
        gateway = table.setdefault("gateway", {})
        if isinstance(gateway, dict):
            gateway.update(overrides)
        config = cast(Config, struct_of(CONFIG_TYPE, table, ""))
        _check_together(config)
    except FaultError as fault:
        raise ConfigError(f"{one_line(source)}: {fault}") from None
    return config


def load(path: str | os.PathLike[str], overrides: Mapping[str, str] = NOTHING) -> Config:
    """Return the configuration of a TOML file in UTF-8; `overrides` are those of `parse`.

    Raises ConfigError as `parse` does, and for a file that is missing, unreadable or not UTF-8.
    """
    return parse(text_of(path), os.fspath(path), overrides)
