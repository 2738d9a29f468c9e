"""The daemon, put together from its parts as a configuration describes it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from OpenSSL.crypto import Error as SSLError
from twisted.internet.endpoints import serverFromString
from twisted.web.server import Site

from cortexd.config import paths
from cortexd.config.addresses import endpoint_description
from cortexd.config.credentials import credentials_of
from cortexd.config.reading import ConfigError
from cortexd.config.settings import Config, ModelSettings
from cortexd.control.server import ControlFactory
from cortexd.control.socket import ControlSocketError, control_service
from cortexd.dialects.wire.profile import MidSystem, Profile, ReasoningControl, Speaks, ToolIdFormat
from cortexd.dispatcher import Dispatcher
from cortexd.downstream.http_server import GatewaySite
from cortexd.fleet.catalogue import Catalogue
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.footprints import Footprints
from cortexd.fleet.nodes import ModelTerms, NodeTerms
from cortexd.gateway.patience import Patience
from cortexd.gateway.profiles import Profiles
from cortexd.gateway.relay import Relay
from cortexd.gateway.routes import Gateway
from cortexd.gateway.token_counts import TokenCounts
from cortexd.scheduling.allocator import SchedulingTerms
from cortexd.scheduling.placement import EvictionTerms
from cortexd.scheduling.scheduler import Scheduler
from cortexd.service.stages import (
    Ending,
    ListenError,
    ListeningService,
    SignalService,
    Stages,
)
from cortexd.service.systemd import Notifier, SystemdService
from cortexd.store.file import StoreError
from cortexd.store.recorder import Recorder
from cortexd.telemetry.accounting import Accountant
from cortexd.telemetry.fleet_metrics import FleetCollector
from cortexd.telemetry.metrics import Metrics, MetricsResource
from cortexd.upstream.client import NodeClient
from cortexd.upstream.connections import make_http_client
from cortexd.upstream.lifecycle import Lifecycle, LifecycleTerms
from cortexd.upstream.poller import Poller


@dataclass(frozen=True, slots=True)
class Daemon:
    """The assembled daemon: ``service`` runs it, ``listener`` and ``metrics_listener`` listen."""

    service: Stages
    fleet: Fleet
    listener: ListeningService
    metrics_listener: ListeningService


def daemon(settings: Config, reactor: Any, environ: Mapping[str, str]) -> Daemon:
    """Return the daemon that ``settings`` describe, not yet started.

    Raises ConfigError where an address cannot be used, and NoHomeError where there is no place
    for the control socket.
    """
    gateway_settings, polling = settings.gateway, settings.polling
    started_at = time.time()
    metrics = Metrics()
    scheduler = make_scheduler(settings, reactor.seconds())
    metrics.registry.register(FleetCollector(scheduler, reactor))
    dispatcher = Dispatcher(scheduler, reactor, metrics)
    fleet = scheduler.fleet
    recorder = Recorder(
        dispatcher,
        metrics,
        Path(gateway_settings.state_dir or paths.state_dir(environ, os.getuid())),
        time.time,
    )
    named = [model.id for model in settings.models]
    named += [model for pinned in settings.pins.values() for model in pinned]
    catalogue = Catalogue(fleet, settings.aliases, named)
    http, pool = make_http_client(reactor, gateway_settings.connect_timeout)
    clients = {
        node.name: NodeClient(
            node.name,
            node.endpoint,
            http,
            reactor,
            speaks_messages_alone=node.speaks_messages_alone,
            credentials=credentials_of(node),
        )
        for node in settings.nodes
    }
    accountant = Accountant(metrics, reactor)
    profiles = make_profiles(settings, fleet)
    relay = Relay(
        clients,
        dispatcher,
        accountant,
        reactor,
        Patience(
            hold=gateway_settings.hold_seconds,
            keepalive=gateway_settings.keepalive_seconds,
            upstream=gateway_settings.upstream_timeout,
        ),
        profiles,
    )
    gateway = Gateway(
        dispatcher,
        catalogue,
        relay,
        profiles,
        TokenCounts(
            fleet,
            catalogue,
            profiles,
            clients,
            {each.id: each.image_tokens for each in settings.models if each.image_tokens},
        ),
        accountant,
        reactor,
        int(started_at),
        allow_http_control=gateway_settings.allow_http_control,
    )
    site = GatewaySite(gateway.resource(), reactor, gateway_settings.max_body_mb * 1024 * 1024)
    metrics_site = Site(MetricsResource(metrics), reactor=reactor)
    metrics_site.log = lambda request: None  # type: ignore[method-assign] # no access log
    listener = _listening("gateway.listen", gateway_settings.listen, site, reactor)
    metrics_listener = _listening(
        "gateway.metrics_listen", gateway_settings.metrics_listen, metrics_site, reactor
    )

    async def drain() -> None:
        await gateway.drain(gateway_settings.grace_seconds)
        await site.close_connections()

    lifecycle = Lifecycle(
        dispatcher,
        clients,
        recorder,
        reactor,
        LifecycleTerms(
            load_timeout=settings.scheduling.load_timeout,
            sweep_interval=settings.eviction.interval,
        ),
    )
    stages = Stages(expected=(ListenError, ControlSocketError, StoreError))
    stages.stage(Ending(pool.closeCachedConnections))
    stages.stage(metrics_listener)
    stages.stage(recorder)
    stages.stage(
        control_service(
            reactor,
            gateway_settings.control_socket or str(paths.control_socket(environ, os.getuid())),
            gateway_settings.control_mode,
            ControlFactory(dispatcher, recorder, reactor, started_at, settings.aliases),
        )
    )
    stages.stage(lifecycle)
    stages.stage(
        Poller(
            dispatcher,
            clients,
            reactor,
            metrics,
            interval=polling.interval,
            timeout=polling.timeout,
            system_info_interval=polling.system_info_interval,
        )
    )
    stages.stage(Ending(drain))
    stages.stage(listener)
    stages.stage(SignalService(reactor, hurry=gateway.cut))
    stages.stage(SystemdService(reactor, Notifier(environ), environ))
    return Daemon(stages, fleet, listener, metrics_listener)


def make_profiles(settings: Config, fleet: Fleet) -> Profiles:
    """Return what each replica of the fleet can do, as far as ``settings`` say it."""

    def profile_of(model: ModelSettings) -> Profile:
        return Profile(
            context_window=model.context_window,
            max_output=model.max_output_tokens,
            vision=model.vision is not False,
            reasoning_control=ReasoningControl(model.reasoning_control),
            mid_system=MidSystem(model.mid_system),
            tool_id_format=ToolIdFormat(model.tool_id_format),
            alternate=model.alternate,
            inline_thinking=model.inline_thinking,
            fetches_images=settings.gateway.allow_image_urls,
        )

    speaks = {
        node.name: Speaks.MESSAGES if node.speaks_messages_alone else Speaks.BOTH
        for node in settings.nodes
        if node.speaks_messages_alone or node.anthropic == "native"
    }
    models = {model.id: profile_of(model) for model in settings.models}
    return Profiles(fleet, speaks, models, profile_of(ModelSettings(id="any")))


def make_scheduler(settings: Config, now: float) -> Scheduler:
    """Return the scheduler, over the fleet that ``settings`` describe."""
    eviction, scheduling = settings.eviction, settings.scheduling

    def terms_of(model: ModelSettings) -> ModelTerms:
        ttl = eviction.idle_ttl if model.ttl is None else model.ttl
        return ModelTerms(model.max_concurrency, model.priority, ttl)

    fleet = Fleet(
        [
            NodeTerms(
                node.name,
                node.endpoint,
                node.budget_mb,
                node.max_resident,
                settings.pins[node.name],
                is_managed=not node.speaks_messages_alone,
            )
            for node in settings.nodes
        ],
        {model.id: terms_of(model) for model in settings.models},
        Footprints(settings.footprint_mb, {}),
        default_terms=terms_of(ModelSettings(id="any")),
        now=now,
        down_after=settings.polling.down_after,
        load_timeout=scheduling.load_timeout,
    )
    return Scheduler(
        fleet,
        SchedulingTerms(
            max_queue=scheduling.max_queue,
            queue_timeout=scheduling.queue_timeout,
            max_wait=scheduling.max_wait,
            defrag_after_cycles=eviction.defrag_after_cycles,
            eviction=EvictionTerms(eviction.strategy, scheduling.min_residency),
        ),
    )


def _listening(key: str, listen: str, factory: Any, reactor: Any) -> ListeningService:
    try:
        endpoint = serverFromString(reactor, endpoint_description(listen))
    except LookupError:  # what Twisted looks for is what systemd has named or numbered
        reason: object = (
            "systemd has not handed over this socket; cortexd must be started by a unit with such "
            "a .socket"
        )
    except (ValueError, TypeError, AttributeError, OSError, SSLError) as error:
        reason = error
    else:
        return ListeningService(endpoint, factory, f"{key} = {listen!r}")
    raise ConfigError(f"{key}: {listen!r} cannot be listened on: {reason}")
