"""Makes those parts of the daemon that need more than a call, as a configuration describes them."""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping
from typing import Any

from cortexd import terms
from cortexd.access.keys import Scope
from cortexd.admission.clients import ClientLimits
from cortexd.admission.descriptors import FEWEST_CLIENTS, Shares, files_needed, shares
from cortexd.config.node_tls import NodeTLS
from cortexd.config.settings import Config, NodeSettings
from cortexd.downstream.http_server import GatewaySite
from cortexd.downstream.keyed import KeyedPage
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.footprints import Footprints
from cortexd.gateway.profiles import Profiles
from cortexd.logs import get_logger
from cortexd.scheduling.scheduler import Scheduler
from cortexd.telemetry.metrics import Metrics
from cortexd.telemetry.metrics_page import MetricsResource
from cortexd.upstream.client import NodeClient
from cortexd.upstream.connections import MAX_CONNECTIONS_KEPT

METRICS_SECONDS = 5.0
"""How long a body may take that a client sends to the metrics, where it is refused."""

log = get_logger("cortexd.making")


def make_shares(config: Config, open_files: int | None) -> Shares:
    """Return how the open files are shared; see ``assemble``."""
    if open_files is None:
        open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    nodes, wished = len(config.nodes), config.gateway.max_clients
    has_agents = config.agents.listen is not None
    files = shares(open_files, nodes, wished, MAX_CONNECTIONS_KEPT, has_agents=has_agents)
    if files.is_short:
        log.warning(
            "open_files_short",
            open_files=open_files,
            max_clients=files.clients,
            needed=files_needed(nodes, wished or FEWEST_CLIENTS, has_agents=has_agents),
        )
    return files


def make_scheduler(config: Config, now: float) -> Scheduler:
    """Return the scheduler, over the fleet that ``config`` describes."""
    given = terms.fleet_terms(config)
    fleet = Fleet(
        given.nodes,
        given.models,
        Footprints(given.footprint_mb, {}),
        default_terms=given.default_terms,
        now=now,
        down_after=given.down_after,
        load_timeout=given.load_timeout,
        breaker_terms=given.breaker_terms,
    )
    return Scheduler(fleet, terms.scheduling_terms(config))


def make_profiles(config: Config, fleet: Fleet) -> Profiles:
    """Return the profiles of the fleet's replicas, as ``config`` describes them."""
    return Profiles(fleet, *terms.profile_terms(config))


def make_client(
    node: NodeSettings,
    reactor: Any,
    http_for: Callable[[NodeTLS], Any],
    credentials: Mapping[str, str],
    files: NodeTLS,
) -> NodeClient:
    """Return a client of a node, which sends its requests by the HTTP client for its ``files``."""
    return NodeClient(
        node.name,
        node.endpoint,
        http_for(files),
        reactor,
        node.runs,
        credentials=credentials,
        files=files,
    )


def make_metrics_site(metrics: Metrics, reactor: Any, files: Shares) -> GatewaySite:
    """Return the server of ``/metrics``, which takes no bodies and few clients."""
    limits = ClientLimits(files.metrics_clients, files.metrics_clients, METRICS_SECONDS)
    page = KeyedPage(MetricsResource(metrics, reactor), {Scope.READ})
    return GatewaySite(page, reactor, max_body_bytes=0, limits=limits)
