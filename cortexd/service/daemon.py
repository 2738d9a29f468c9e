"""The daemon as one service: the parts of ``cortexd.assembly``, in the order in which they start.

Stages stop in reverse, so that this order is also the plan of the drain: what running answers still
need comes before the drain, and what would bring new requests comes after it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from cortexd.assembly import assemble
from cortexd.config import paths
from cortexd.config.listening import (
    AGENTS_LISTEN,
    HTTP_LISTEN,
    LISTEN,
    METRICS_LISTEN,
    agents_listening,
    listenings,
)
from cortexd.config.settings import Config
from cortexd.control.handover import TakeoverError
from cortexd.control.socket import ControlSocketError, control_service
from cortexd.parts import Parts
from cortexd.service.accepting import pace
from cortexd.service.agent_notices import agent_notices
from cortexd.service.heartbeat import Heartbeat, SteadyClock
from cortexd.service.log_lines import LogLines
from cortexd.service.relistening import AgentsListener, Listener
from cortexd.service.reloading import Reloader
from cortexd.service.stages import (
    Ending,
    ListenError,
    ListeningService,
    SignalService,
    Stages,
)
from cortexd.service.succession import Accession, Retirement
from cortexd.service.systemd import Notifier, SystemdService
from cortexd.service.watching import Watch
from cortexd.store.file import StateInUseError
from cortexd.telemetry.link_metrics import EnrolmentCollector
from cortexd.telemetry.listener_metrics import ListenerCollector
from cortexd.upstream.expiring import certificates

AGENTS_ACCEPTED: Final = 4
"""Agents that are accepted in one turn: each costs some milliseconds of TLS, and all come back at
once when the gateway restarts."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """The daemon: ``service`` runs its ``parts``, and the four listeners listen.

    ``reloader`` reloads the configuration.
    """

    service: Stages
    parts: Parts
    listener: ListeningService
    http_listener: ListeningService
    metrics_listener: ListeningService
    agents_listener: ListeningService
    reloader: Reloader


def daemon(
    config: Config,
    reactor: Any,
    environ: Mapping[str, str],
    unix_time: Callable[[], float],
    clock: SteadyClock | None = None,
    read: Callable[[], Config] | None = None,
) -> Daemon:
    """Return the daemon that ``config`` describes, not yet started; see ``assemble``.

    ``clock`` is the one that gives ``reactor`` its time, if it is ours. ``read`` reads the
    configuration again, for a reload; ``None`` where there is no file.

    Raises ConfigError if an address or a certificate cannot be used, and NoHomeError if there is no
    directory for the control socket or for the state.
    """
    settings = config.gateway
    parts = assemble(config, reactor, environ, unix_time)
    files, crowd = parts.files, parts.site.crowd

    def batch() -> int:
        return files.shares.refused if crowd.is_shedding else files.shares.accepted

    paced = pace(reactor, batch)
    sites = {LISTEN: parts.site, HTTP_LISTEN: parts.site, METRICS_LISTEN: parts.metrics_site}
    listeners = {
        key: Listener(key, where, sites[key], reactor, paced, are_by_proxies=key == LISTEN)
        for key, where in listenings(settings).items()
    }
    listener, http_listener, metrics_listener = (each.service for each in listeners.values())
    of_nodes = partial(certificates, parts.pool, parts.clients)
    of_agents = AgentsListener(
        AGENTS_LISTEN,
        agents_listening(config.agents),
        parts.agent_site,
        reactor,
        pace(reactor, lambda: AGENTS_ACCEPTED),
    )

    def place_agents(config: Config) -> None:
        """Let agents of this machine speak without TLS, if only they can connect."""
        is_own = config.agents.certificate is None
        parts.agent_site.is_plain_allowed = is_own and of_agents.is_local

    place_agents(config)
    enroller = parts.enroller
    watch = Watch(config, listeners, reactor, unix_time, of_nodes, enroller.shown)
    parts.metrics.registry.register(ListenerCollector(watch))
    parts.metrics.registry.register(EnrolmentCollector(lambda: enroller.enrolments.expiries))
    control_socket = settings.control_socket or str(paths.control_socket(environ, os.getuid()))

    def in_thread(read: Callable[[], Any]) -> Deferred[Any]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), read)

    log_lines = LogLines(reactor, settings.log_level, parts.metrics.log_lines_dropped.inc)

    def follow(after: Config) -> None:
        log_lines.set_level(after.gateway.log_level)
        watch.follow(after)
        place_agents(after)

    every = {**listeners, AGENTS_LISTEN: of_agents}
    reloader = Reloader(config, read, parts, every, watch, follow, reactor, in_thread)
    parts.control_factory.reloading = reloader

    def notices() -> list[str]:
        found = [*watch.notices(), *parts.key_keeper.notices(), *enroller.notices()]
        if reloader.config.agents.listen is None:
            return found
        site, nodes = parts.agent_site, parts.fleet.nodes.values()
        managed = [node.name for node in nodes if node.is_managed]
        connected = [node for node in managed if parts.agents.on(node) is not None]
        enrolled = site.enrolments.by_node
        return [*found, *agent_notices(managed, enrolled, connected, site.lately_refused())]

    parts.control_factory.notices = notices

    control = control_service(reactor, control_socket, settings.control_mode, parts.control_factory)
    notifier = Notifier(environ)
    unit = environ.get("CORTEX_UNIT", "")
    accession = Accession(control_socket, parts, reactor)
    retirement = Retirement(
        parts,
        tuple(every.values()),
        control,
        notifier,
        reactor,
        reloader,
        unit,
    )

    async def drain() -> None:
        parts.events.stop()  # else their readers would keep the daemon for all of the grace
        grace = reloader.config.gateway.grace_seconds
        await parts.answers.drain(grace, refuses=not retirement.is_over)
        await retirement.drain(grace, accession.ended)
        await parts.site.close_connections()

    stages = Stages(expected=(TakeoverError, ListenError, ControlSocketError, StateInUseError))
    stages.stage(log_lines)
    stages.stage(Heartbeat(reactor, clock, parts.overload.note_beat))
    stages.stage(Ending(parts.pool.closeCachedConnections))
    stages.stage(accession)
    stages.stage(parts.gate)
    stages.stage(metrics_listener)
    stages.stage(parts.recorder)
    stages.stage(parts.keeper)
    stages.stage(parts.usage_keeper)
    stages.stage(enroller)
    stages.stage(parts.responses)
    stages.stage(parts.translator)
    stages.stage(control)
    stages.stage(parts.lifecycle)
    stages.stage(parts.repairing)
    stages.stage(parts.powering)
    stages.stage(parts.poller)
    stages.stage(parts.prober)
    stages.stage(Ending(partial(parts.agent_site.stop, "the gateway stops")))
    stages.stage(of_agents.service)
    stages.stage(Ending(drain))
    stages.stage(listener)
    stages.stage(http_listener)
    stages.stage(watch)
    stages.stage(reloader)
    stages.stage(SignalService(reactor, hurry=parts.answers.cut, reload=reloader.hang_up))
    stages.stage(retirement)
    stages.stage(SystemdService(reactor, notifier, environ))
    return Daemon(
        stages, parts, listener, http_listener, metrics_listener, of_agents.service, reloader
    )
