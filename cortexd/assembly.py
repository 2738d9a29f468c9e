"""The daemon's parts, put together as a configuration describes them.

``assemble`` makes every part and starts none of them. ``cortexd.service.daemon`` adds listeners and
starts all in order. Tests and benchmarks assemble the same parts over a reactor of their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from cortexd import terms
from cortexd.access.ring import KeyRing
from cortexd.agents.enrolling import Enroller
from cortexd.agents.powering import Powering
from cortexd.agents.repairing import Repairing
from cortexd.agents.site import AgentSite
from cortexd.bulk.process import Helper, Process
from cortexd.bulk.translator import Translator
from cortexd.config import paths
from cortexd.config.credentials import credentials_of
from cortexd.config.node_tls import agents_tls, tls_of
from cortexd.config.settings import Config
from cortexd.control.auditing import Users
from cortexd.control.server import ControlFactory
from cortexd.dialects.routes import kept_responses
from cortexd.dispatcher import Dispatcher
from cortexd.downstream.body_memory import BodyMemory
from cortexd.downstream.cross_origin import CrossOrigin
from cortexd.downstream.gate import Gate
from cortexd.downstream.http_server import GatewaySite
from cortexd.downstream.overload import Overload
from cortexd.fleet.catalogue import Catalogue
from cortexd.gateway.answers import Answers
from cortexd.gateway.control import GatewayControl
from cortexd.gateway.exchanges import Exchanges
from cortexd.gateway.fatalities import Fatalities
from cortexd.gateway.kept_state import KeptState
from cortexd.gateway.large import LargeRequests
from cortexd.gateway.large_answers import LargeAnswers
from cortexd.gateway.relay import Relay
from cortexd.gateway.responses.background import Background
from cortexd.gateway.responses.conversations import Conversations
from cortexd.gateway.routes import Gateway
from cortexd.gateway.token_counts import TokenCounts
from cortexd.gateway.waits.events import Events
from cortexd.gateway.waits.load_status import LoadStatus
from cortexd.gateway.waits.routes import WaitRoutes
from cortexd.gateway.waits.waits import Waits
from cortexd.link.admission import Enrolments
from cortexd.link.connected import Agents
from cortexd.making import (
    make_client,
    make_metrics_site,
    make_profiles,
    make_scheduler,
    make_shares,
)
from cortexd.metering.keeper import UsageKeeper
from cortexd.metering.meters import Meters
from cortexd.parts import Files, Parts
from cortexd.store.catalogue_keeper import CatalogueKeeper
from cortexd.store.key_keeper import KeyKeeper
from cortexd.store.recorder import Recorder
from cortexd.store.responses import ResponseStore
from cortexd.store.worker import Thread, Worker
from cortexd.telemetry.accounting import Accountant
from cortexd.telemetry.agent_metrics import AgentCollector
from cortexd.telemetry.client_metrics import ClientCollector, GateCollector
from cortexd.telemetry.fleet_metrics import FleetCollector
from cortexd.telemetry.key_metrics import KeyCollector
from cortexd.telemetry.link_metrics import LinkCollector
from cortexd.telemetry.metrics import Metrics
from cortexd.telemetry.node_certificates import NodeCertificateCollector
from cortexd.upstream.connections import make_http_client
from cortexd.upstream.doubts import Doubts
from cortexd.upstream.expiring import certificates
from cortexd.upstream.first_polls import FirstPolls
from cortexd.upstream.lifecycle import Lifecycle
from cortexd.upstream.poller import Poller
from cortexd.upstream.prober import Prober
from cortexd.upstream.verifying import NodeMemory


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
    ConfigError where a node's key, its TLS files or the keys file cannot be used.
    """

    def in_thread(call: Callable[[], Any]) -> Deferred[Any]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), call)

    settings = config.gateway
    started_at = unix_time()
    metrics = Metrics()
    metrics.last_reload.set(started_at)
    accountant = Accountant(metrics, reactor)

    scheduler = make_scheduler(config, reactor.seconds())
    fleet = scheduler.fleet
    metrics.registry.register(FleetCollector(scheduler, reactor))
    metrics.registry.register(AgentCollector(fleet, reactor))
    dispatcher = Dispatcher(scheduler, reactor, metrics)
    state_dir = Path(settings.state_dir or paths.state_dir(environ, os.getuid()))
    recorder = Recorder(dispatcher, metrics, state_dir, unix_time, reactor)
    keeper = CatalogueKeeper(dispatcher, recorder, reactor, unix_time)
    responses = ResponseStore(
        state_dir,
        terms.response_limits(config),
        worker or Thread(reactor),
        reactor,
        unix_time,
        kept_responses.cut_by_restart,
    )
    catalogue = Catalogue(fleet, config.aliases, terms.named_models(config))
    profiles = make_profiles(config, fleet)

    files = make_shares(config, open_files)
    first_polls = FirstPolls(fleet, reactor, terms.first_polls_patience(config))
    _, pool = make_http_client(reactor, settings.connect_timeout)
    pool.maxPersistentPerHost = files.kept
    http_for = pool.http if http is None else lambda files: http
    add_client = partial(make_client, reactor=reactor, http_for=http_for)
    clients = {
        node.name: add_client(node, credentials=credentials_of(node), files=tls_of(node))
        for node in config.nodes
    }
    kept = KeptState(clients, dispatcher, reactor)
    patience = terms.patience(config)
    fatalities = Fatalities(terms.longest_doubt(config), dispatcher, recorder, metrics, reactor)
    translator = Translator(
        helper or Process(terms.max_body_bytes(config), environ),
        worker or Thread(reactor, "translator"),
        reactor,
    )
    waits = Waits(dispatcher, reactor, shows_words=settings.show_waiting)
    relay = Relay(
        clients,
        dispatcher,
        accountant,
        reactor,
        patience,
        profiles,
        kept,
        fatalities,
        LargeAnswers(translator),
        catalogue,
        waits,
    )
    ring = KeyRing(terms.keys(config))
    meters = Meters(ring, reactor, unix_time)
    metrics.registry.register(KeyCollector(meters.figures))
    usage_keeper = UsageKeeper(meters, dispatcher, recorder, reactor, unix_time)
    answers = Answers(accountant, reactor, relay.stop, meters)
    token_counts = TokenCounts(
        fleet, catalogue, clients, terms.image_tokens(config), first_polls, translator
    )
    exchanges = Exchanges(catalogue, profiles, reactor, first_polls, kept)
    large = LargeRequests(translator, answers, catalogue, profiles, reactor, first_polls, kept)
    background = Background(relay, answers, responses, token_counts)
    conversations = Conversations(
        exchanges,
        catalogue,
        profiles,
        relay,
        background,
        responses,
        token_counts,
        unix_time,
        large,
        max_bytes=terms.max_body_bytes(config),
    )
    key_keeper = KeyKeeper(
        ring, config.auth.keys_file, state_dir / "keys.toml", in_thread, unix_time
    )
    key_keeper.note(terms.exposure(config))
    events = Events(dispatcher, waits, catalogue, ring, reactor)
    gateway_control = GatewayControl(
        dispatcher,
        catalogue,
        reactor,
        ring,
        recorder.audit,
        is_allowed=settings.allow_http_control,
    )
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
        WaitRoutes(answers, first_polls, LoadStatus(dispatcher, catalogue, reactor), events),
        reactor,
        int(started_at),
        status_as_object=settings.models_status == "object",
    )

    gate = Gate(ring, worker or Thread(reactor, "keys"), unix_time, reactor, gateway.scopes_at)
    site = GatewaySite(
        gateway.resource(),
        reactor,
        terms.max_body_bytes(config),
        CrossOrigin(settings.cors_origins),
        terms.hosts(config),
        terms.client_limits(config, files),
        BodyMemory(terms.body_memory_bytes(config)),
        terms.proxies(config),
        gate,
    )
    metrics_site = make_metrics_site(metrics, reactor, files)
    metrics_site.proxies = site.proxies
    metrics_site.gate = gate if config.auth.metrics else None
    listeners = {"clients": site.crowd, "metrics": metrics_site.crowd}
    metrics.registry.register(ClientCollector(listeners))
    metrics.registry.register(NodeCertificateCollector(partial(certificates, pool, clients)))
    metrics.registry.register(GateCollector(gate.denied))

    agents, enrolments = Agents(), Enrolments()
    agent_site = AgentSite(
        agents,
        enrolments,
        lambda node: node in fleet.nodes,
        dispatcher.dispatch,
        reactor,
        unix_time,
    )
    agent_site.newcomers.most = files.newcomers
    enroller = Enroller(
        state_dir / "agents",
        enrolments,
        terms.enrolment_terms(config, agents_tls(config.agents)),
        in_thread,
        unix_time,
        reactor,
    )
    enroller.attach(agent_site)
    metrics.registry.register(LinkCollector(agent_site))
    memory = NodeMemory(fleet.nodes, agents, reactor)
    lifecycle = Lifecycle(
        dispatcher, clients, recorder, reactor, terms.lifecycle_terms(config), memory
    )
    # The numbers of orders begin anew with each process, which an agent may outlive.
    boot_id = f"{int(started_at * 1e6):x}"
    limit = config.repair.restart_timeout
    repairing = Repairing(dispatcher.dispatch, agents, reactor, boot_id, limit)
    dispatcher.listen(repairing.carry_out)
    poller = Poller(
        dispatcher,
        clients,
        reactor,
        metrics,
        first_polls,
        terms=terms.polling_terms(config),
        memory=memory,
        has_heard=relay.has_heard,
    )
    powering = Powering(
        dispatcher.dispatch, agents, reactor, boot_id, poller.poll_soon, terms.machines(config)
    )
    dispatcher.listen(powering.carry_out)
    doubts = Doubts(dispatcher, clients, poller.poll, reactor, config.polling.interval)
    pool.lost = doubts.lost
    prober = Prober(
        dispatcher,
        clients,
        recorder,
        profiles.learn,
        reactor,
        is_automatic=config.scheduling.probe,
    )
    control_factory = ControlFactory(
        dispatcher,
        recorder,
        reactor,
        started_at,
        catalogue.aliases,
        prober,
        recorder.audit,
        Users(in_thread),
        key_keeper,
    )
    control_factory.usage = usage_keeper
    control_factory.agents = agents
    control_factory.enroller = enroller
    control_factory.ended = repairing.ended
    return Parts(
        fleet=fleet,
        scheduler=scheduler,
        dispatcher=dispatcher,
        catalogue=catalogue,
        profiles=profiles,
        first_polls=first_polls,
        metrics=metrics,
        accountant=accountant,
        recorder=recorder,
        keeper=keeper,
        responses=responses,
        translator=translator,
        meters=meters,
        usage_keeper=usage_keeper,
        pool=pool,
        add_client=add_client,
        clients=clients,
        lifecycle=lifecycle,
        poller=poller,
        doubts=doubts,
        prober=prober,
        agents=agents,
        repairing=repairing,
        powering=powering,
        enroller=enroller,
        agent_site=agent_site,
        kept=kept,
        fatalities=fatalities,
        relay=relay,
        answers=answers,
        token_counts=token_counts,
        conversations=conversations,
        waits=waits,
        events=events,
        gateway_control=gateway_control,
        gateway=gateway,
        ring=ring,
        gate=gate,
        key_keeper=key_keeper,
        site=site,
        metrics_site=metrics_site,
        files=Files(open_files, files),
        overload=Overload(site.crowd, metrics, settings.max_delay),
        control_factory=control_factory,
    )
