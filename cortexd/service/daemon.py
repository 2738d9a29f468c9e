"""The daemon as one service: the parts of ``cortexd.assembly``, in the order in which they start.

Stages stop in reverse, so that this order is also the plan of the drain: what running answers still
need comes before the drain, and what would bring new requests comes after it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from OpenSSL.crypto import Error as SSLError
from twisted.internet.endpoints import serverFromString

from cortexd.assembly import Parts, assemble
from cortexd.config import paths
from cortexd.config.addresses import endpoint_description, with_backlog
from cortexd.config.reading import ConfigError
from cortexd.config.settings import Config
from cortexd.control.socket import ControlSocketError, control_service
from cortexd.service.accepting import pace
from cortexd.service.heartbeat import Heartbeat, SteadyClock
from cortexd.service.log_lines import LogLines
from cortexd.service.stages import (
    Ending,
    ListenError,
    ListeningService,
    Pace,
    SignalService,
    Stages,
)
from cortexd.service.systemd import Notifier, SystemdService
from cortexd.store.file import StateInUseError


@dataclass(frozen=True, slots=True)
class Daemon:
    """The daemon: ``service`` runs its ``parts``; ``listener`` and ``metrics_listener`` listen."""

    service: Stages
    parts: Parts
    listener: ListeningService
    metrics_listener: ListeningService


def daemon(
    config: Config,
    reactor: Any,
    environ: Mapping[str, str],
    unix_time: Callable[[], float],
    clock: SteadyClock | None = None,
) -> Daemon:
    """Return the daemon that ``config`` describes, not yet started; see ``assemble``.

    ``clock`` is the one that gives ``reactor`` its time, if it is ours.

    Raises ConfigError if an address cannot be used, and NoHomeError if there is no directory for
    the control socket or for the state.
    """
    settings = config.gateway
    parts = assemble(config, reactor, environ, unix_time)
    files, crowd = parts.files, parts.site.crowd
    paced = pace(reactor, lambda: files.refused if crowd.is_shedding else files.accepted)
    listener = _listening("gateway.listen", settings.listen, parts.site, reactor, paced)
    metrics_listener = _listening(
        "gateway.metrics_listen", settings.metrics_listen, parts.metrics_site, reactor, paced
    )
    control_socket = settings.control_socket or str(paths.control_socket(environ, os.getuid()))

    async def drain() -> None:
        await parts.answers.drain(settings.grace_seconds)
        await parts.site.close_connections()

    stages = Stages(expected=(ListenError, ControlSocketError, StateInUseError))
    stages.stage(LogLines(reactor, settings.log_level, parts.metrics.log_lines_dropped.inc))
    stages.stage(Heartbeat(reactor, clock, parts.overload.note_beat))
    stages.stage(Ending(parts.pool.closeCachedConnections))
    stages.stage(metrics_listener)
    stages.stage(parts.recorder)
    stages.stage(parts.keeper)
    stages.stage(parts.responses)
    stages.stage(parts.translator)
    stages.stage(
        control_service(reactor, control_socket, settings.control_mode, parts.control_factory)
    )
    stages.stage(parts.lifecycle)
    stages.stage(parts.poller)
    stages.stage(parts.prober)
    stages.stage(Ending(drain))
    stages.stage(listener)
    stages.stage(SignalService(reactor, hurry=parts.answers.cut))
    stages.stage(SystemdService(reactor, Notifier(environ), environ))
    return Daemon(stages, parts, listener, metrics_listener)


def _listening(key: str, listen: str, factory: Any, reactor: Any, paced: Pace) -> ListeningService:
    try:
        endpoint = serverFromString(reactor, with_backlog(endpoint_description(listen)))
    except LookupError:  # Twisted looks up the name or number of a socket from systemd
        reason: object = (
            "systemd has not passed this socket; start cortexd as a unit with this .socket"
        )
    except (ValueError, TypeError, AttributeError, OSError, SSLError) as error:
        reason = error
    else:
        return ListeningService(endpoint, factory, f"{key} = {listen!r}", paced)
    raise ConfigError(f"{key}: {listen!r}: cannot listen: {reason}")
