"""What each part of the daemon takes from a configuration.

``cortexd.assembly`` makes the parts by these terms, and ``cortexd.reassembly`` gives the same terms
of another configuration to the parts as they run. A key that reaches a part by another way would
not be reloaded; ``tests/test_reassembly.py`` finds it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from socket import gethostname
from typing import Any, NamedTuple

from cortexd.access.keys import Key
from cortexd.admission.clients import ClientLimits
from cortexd.admission.descriptors import Shares
from cortexd.admission.proxies import Proxies
from cortexd.agents.enrolling import EnrolmentTerms
from cortexd.agents.machines import Machine, machine
from cortexd.config import keys_file
from cortexd.config.listening import agents_address
from cortexd.config.node_tls import NodeTLS
from cortexd.config.settings import Config, ModelSettings, NodeSettings
from cortexd.dialects.wire.profile import (
    MidSystem,
    NodeKind,
    Profile,
    ReasoningControl,
    ToolIdFormat,
)
from cortexd.downstream.hosts import Hosts
from cortexd.fleet.breaker import BreakerTerms
from cortexd.fleet.nodes import ModelTerms, NodeTerms
from cortexd.fleet.reconfiguring import FleetTerms
from cortexd.fleet.sleep.power import PowerTerms
from cortexd.gateway.fatal import SUSPECTED_SECONDS
from cortexd.gateway.patience import Patience
from cortexd.scheduling.placement import EvictionTerms
from cortexd.scheduling.repairs.terms import RepairTerms
from cortexd.scheduling.terms import SchedulingTerms
from cortexd.store.response_file import Limits
from cortexd.upstream.lifecycle import LifecycleTerms
from cortexd.upstream.poller import PollingTerms

MEBIBYTE = 1024 * 1024


def longest_doubt(config: Config) -> float:
    """Return after how many seconds at most a node whose process has ended is found down."""
    polling = config.polling
    return max(SUSPECTED_SECONDS, (polling.interval + polling.timeout) * (polling.down_after + 1))


def fleet_terms(config: Config) -> FleetTerms:
    """Return the terms of nodes and models."""

    def terms_of(model: ModelSettings) -> ModelTerms:
        ttl = config.eviction.idle_ttl if model.ttl is None else model.ttl
        return ModelTerms(
            model.max_concurrency,
            model.priority,
            ttl,
            model.min_copies,
            model.max_copies,
            model.only_on,
            model.prefer,
        )

    nodes = tuple(
        NodeTerms(
            node.name,
            node.endpoint,
            node.budget_mb,
            node.max_resident,
            config.pins[node.name],
            is_managed=node.runs.abilities.is_managed,
            engine=node.runs.name,
            power=power_terms(node),
            labels=node.labels,
        )
        for node in config.nodes
    )
    return FleetTerms(
        nodes,
        {model.id: terms_of(model) for model in config.models},
        terms_of(ModelSettings(id="any")),
        config.footprint_mb,
        config.polling.down_after,
        config.scheduling.load_timeout,
        BreakerTerms(
            config.scheduling.eject_after,
            config.scheduling.eject_seconds,
            config.scheduling.max_eject_seconds,
        ),
    )


def power_terms(node: NodeSettings) -> PowerTerms | None:
    """Return when a node may sleep, ``None`` if it never does."""
    power = node.power
    if power is None:
        return None
    return PowerTerms(bool(power.suspend), power.idle_seconds, power.wake_seconds)


def machines(config: Config) -> dict[str, Machine]:
    """Return how nodes are let sleep and woken, by their names."""
    return {
        node.name: machine(
            node.power.wake, node.power.broadcast, node.power.suspend, node.power.wake_seconds
        )
        for node in config.nodes
        if node.power is not None
    }


def scheduling_terms(config: Config) -> SchedulingTerms:
    """Return the scheduler's settings."""
    eviction, scheduling = config.eviction, config.scheduling
    return SchedulingTerms(
        max_queue=scheduling.max_queue,
        queue_timeout=scheduling.queue_timeout,
        max_wait=scheduling.max_wait,
        defrag_after_cycles=eviction.defrag_after_cycles,
        affinity=scheduling.affinity,
        prefetch=scheduling.prefetch,
        eviction=EvictionTerms(eviction.strategy, scheduling.min_residency),
        repair=RepairTerms(
            config.repair.automatic,
            config.repair.restart_budget,
            config.repair.idle_seconds,
            config.repair.restart_timeout,
        ),
    )


def named_models(config: Config) -> list[str]:
    """Return the ids of the models in a configuration, in the order of the catalogue's default."""
    named = [model.id for model in config.models]
    return named + [model for pinned in config.pins.values() for model in pinned]


