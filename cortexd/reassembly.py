"""The daemon's parts, as they run, under another configuration.

All that can fail comes first: a ``Revision`` is read, its clients are made and its new nodes are
polled. ``reassemble`` then changes every part within one turn of the reactor, and cannot fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from twisted.internet.defer import Deferred

from cortexd import terms
from cortexd.access.keys import Key
from cortexd.agents.tls import ServerTLS
from cortexd.config.changes import ConfigChange, changes, is_another_node, key_changes
from cortexd.config.credentials import credentials_of
from cortexd.config.node_tls import NodeTLS, agents_tls, tls_of
from cortexd.config.settings import Config
from cortexd.downstream.cross_origin import CrossOrigin
from cortexd.fleet.states import Observation, PollFailure
from cortexd.making import make_shares
from cortexd.parts import Parts
from cortexd.scheduling.events import Reconfigured
from cortexd.upstream.client import NodeClient

NEW_KEY: Final = "its file has another key now"
NEW_CERTIFICATES: Final = "its file has other certificates now, for new connections"


@dataclass(frozen=True, slots=True)
class Revision:
    """A configuration, and what its files have now.

    ``credentials`` are the keys of nodes by their names, and ``tls`` the content of their TLS
    files. ``keys`` are those of clients, ``None`` where no key is required; they were read while
    the key ring was of that ``generation``. ``agents_tls`` has the files for agents, if there are
    any. ``exposure`` is a warning about the mode of their file.
    """

    config: Config
    credentials: Mapping[str, Mapping[str, str]]
    tls: Mapping[str, NodeTLS]
    keys: tuple[Key, ...] | None
    agents_tls: NodeTLS | None = None
    generation: int | None = None
    exposure: str | None = None


def revision_of(config: Config, generation: int | None = None) -> Revision:
    """Return a configuration with all keys and TLS files. Raises ConfigError; reads files."""
    credentials = {node.name: credentials_of(node) for node in config.nodes}
    tls = {node.name: tls_of(node) for node in config.nodes}
    keys, exposure = terms.keys(config), terms.exposure(config)
    of_agents = agents_tls(config.agents)
    return Revision(config, credentials, tls, keys, of_agents, generation, exposure)


def changes_by(parts: Parts, before: Config, after: Revision) -> list[ConfigChange]:
    """Return what a revision changes, the content of files included, but no key is shown."""
    found = changes(before, after.config)
    paths = {change.key for change in found}
    for name, credentials in after.credentials.items():
        client, files = parts.clients.get(name), after.tls[name]
        if client is None:
            continue
        for key, words, differs in (
            ("api_key_file", NEW_KEY, client.credentials != credentials),
            ("ca_file", NEW_CERTIFICATES, client.files.authorities != files.authorities),
            ("client_certificate", NEW_CERTIFICATES, client.files.chain != files.chain),
            ("client_key", NEW_KEY, client.files.key != files.key),
        ):
            path = f"nodes ({name}).{key}"
            if differs and path not in paths:
                found.append(ConfigChange(path, words))
    found += _agents_changes(before, parts.agent_site.tls, after)
    known = {key.name: key for key in after.keys or ()}
    return [*found, *key_changes(parts.ring.keys, known)]


def _agents_changes(
    before: Config, tls: ServerTLS | None, after: Revision
) -> Iterator[ConfigChange]:
    """Yield which of the same files for agents have another content."""
    files = after.agents_tls
    if tls is None or files is None:
        return
    for key, words, differs in (
        ("certificate", NEW_CERTIFICATES, tls.files.chain != files.chain),
        ("key", NEW_KEY, tls.files.key != files.key),
        ("ca", NEW_CERTIFICATES, tls.files.authorities != files.authorities),
    ):
        is_same_file = getattr(before.agents, key) == getattr(after.config.agents, key)
        if differs and is_same_file:
            yield ConfigChange(f"agents.{key}", words)


def new_clients(parts: Parts, before: Config, after: Revision) -> dict[str, NodeClient]:
    """Return a client for each node of a revision that is new, or another one under its name."""
    known = {node.name: node for node in before.nodes}
    return {
        node.name: parts.add_client(
            node, credentials=after.credentials[node.name], files=after.tls[node.name]
        )
        for node in after.config.nodes
        if node.name not in known or is_another_node(known[node.name], node)
    }


async def first_polls(
    parts: Parts, clients: Mapping[str, NodeClient]
) -> dict[str, Observation | PollFailure]:
    """Poll nodes that are not in the fleet yet, all at once."""
    polling = {
        name: Deferred.fromCoroutine(parts.poller.poll_first(client))
        for name, client in clients.items()
    }
    return {name: await polled for name, polled in polling.items()}


def reassemble(
    parts: Parts,
    before: Config,
    after: Revision,
    clients: Mapping[str, NodeClient],
    polled: Mapping[str, Observation | PollFailure],
) -> None:
    """Let every part follow a revision, with the ``clients`` of its new nodes.

    What runs on a node that leaves goes on to its end there. What waits in a queue moves to the
    other nodes, or to new ones, which have been ``polled``.
    """
    config = after.config
    settings = config.gateway
    # Parts read this very dictionary, in the order of the nodes.
    staying = dict(parts.clients)
    parts.clients.clear()
    for node in config.nodes:
        client = clients.get(node.name) or staying[node.name]
        client.take_credentials(after.credentials[node.name])
        files = after.tls[node.name]
        if files != client.files:
            client.take_files(files, parts.pool.http(files))
        parts.clients[node.name] = client

    parts.catalogue.reconfigure(config.aliases, terms.named_models(config))
    parts.profiles.reconfigure(*terms.profile_terms(config))
    parts.token_counts.reconfigure(terms.image_tokens(config))
    parts.relay.reconfigure(terms.patience(config))
    parts.waits.shows_words = settings.show_waiting
    parts.fatalities.reconfigure(terms.longest_doubt(config))
    parts.conversations.reconfigure(terms.max_body_bytes(config))
    parts.translator.reconfigure(terms.max_body_bytes(config))
    parts.key_keeper.note(after.exposure)
    parts.key_keeper.take(config.auth.keys_file, after.keys, after.generation)
    parts.metrics_site.gate = parts.gate if config.auth.metrics else None
    parts.gateway_control.reconfigure(is_allowed=settings.allow_http_control)
    parts.gateway.reconfigure(status_as_object=settings.models_status == "object")
    parts.site.max_body_bytes = terms.max_body_bytes(config)
    parts.site.body_memory.limit = terms.body_memory_bytes(config)
    parts.site.cross_origin = CrossOrigin(settings.cors_origins)
    parts.site.hosts = terms.hosts(config)
    parts.site.proxies = parts.metrics_site.proxies = terms.proxies(config)
    parts.files.shares = shares = make_shares(config, parts.files.limit)
    parts.site.crowd.limits = terms.client_limits(config, shares)
    parts.overload.reconfigure(settings.max_delay)
    parts.pool.maxPersistentPerHost = shares.kept
    parts.agent_site.newcomers.most = shares.newcomers
    parts.enroller.reconfigure(terms.enrolment_terms(config, after.agents_tls))
    parts.first_polls.patience = terms.first_polls_patience(config)
    parts.responses.reconfigure(terms.response_limits(config))
    parts.pool.reconfigure(settings.connect_timeout)
    parts.lifecycle.reconfigure(terms.lifecycle_terms(config))
    parts.poller.reconfigure(terms.polling_terms(config))
    parts.doubts.interval = config.polling.interval
    parts.powering.machines = terms.machines(config)
    parts.repairing.restart_timeout = config.repair.restart_timeout
    parts.prober.reconfigure(is_automatic=config.scheduling.probe)
    # Last, because it grants leases: the requests that move go out by all of the above.
    parts.dispatcher.dispatch(
        Reconfigured(terms.fleet_terms(config), terms.scheduling_terms(config), polled)
    )
    parts.agent_site.review()
    parts.pool.keep([(node.endpoint, after.tls[node.name]) for node in config.nodes])


def forget_metrics(parts: Parts, names: set[str]) -> set[str]:
    """Remove the metrics of those nodes that are gone for good, and return the names of the rest.

    A node is gone once its last request has ended, unless the configuration has its name again.
    """
    rest = names - parts.fleet.nodes.keys()
    gone = rest - parts.fleet.departed
    if gone:
        parts.metrics.forget_nodes(gone)
        parts.accountant.forget_metrics()
        parts.dispatcher.forget_metrics()
    return rest - gone
