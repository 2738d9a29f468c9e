"""Listeners under another configuration: a new address, a renewed certificate.

The new socket listens before the old one closes, and connections of the old one live on.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from OpenSSL.crypto import Error as CryptoError
from OpenSSL.SSL import Error as TLSError
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort

from cortexd.config.addresses import endpoint_description, with_backlog
from cortexd.config.reading import ConfigError
from cortexd.service.certificates import Renewable, address_of, renewable, same_certificate
from cortexd.service.stages import ListeningService, Pace, why_not


@dataclass(frozen=True, slots=True)
class Relistened:
    """A listener that is ready to be changed: it has a new ``port``, or a new ``certificate``.

    ``listener`` is its service.
    """

    listener: Listener
    listen: str
    port: IListeningPort | None
    certificate: Renewable | None
    is_renewed: bool = False

    def take(self) -> None:
        """Change to it."""
        self.listener.take(self)

    def give_up(self) -> None:
        """Leave the listener as it was."""
        if self.port is not None:
            self.port.stopListening()


class Listener:
    """One listener of the daemon: ``service`` listens at ``listen``, the value of ``key``.

    ``pace`` is that of ListeningService.
    """

    def __init__(self, key: str, listen: str, factory: Any, reactor: Any, pace: Pace) -> None:
        self._key = key
        self._factory = factory
        self._reactor = reactor
        self._listen = listen
        endpoint, self._certificate = self._endpoint(listen)
        self.service = ListeningService(endpoint, factory, f"{key} = {listen!r}", pace)

    def _endpoint(self, listen: str) -> tuple[Any, Renewable | None]:
        """Return an endpoint and its certificate. Raises ConfigError."""
        try:
            endpoint = serverFromString(self._reactor, with_backlog(endpoint_description(listen)))
            return endpoint, renewable(endpoint)
        except LookupError:  # Twisted looks up the name or number of a socket from systemd
            reason: object = (
                "systemd has not passed this socket; start cortexd as a unit with this .socket"
            )
        except (ValueError, TypeError, AttributeError, OSError, CryptoError, TLSError) as error:
            reason = error
        raise ConfigError(f"{self._key}: {listen!r}: cannot listen: {reason}")

    def is_renewed_by(self, listen: str) -> bool:
        """Return whether the files at ``listen`` have another certificate. Raises ConfigError."""
        if self._certificate is None or not self._stays_at(listen):
            return False
        _, certificate = self._endpoint(listen)
        return certificate is not None and not same_certificate(
            self._certificate.current, certificate.current
        )

    def _stays_at(self, listen: str) -> bool:
        before, after = endpoint_description(self._listen), endpoint_description(listen)
        return address_of(before) == address_of(after)

    async def prepare(self, listen: str) -> Relistened:
        """Listen at another address too, or read the certificate again. Raises ConfigError."""
        if self._stays_at(listen):
            if self._certificate is None:
                return Relistened(self, listen, None, None)
            is_renewed = self.is_renewed_by(listen)
            _, certificate = self._endpoint(listen)
            return Relistened(self, listen, None, certificate, is_renewed)
        endpoint, certificate = self._endpoint(listen)
        listening: Awaitable[IListeningPort] = endpoint.listen(self._factory)
        try:
            port = await listening
        except Exception as error:
            words = f"{self._key}: {listen!r}: cannot listen: {why_not(error)}"
            advice = "the address in use stays until the new one can be opened beside it"
            raise ConfigError(f"{words}; {advice}") from error
        return Relistened(self, listen, port, certificate)

    def take(self, ready: Relistened) -> None:
        """Change to what ``prepare`` has made ready."""
        self._listen = ready.listen
        if ready.port is not None:
            self._certificate = ready.certificate
            self.service.change_to(ready.port, f"{self._key} = {ready.listen!r}")
        elif self._certificate is not None and ready.certificate is not None:
            self._certificate.current = ready.certificate.current
