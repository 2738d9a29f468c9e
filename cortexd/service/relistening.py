"""Listeners under another configuration: a new address, a renewed certificate, TLS or none.

The new socket listens before the old one closes, and connections of the old one live on.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort

from cortexd.config.addresses import with_backlog
from cortexd.config.changes import ConfigChange
from cortexd.config.listening import Listening, is_local
from cortexd.config.reading import ConfigError
from cortexd.service.certificates import Certificate, CertificateError, read_certificate
from cortexd.service.entrance import Entrance
from cortexd.service.stages import ListeningService, Pace, why_not

RENEWED: Final = "another certificate in the same file, for new connections"
NOT_PASSED: Final = "systemd has not passed this socket; start cortexd as a unit with this .socket"
CLOSED: Final = "the socket that systemd passed is in use or closed; restart cortexd"
STAYS: Final = "the address in use stays until the new one can be opened beside it"


@dataclass(frozen=True, slots=True)
class Relistened:
    """A listener that is ready to be changed: ``opened`` and its ``port`` if it moves.

    ``certificate`` is that of new connections.
    """

    listener: Listener
    where: Listening | None
    opened: Opened | None
    port: IListeningPort | None
    certificate: Certificate | None

    def take(self) -> None:
        """Change to it."""
        self.listener.take(self)

    def give_up(self) -> None:
        """Leave the listener as it was."""
        if self.port is not None:
            self.port.stopListening()


@dataclass(frozen=True, slots=True)
class Opened:
    """An endpoint that can listen, and how connections come in there.

    ``inherited`` is the address of the socket that systemd has passed, ``None`` for our own.
    """

    endpoint: Any
    entrance: Any
    inherited: str | None


class Listener:
    """One listener of the daemon: ``service`` listens as ``where`` says, by ``key``.

    ``where`` is ``None`` while it does not listen. ``pace`` is that of ListeningService,
    and ``are_by_proxies`` that of Entrance.
    """

    def __init__(
        self,
        key: str,
        where: Listening | None,
        site: Any,
        reactor: Any,
        pace: Pace,
        *,
        are_by_proxies: bool = False,
    ) -> None:
        self.key = key
        self.where = where
        self._site = site
        self._reactor = reactor
        self._are_by_proxies = are_by_proxies
        self._opened = opened = self._open(where)
        self.service = ListeningService(
            opened.endpoint, opened.entrance, _setting(key, where), pace
        )

    @property
    def certificate(self) -> Certificate | None:
        """The certificate that new connections get, ``None`` without TLS of ours."""
        return self._shown_by(self._opened)

    @property
    def inherited(self) -> str | None:
        """The address of the socket that systemd has passed, ``None`` for our own."""
        return self._opened.inherited

    def inherited_by(self, where: Listening | None) -> str | None:
        """Return that address for another configuration. Raises ConfigError."""
        if self._stays_at(where):
            return self.inherited
        return self._open(where, with_certificate=False).inherited

    def renewal(self, where: Listening | None) -> ConfigChange | None:
        """Return the change if the same files have another certificate. Raises ConfigError."""
        if where is None or self.where is None or where.files != self.where.files:
            return None
        before, after = self.certificate, self._certificate(where)
        if before is None or after is None or before.digests == after.digests:
            return None
        key = "gateway.tls_certificate" if where.are_keys else self.key
        return ConfigChange(key, RENEWED)

    async def prepare(self, where: Listening | None) -> Relistened:
        """Read the certificate again, and listen at another address too. Raises ConfigError."""
        if self._stays_at(where):
            certificate = None if where is None else self._certificate(where)
            return Relistened(self, where, None, None, certificate)
        opened = self._open(where)
        if where is None:
            return Relistened(self, where, opened, None, None)
        listening: Awaitable[IListeningPort] = opened.endpoint.listen(opened.entrance)
        try:
            port = await listening
        except Exception as error:
            words = f"{self.key}: {where.listen!r}: cannot listen: {why_not(error)}"
            raise ConfigError(f"{words}; {STAYS}") from error
        return Relistened(self, where, opened, port, self._shown_by(opened))

    def take(self, ready: Relistened) -> None:
        """Change to what ``prepare`` has made ready."""
        self.where = ready.where
        if ready.opened is not None:
            self._opened = opened = ready.opened
            setting = _setting(self.key, ready.where)
            self.service.change_to(ready.port, opened.endpoint, opened.entrance, setting)
        else:
            self._renew(ready.certificate)

    def _shown_by(self, opened: Opened) -> Certificate | None:
        found: Certificate | None = opened.entrance.certificate
        return found

    def _renew(self, certificate: Certificate | None) -> None:
        """Let new connections have another certificate."""
        self._opened.entrance.certificate = certificate

    def _stays_at(self, where: Listening | None) -> bool:
        if where is None or self.where is None:
            return where is self.where
        return where.description == self.where.description

    def _open(self, where: Listening | None, *, with_certificate: bool = True) -> Opened:
        """Return what can listen there. Raises ConfigError."""
        if where is None:
            return Opened(None, self._entrance(None), None)
        certificate = self._certificate(where) if with_certificate else None
        try:
            endpoint = serverFromString(self._reactor, with_backlog(where.description))
            inherited = _inherited(endpoint)
        except LookupError:  # Twisted looks up the name or number of a socket from systemd
            reason: object = NOT_PASSED
        except (ValueError, TypeError, AttributeError, OSError) as error:
            reason = error
        else:
            return Opened(endpoint, self._entrance(certificate), inherited)
        raise ConfigError(f"{self.key}: {where.listen!r}: cannot listen: {reason}")

    def _entrance(self, certificate: Certificate | None) -> Any:
        return Entrance(self._site, certificate, are_by_proxies=self._are_by_proxies)

    def _certificate(self, where: Listening) -> Certificate | None:
        return certificate_of(self.key, where)


class AgentsListener(Listener):
    """The listener of agents: ``site`` takes their connections, and has their TLS itself."""

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it, as far as we know."""
        where = self.where
        return where is not None and is_local(where.description, self.inherited) is True

    def _shown_by(self, opened: Opened) -> Certificate | None:
        return None

    def _renew(self, certificate: Certificate | None) -> None:
        pass

    def _entrance(self, certificate: Certificate | None) -> Any:
        return self._site


def certificate_of(key: str, where: Listening) -> Certificate | None:
    """Return the certificate of a listener, ``None`` if it has none. Raises ConfigError."""
    if where.files is None:
        return None
    try:
        return read_certificate(where.files)
    except CertificateError as error:
        if where.are_keys:
            key = "gateway.tls_key" if error.is_key else "gateway.tls_certificate"
            raise ConfigError(f"{key}: {error}") from None
        raise ConfigError(f"{key}: {where.listen!r}: cannot listen: {error}") from None


def _setting(key: str, where: Listening | None) -> str:
    return f"{key} = {where.listen!r}" if where is not None else f"{key} is not set"


def _inherited(endpoint: Any) -> str | None:
    """Return the address of the socket that an endpoint has from systemd, "" if it has no host.

    Raises ValueError if that is no listening socket any more: another file may have its number.
    """
    # The endpoint of "haproxy:" wraps the other one.
    number = getattr(getattr(endpoint, "_wrappedEndpoint", endpoint), "fileno", None)
    if number is None:
        return None
    try:
        with socket.socket(fileno=os.dup(number)) as inherited:
            if not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise ValueError(CLOSED)
            address = inherited.getsockname()
    except OSError:
        raise ValueError(CLOSED) from None
    return str(address[0]) if isinstance(address, tuple) else ""
