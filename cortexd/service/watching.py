"""Watches certificates that expire, of listeners and nodes, and listeners open without keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.task import LoopingCall

from cortexd.config.expiry import OF_A_NODE, OF_THE_LINK, OURS, Reminders, Shown, Validity
from cortexd.config.exposure import Exposure, exposure
from cortexd.config.listening import LISTEN, is_local, listenings
from cortexd.config.reading import ConfigError
from cortexd.config.settings import Config
from cortexd.logs import get_logger
from cortexd.service.relistening import Listener, certificate_of

LOOK_SECONDS: Final = 3_600.0
"""How often the certificates are looked at. Their warnings come once a day."""

MOST_NODES: Final = 5
"""The certificates of how many nodes or agents the status shows; the others are counted."""

UNKNOWN_ADDRESS: Final = (
    "systemd passes this socket, so only the start can tell whether its address is on loopback; "
    "beyond it, clients need keys (keys_file in [auth])"
)

log = get_logger("cortexd.listeners")


class Watch(Service):
    """Warns of what is wrong with the ``listeners``, by their keys, in the log and the status.

    ``unix_time`` gives the time of day. ``node_expiries`` returns until when the certificates of
    nodes are valid, by the nodes' names, as far as that is known, and ``of_agents`` what expires of
    the agents' links: their expiry is announced too.
    Raises ConfigError for a listener that must not be open.
    """

    def __init__(
        self,
        config: Config,
        listeners: Mapping[str, Listener],
        reactor: Any,
        unix_time: Callable[[], float],
        node_expiries: Callable[[], Mapping[str, float]] = dict,
        of_agents: Callable[[], Sequence[Shown]] = tuple,
    ) -> None:
        self._node_expiries = node_expiries
        self._of_agents = of_agents
        self._listeners = listeners
        self._unix_time = unix_time
        self._exposure = self.admitted(config)
        self._reminders = Reminders()
        self._looks = LoopingCall(self._look)
        self._looks.clock = reactor

    def admitted(self, config: Config) -> Exposure:
        """Return whom the listeners admit under a configuration. Raises ConfigError."""
        where = listenings(config.gateway)
        inherited = {
            key: address
            for key, listener in self._listeners.items()
            if (address := listener.inherited_by(where[key])) is not None
        }
        found = exposure(config, inherited)
        if found.refused is not None:
            raise ConfigError(found.refused)
        return found

    def startService(self) -> None:
        """Log what is wrong, and look again from time to time."""
        super().startService()
        self._warn_of_exposure()
        self._looks.start(LOOK_SECONDS, now=True).addErrback(_looks_ended)

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        if self._looks.running:
            self._looks.stop()

    def follow(self, config: Config) -> None:
        """Log what is wrong with the listeners now that a configuration is in effect."""
        before, self._exposure = self._exposure, self.admitted(config)
        if before != self._exposure:
            self._warn_of_exposure()
        self._look()

    @property
    def is_open(self) -> bool:
        """Whether clients beyond this machine are admitted without a key."""
        return self._exposure.warning is not None

    @property
    def expiries(self) -> Mapping[str, float]:
        """Until when the certificate of each listener with TLS is valid, in unix seconds."""
        found = {
            key.partition(".")[2]: listener.certificate.validity.not_after
            for key, listener in self._listeners.items()
            if listener.certificate is not None
        }
        for each in self._of_agents():
            if each.advice is OF_THE_LINK:
                found["agents"] = each.validity.not_after
        return found

    def notices(self) -> list[str]:
        """Return what is wrong now, each in a line for the operator."""
        now = self._unix_time()
        found = [self._exposure.warning] if self._exposure.warning is not None else []
        ours, nodes, agents = (
            [
                f"{each.whose} {warning}"
                for each in shown
                if (warning := each.validity.warning(now, each.advice)) is not None
            ]
            for shown in (self._of_listeners(), self._of_nodes(), self._of_agents())
        )
        found += [*ours, *nodes[:MOST_NODES], *agents[:MOST_NODES]]
        if len(nodes) > MOST_NODES:
            found.append(
                f"the certificates of {len(nodes) - MOST_NODES} more nodes expire soon or have "
                "expired; the log and cortex_node_certificate_not_after_seconds show them"
            )
        if len(agents) > MOST_NODES:
            found.append(
                f"the enrolments of {len(agents) - MOST_NODES} more agents expire soon or have "
                "expired; 'cortexctl agent list' shows them"
            )
        return found

    def _of_listeners(self) -> Iterator[Shown]:
        for key, listener in self._listeners.items():
            if listener.certificate is not None:
                yield Shown(_of_certificate(key), listener.certificate.validity, OURS)

    def _of_nodes(self) -> Iterator[Shown]:
        """Yield the certificates of nodes, first the one that expires first."""
        expiries = self._node_expiries()
        for name in sorted(expiries, key=expiries.__getitem__):
            # One that is not valid yet is refused in the handshake, and never known here.
            yield Shown(_of_certificate(f"node {name}"), Validity(0.0, expiries[name]), OF_A_NODE)

    def _warn_of_exposure(self) -> None:
        if self._exposure.warning is not None:
            log.warning("open_without_keys", warning=self._exposure.warning)

    def _look(self) -> None:
        now = self._unix_time()
        for each in (*self._of_listeners(), *self._of_nodes(), *self._of_agents()):
            warning = self._reminders.due(each.whose, each.validity, now, each.advice)
            if warning is not None:
                log.warning("certificate_expires", warning=f"{each.whose} {warning}")


def findings(config: Config, now: float) -> Sequence[str]:
    """Return what a check of a configuration shows of its listeners, each in a line.

    Raises ConfigError for files that make no certificate. The sockets of systemd are not here.
    """
    found = []
    places = listenings(config.gateway)
    for key, where in places.items():
        certificate = None if where is None else certificate_of(key, where)
        if certificate is not None:
            warning = certificate.validity.warning(now)
            words = f"{key}: certificate {certificate.validity.words(now)}"
            found.append(words if warning is None else f"warning: {_of_certificate(key)} {warning}")
    outcome = exposure(config)
    if outcome.warning is not None:
        found.append(f"warning: {outcome.warning}")
    listen = places[LISTEN]
    is_decided = config.auth.keys_file is not None or config.auth.open
    if listen is not None and is_local(listen.description) is None and not is_decided:
        found.append(f"{LISTEN}: {UNKNOWN_ADDRESS}")
    return found


def _of_certificate(whose: str) -> str:
    return f"the certificate of {whose}"


def _looks_ended(failure: object) -> None:
    log.error("listeners_not_watched", failure=failure)