class ProfileTerms(NamedTuple):
    """The arguments of ``Profiles`` that come from a configuration."""

    kinds: Mapping[str, NodeKind]
    models: Mapping[str, Profile]
    default: Profile
    explicit: Mapping[str, Collection[str]]


def profile_terms(config: Config) -> ProfileTerms:
    """Return what a configuration says of the abilities of nodes and models."""

    def profile_of(model: ModelSettings) -> Profile:
        return Profile(
            context_window=model.context_window,
            max_output=model.max_output_tokens,
            inline_thinking=model.inline_thinking,
            fetches_images=config.gateway.allow_image_urls,
            hygiene=config.gateway.prompt_hygiene == "strip",
            **explicit_abilities(model),
        )

    kinds = {
        node.name: node.runs.abilities.kind(
            passes_messages=node.anthropic == "native",
            passes_responses=node.responses == "native",
        )
        for node in config.nodes
    }
    models = {model.id: profile_of(model) for model in config.models}
    explicit = {model.id: explicit_abilities(model).keys() for model in config.models}
    return ProfileTerms(kinds, models, profile_of(ModelSettings(id="any")), explicit)


def explicit_abilities(model: ModelSettings) -> dict[str, Any]:
    """Return the abilities that a model's configuration states, by their names in a profile."""
    stated = {
        "system_role": model.system_role,
        "mid_system": model.mid_system and MidSystem(model.mid_system),
        "alternate": model.alternate,
        "tool_turns": model.tool_turns,
        "parallel_calls": model.parallel_calls,
        "text_beside_calls": model.text_beside_calls,
        "user_after_tool": model.user_after_tool,
        "tool_id_format": model.tool_id_format and ToolIdFormat(model.tool_id_format),
        "efforts": model.efforts,
        "reasoning_control": model.reasoning_control and ReasoningControl(model.reasoning_control),
        "vision": model.vision,
    }
    return {name: value for name, value in stated.items() if value is not None}


def image_tokens(config: Config) -> dict[str, int]:
    """Return the tokens of an image, by the model's id, where they are known."""
    return {each.id: each.image_tokens for each in config.models if each.image_tokens}


def patience(config: Config) -> Patience:
    """Return the limits of every request."""
    return Patience(
        hold=config.gateway.hold_seconds,
        keepalive=config.gateway.keepalive_seconds,
        upstream=config.gateway.upstream_timeout,
    )


def response_limits(config: Config) -> Limits:
    """Return the limits of stored responses."""
    return Limits(config.responses.max_age, config.responses.max_mb * MEBIBYTE)


def lifecycle_terms(config: Config) -> LifecycleTerms:
    """Return the limits of loads, and how often the scheduler looks at all."""
    return LifecycleTerms(config.scheduling.load_timeout, config.eviction.interval)


def polling_terms(config: Config) -> PollingTerms:
    """Return how often nodes are polled."""
    polling = config.polling
    return PollingTerms(polling.interval, polling.timeout, polling.system_info_interval)


def max_body_bytes(config: Config) -> int:
    """Return how long the body of a request may be."""
    return config.gateway.max_body_mb * MEBIBYTE


def body_memory_bytes(config: Config) -> int:
    """Return how much memory the bodies of all requests may take: at least one body fits."""
    return max(config.gateway.body_memory_mb * MEBIBYTE, max_body_bytes(config))


def first_polls_patience(config: Config) -> float:
    """Return how many seconds early requests wait for the first polls."""
    # A poll that takes its full time on a busy reactor ends a little later.
    return 2 * config.polling.timeout


def keys(config: Config) -> tuple[Key, ...] | None:
    """Return the keys that admit requests, ``None`` where no key is required.

    Reads the keys file. Raises ConfigError.
    """
    path = config.auth.keys_file
    return None if path is None else keys_file.load(path)


def exposure(config: Config) -> str | None:
    """Return a warning about the mode of the keys file, or ``None``. Looks at the file."""
    path = config.auth.keys_file
    return None if path is None else keys_file.exposure(path)


def client_limits(config: Config, files: Shares) -> ClientLimits:
    """Return the limits on the clients of the gateway, whose share of the open files is known."""
    return ClientLimits(files.clients, files.surplus, config.gateway.body_timeout)


def proxies(config: Config) -> Proxies:
    """Return the proxies in front of the gateway."""
    gateway = config.gateway
    return Proxies(gateway.trusted_proxies, send_header=gateway.proxy_protocol)


def hosts(config: Config) -> Hosts:
    """Return the names under which clients may address the gateway."""
    return Hosts(config.gateway.hosts, gethostname())


def enrolment_terms(config: Config, files: NodeTLS | None) -> EnrolmentTerms:
    """Return the terms of the agents' links, with the content of the files for them, if any."""
    agents = config.agents
    return EnrolmentTerms(
        is_open=agents.listen is not None,
        address=agents_address(agents),
        names=agents.names,
        files=files,
    )
