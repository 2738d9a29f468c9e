"""The daemon's parts, put together as a configuration describes them.

``assemble`` makes every part and starts none of them. ``cortexd.service.daemon`` adds listeners and
starts all in order. Tests and benchmarks assemble the same parts over a reactor of their own.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import Any

from cortexd.admission.clients import ClientLimits
from cortexd.admission.descriptors import FEWEST_CLIENTS, Shares, files_needed, shares
from cortexd.bulk.process import Helper, Process
from cortexd.bulk.translator import Translator
from cortexd.config import paths
from cortexd.config.credentials import credentials_of
from cortexd.config.settings import Config, ModelSettings
from cortexd.control.server import ControlFactory
from cortexd.dialects.routes import kept_responses
from cortexd.dialects.wire.profile import MidSystem, Profile, ReasoningControl, ToolIdFormat
from cortexd.dispatcher import Dispatcher
from cortexd.downstream.body_memory import BodyMemory
from cortexd.downstream.cross_origin import CrossOrigin
from cortexd.downstream.hosts import Hosts
from cortexd.downstream.http_server import GatewaySite
from cortexd.downstream.overload import Overload
from cortexd.fleet.breaker import BreakerTerms
from cortexd.fleet.catalogue import Catalogue
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.footprints import Footprints
from cortexd.fleet.nodes import ModelTerms, NodeTerms
from cortexd.gateway.answers import Answers
from cortexd.gateway.control import GatewayControl
from cortexd.gateway.exchanges import Exchanges
from cortexd.gateway.kept_state import KeptState
from cortexd.gateway.large import LargeRequests
from cortexd.gateway.patience import Patience
from cortexd.gateway.profiles import Profiles
from cortexd.gateway.relay import Relay
from cortexd.gateway.responses.background import Background
from cortexd.gateway.responses.conversations import Conversations
from cortexd.gateway.routes import Gateway
from cortexd.gateway.token_counts import TokenCounts
from cortexd.logs import get_logger
from cortexd.scheduling.allocator import SchedulingTerms
from cortexd.scheduling.placement import EvictionTerms
from cortexd.scheduling.scheduler import Scheduler
from cortexd.store.catalogue_keeper import CatalogueKeeper
from cortexd.store.recorder import Recorder
from cortexd.store.response_file import Limits
from cortexd.store.responses import ResponseStore
from cortexd.store.worker import Thread, Worker
from cortexd.telemetry.accounting import Accountant
from cortexd.telemetry.client_metrics import ClientCollector
from cortexd.telemetry.fleet_metrics import FleetCollector
from cortexd.telemetry.metrics import Metrics, MetricsResource
from cortexd.upstream.client import NodeClient
from cortexd.upstream.connections import MAX_CONNECTIONS_KEPT, NodePool, make_http_client
from cortexd.upstream.doubts import Doubts
from cortexd.upstream.first_polls import FirstPolls
from cortexd.upstream.lifecycle import Lifecycle, LifecycleTerms
from cortexd.upstream.poller import Poller
from cortexd.upstream.prober import Prober

MEBIBYTE = 1024 * 1024

METRICS_SECONDS = 5.0
"""How long a body may take that a client sends to the metrics, where it is refused."""

log = get_logger("cortexd.assembly")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """All parts of one daemon, from the fleet up to the sites that listeners serve.

    ``pool`` holds the connections to nodes. ``clients`` maps a node's name to the client of that
    node. Gateway clients connect to ``site``, Prometheus to ``metrics_site``, cortexctl to
    ``control_factory``. ``files`` is how the open files are shared, and ``overload``
    hears how late the reactor is. ``recorder``, ``keeper``, ``responses``, ``translator``,
    ``lifecycle``, ``poller`` and ``prober`` are services, not yet started.
    """

    fleet: Fleet
    scheduler: Scheduler
    dispatcher: Dispatcher
    catalogue: Catalogue
    profiles: Profiles

    metrics: Metrics
    accountant: Accountant
    recorder: Recorder
    keeper: CatalogueKeeper
    responses: ResponseStore
    translator: Translator

    pool: NodePool
    clients: dict[str, NodeClient]
    lifecycle: Lifecycle
    poller: Poller
    prober: Prober

    kept: KeptState
    relay: Relay
    answers: Answers
    token_counts: TokenCounts
    gateway_control: GatewayControl
    gateway: Gateway

    site: GatewaySite
    metrics_site: GatewaySite
    files: Shares
    overload: Overload
    control_factory: ControlFactory


def assemble(
    config: Config,
    reactor: Any,
    environ: Mapping[str, str],
    unix_time: Callable[[], float],
    *,
    http: Any = None,
    worker: Worker | None = None,
    helper: Helper | None = None,
    open_files: int | None = None,
) -> Parts:
    """Return the parts that ``config`` describes.

    All timers run on ``reactor``; ``unix_time`` gives the time of day for output and for the store.
    ``http`` replaces the HTTP client that sends requests to nodes over the reactor, ``worker`` the
    threads that read and write stored responses and wait for the process that translates large
    bodies, and ``helper`` that process. ``open_files`` is how many files the process may have open;
    by default the limit of the moment.

    Raises NoHomeError where neither ``config`` nor ``environ`` names a state directory, and
    ConfigError where a node's key cannot be read.
    """
    settings = config.gateway
    started_at = unix_time()
    metrics = Metrics()
    accountant = Accountant(metrics, reactor)

    scheduler = make_scheduler(config, reactor.seconds())
    fleet = scheduler.fleet
    metrics.registry.register(FleetCollector(scheduler, reactor))
    dispatcher = Dispatcher(scheduler, reactor, metrics)
    state_dir = Path(settings.state_dir or paths.state_dir(environ, os.getuid()))
    recorder = Recorder(dispatcher, metrics, state_dir, unix_time, reactor)
    keeper = CatalogueKeeper(dispatcher, recorder, reactor, unix_time)
    responses = ResponseStore(
        state_dir,
        Limits(config.responses.max_age, config.responses.max_mb * MEBIBYTE),
        worker or Thread(reactor),
        reactor,
        unix_time,
        kept_responses.cut_by_restart,
    )
    catalogue = make_catalogue(config, fleet)
    profiles = make_profiles(config, fleet)

    files = make_shares(config, open_files)
    # A poll that takes its full time on a busy reactor ends a little later.
    first_polls = FirstPolls(fleet, reactor, 2 * config.polling.timeout)
    treq, pool = make_http_client(reactor, settings.connect_timeout)
    pool.maxPersistentPerHost = files.kept
    clients = make_clients(config, reactor, treq if http is None else http)
    kept = KeptState(clients, dispatcher, reactor)
    patience = Patience(
        hold=settings.hold_seconds,
        keepalive=settings.keepalive_seconds,
        upstream=settings.upstream_timeout,
    )
    relay = Relay(clients, dispatcher, accountant, reactor, patience, profiles, kept)
    answers = Answers(accountant, reactor, relay.stop)
    image_tokens = {each.id: each.image_tokens for each in config.models if each.image_tokens}
    max_body_bytes = settings.max_body_mb * MEBIBYTE
    translator = Translator(
        helper or Process(max_body_bytes, environ),
        worker or Thread(reactor, "translator"),
        reactor,
    )
    token_counts = TokenCounts(fleet, catalogue, clients, image_tokens, first_polls, translator)
    exchanges = Exchanges(catalogue, profiles, reactor, first_polls)
    large = LargeRequests(translator, answers, catalogue, profiles, reactor, first_polls)
    background = Background(relay, answers, responses, token_counts)
    conversations = Conversations(
        exchanges,
        profiles,
        relay,
        background,
        responses,
        token_counts,
        unix_time,
        large,
        max_bytes=max_body_bytes,
    )
    gateway_control = GatewayControl(dispatcher, reactor, is_allowed=settings.allow_http_control)
    gateway = Gateway(
        fleet,
        catalogue,
        profiles,
        relay,
        kept,
        token_counts,
        answers,
        gateway_control,
        exchanges,
        large,
        conversations,
        first_polls,
        int(started_at),
        status_as_object=settings.models_status == "object",
    )

    site = GatewaySite(
        gateway.resource(),
        reactor,
        max_body_bytes,
        CrossOrigin(settings.cors_origins),
        Hosts(settings.hosts, gethostname()),
        ClientLimits(files.clients, files.surplus, settings.body_timeout),
        BodyMemory(max(settings.body_memory_mb * MEBIBYTE, max_body_bytes)),
    )
    metrics_site = make_metrics_site(metrics, reactor, files)
    listeners = {"clients": site.crowd, "metrics": metrics_site.crowd}
    metrics.registry.register(ClientCollector(listeners))

    lifecycle_terms = LifecycleTerms(config.scheduling.load_timeout, config.eviction.interval)
    lifecycle = Lifecycle(dispatcher, clients, recorder, reactor, lifecycle_terms)
    poller = Poller(
        dispatcher,
        clients,
        reactor,
        metrics,
        first_polls,
        interval=config.polling.interval,
        timeout=config.polling.timeout,
        system_info_interval=config.polling.system_info_interval,
        has_heard=relay.has_heard,
    )
    pool.lost = Doubts(dispatcher, clients, poller.poll, reactor, config.polling.interval).lost
    prober = Prober(
        dispatcher,
        clients,
        recorder,
        profiles.learn,
        reactor,
        is_automatic=config.scheduling.probe,
    )
    return Parts(
        fleet=fleet,
        scheduler=scheduler,
        dispatcher=dispatcher,
        catalogue=catalogue,
        profiles=profiles,
        metrics=metrics,
        accountant=accountant,
        recorder=recorder,
        keeper=keeper,
        responses=responses,
        translator=translator,
        pool=pool,
        clients=clients,
        lifecycle=lifecycle,
        poller=poller,
        prober=prober,
        kept=kept,
        relay=relay,
        answers=answers,
        token_counts=token_counts,
        gateway_control=gateway_control,
        gateway=gateway,
        site=site,
        metrics_site=metrics_site,
        files=files,
        overload=Overload(site.crowd, metrics, settings.max_delay),
        control_factory=ControlFactory(
            dispatcher, recorder, reactor, started_at, config.aliases, prober
        ),
    )


def make_shares(config: Config, open_files: int | None) -> Shares:
    """Return how the open files are shared; see ``assemble``."""
    if open_files is None:
        open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    nodes, wished = len(config.nodes), config.gateway.max_clients
    files = shares(open_files, nodes, wished, MAX_CONNECTIONS_KEPT)
    if files.is_short:
        log.warning(
            "open_files_short",
            open_files=open_files,
            max_clients=files.clients,
            needed=files_needed(nodes, wished or FEWEST_CLIENTS),
        )
    return files


def make_scheduler(config: Config, now: float) -> Scheduler:
    """Return the scheduler, over the fleet that ``config`` describes."""
    eviction, scheduling = config.eviction, config.scheduling

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
                config.pins[node.name],
                is_managed=node.runs.abilities.is_managed,
            )
            for node in config.nodes
        ],
        {model.id: terms_of(model) for model in config.models},
        Footprints(config.footprint_mb, {}),
        default_terms=terms_of(ModelSettings(id="any")),
        now=now,
        down_after=config.polling.down_after,
        load_timeout=scheduling.load_timeout,
        breaker_terms=BreakerTerms(
            scheduling.eject_after, scheduling.eject_seconds, scheduling.max_eject_seconds
        ),
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


def make_catalogue(config: Config, fleet: Fleet) -> Catalogue:
    """Return the catalogue of the fleet's models, with the names in ``config``."""
    named = [model.id for model in config.models]
    named += [model for pinned in config.pins.values() for model in pinned]
    return Catalogue(fleet, config.aliases, named)


def make_profiles(config: Config, fleet: Fleet) -> Profiles:
    """Return the profiles of the fleet's replicas, as ``config`` describes them."""

    def profile_of(model: ModelSettings) -> Profile:
        return Profile(
            context_window=model.context_window,
            max_output=model.max_output_tokens,
            inline_thinking=model.inline_thinking,
            fetches_images=config.gateway.allow_image_urls,
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
    return Profiles(fleet, kinds, models, profile_of(ModelSettings(id="any")), explicit)


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


def make_clients(config: Config, reactor: Any, http: Any) -> dict[str, NodeClient]:
    """Return a client for each node, by the node's name; all send requests through ``http``."""
    return {
        node.name: NodeClient(
            node.name,
            node.endpoint,
            http,
            reactor,
            node.runs,
            credentials=credentials_of(node),
        )
        for node in config.nodes
    }


def make_metrics_site(metrics: Metrics, reactor: Any, files: Shares) -> GatewaySite:
    """Return the server of ``/metrics``, which takes no bodies and few clients."""
    limits = ClientLimits(files.metrics_clients, files.metrics_clients, METRICS_SECONDS)
    return GatewaySite(MetricsResource(metrics), reactor, max_body_bytes=0, limits=limits)
