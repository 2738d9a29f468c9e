"""The parts of one daemon, by their names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cortexd.access.ring import KeyRing
from cortexd.admission.descriptors import Shares
from cortexd.agents.enrolling import Enroller
from cortexd.agents.powering import Powering
from cortexd.agents.repairing import Repairing
from cortexd.agents.site import AgentSite
from cortexd.bulk.translator import Translator
from cortexd.control.server import ControlFactory
from cortexd.dispatcher import Dispatcher
from cortexd.downstream.gate import Gate
from cortexd.downstream.http_server import GatewaySite
from cortexd.downstream.overload import Overload
from cortexd.fleet.catalogue import Catalogue
from cortexd.fleet.fleet import Fleet
from cortexd.gateway.answers import Answers
from cortexd.gateway.control import GatewayControl
from cortexd.gateway.fatalities import Fatalities
from cortexd.gateway.kept_state import KeptState
from cortexd.gateway.profiles import Profiles
from cortexd.gateway.relay import Relay
from cortexd.gateway.responses.conversations import Conversations
from cortexd.gateway.routes import Gateway
from cortexd.gateway.token_counts import TokenCounts
from cortexd.gateway.waits.events import Events
from cortexd.gateway.waits.waits import Waits
from cortexd.link.connected import Agents
from cortexd.metering.keeper import UsageKeeper
from cortexd.metering.meters import Meters
from cortexd.scheduling.scheduler import Scheduler
from cortexd.store.catalogue_keeper import CatalogueKeeper
from cortexd.store.key_keeper import KeyKeeper
from cortexd.store.recorder import Recorder
from cortexd.store.responses import ResponseStore
from cortexd.telemetry.accounting import Accountant
from cortexd.telemetry.metrics import Metrics
from cortexd.upstream.client import NodeClient
from cortexd.upstream.connections import NodePool
from cortexd.upstream.doubts import Doubts
from cortexd.upstream.first_polls import FirstPolls
from cortexd.upstream.lifecycle import Lifecycle
from cortexd.upstream.poller import Poller
from cortexd.upstream.prober import Prober


@dataclass(slots=True)
class Files:
    """How many files the process may open (``None``: as the system says), and their ``shares``.

    A reload may replace the shares: they depend on the number of nodes.
    """

    limit: int | None
    shares: Shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """All parts of one daemon, from the fleet up to the sites that listeners serve.

    ``pool`` holds the connections to nodes. ``clients`` maps a node's name to the client of that
    node; many parts read it, and a reload changes it. ``add_client`` is ``make_client`` with the
    reactor and the HTTP client of these parts. ``ring`` has the keys of clients, ``gate`` compares
    them, and ``key_keeper`` changes them. ``agents`` are those beside engines that are connected
    now, and ``enroller`` says whom of them we admit. Gateway clients connect to ``site``,
    Prometheus to ``metrics_site``, cortexctl to ``control_factory``. ``files`` is how the open
    files are shared, and ``overload`` hears how late the reactor is. ``recorder``, ``keeper``,
    ``usage_keeper``, ``enroller``, ``responses``, ``translator``, ``gate``, ``lifecycle``,
    ``repairing``, ``powering``, ``poller`` and ``prober`` are services, not yet started.
    """

    fleet: Fleet
    scheduler: Scheduler
    dispatcher: Dispatcher
    catalogue: Catalogue
    profiles: Profiles
    first_polls: FirstPolls

    metrics: Metrics
    accountant: Accountant
    recorder: Recorder
    keeper: CatalogueKeeper
    responses: ResponseStore
    translator: Translator
    meters: Meters
    usage_keeper: UsageKeeper

    pool: NodePool
    add_client: Callable[..., NodeClient]
    clients: dict[str, NodeClient]
    lifecycle: Lifecycle
    poller: Poller
    doubts: Doubts
    prober: Prober
    agents: Agents
    repairing: Repairing
    powering: Powering
    enroller: Enroller
    agent_site: AgentSite

    kept: KeptState
    fatalities: Fatalities
    relay: Relay
    answers: Answers
    token_counts: TokenCounts
    conversations: Conversations
    waits: Waits
    events: Events
    gateway_control: GatewayControl
    gateway: Gateway

    ring: KeyRing
    gate: Gate
    key_keeper: KeyKeeper
    site: GatewaySite
    metrics_site: GatewaySite
    files: Files
    overload: Overload
    control_factory: ControlFactory
