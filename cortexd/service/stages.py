"""Parts of the daemon's service: stages that stop in order, listeners, signals."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, NoReturn

from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.tcp import Port
from twisted.logger import ILogObserver
from twisted.python.failure import Failure

from cortexd.logs import get_logger

log = get_logger("cortexd.services")


class ListenError(Exception):
    """Raised when a service cannot listen; the message names the setting and the reason."""


class Stages(MultiService):
    """Starts its services in order and stops them in reverse, each after the previous has stopped.

    Twisted's own MultiService stops all of them at once. But a request in progress needs its
    connections to nodes until it has ended.

    If a service fails to start with an error of a type in ``expected``, ``give_up`` ends the
    process: by default with the error's message as one line, and with status 1. twistd alone would
    print a traceback. ``observer`` becomes the observer of the log of twistd's application.
    """

    observer: ILogObserver | None = None

    def __init__(self, expected: tuple[type[Exception], ...] = (ListenError,)) -> None:
        super().__init__()
        self._expected = expected
        self.give_up: Callable[[Exception], NoReturn] = _give_up

    def setServiceParent(self, parent: Any) -> None:  # noqa: N802 - Twisted's own name
        """Become a part of twistd's application, and give it the observer."""
        super().setServiceParent(parent)
        if self.observer is not None:
            parent.setComponent(ILogObserver, self.observer)

    def privilegedStartService(self) -> None:
        """Start the parts that need root's privileges, in order."""
        try:
            super().privilegedStartService()
        except self._expected as error:
            self.give_up(error)

    def startService(self) -> None:
        """Start all services in order."""
        try:
            super().startService()
        except self._expected as error:
            self.give_up(error)

    def stopService(self) -> Deferred[None]:
        """Stop all services in reverse order; a failure does not prevent the others' stop."""
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop_in_turn())

    async def _stop_in_turn(self) -> None:
        for service in reversed(list(self)):
            try:
                await maybeDeferred(service.stopService)
            except Exception:
                log.exception("stop_failed", service=type(service).__name__)

    def __iter__(self) -> Any:
        return iter(self.services)

    def stage(self, service: IService) -> None:
        """Add the next service."""
        service.setServiceParent(self)


def _give_up(error: Exception) -> NoReturn:
    stream = sys.__stderr__  # twistd has redirected sys.stderr to the log
    if stream is not None:
        stream.write(f"{error}\n")
    raise SystemExit(1) from None


Pace = Callable[[IListeningPort], Callable[[], None]]
"""Decides how a port accepts clients, and returns the function that ends this."""


def _unpaced(port: IListeningPort) -> Callable[[], None]:
    return lambda: None


class ListeningService(Service):
    """Listens at ``endpoint`` with ``factory`` while it runs; ``port`` is the listening port.

    Without an ``endpoint`` it does not listen until it changes to a port. ``setting`` is the key
    and value of the configuration. The start raises ListenError if it cannot listen: Twisted's own
    service would log a traceback and run without listening.
    """

    port: IListeningPort | None = None

    def __init__(
        self,
        endpoint: IStreamServerEndpoint | None,
        factory: IProtocolFactory,
        setting: str,
        pace: Pace = _unpaced,
    ) -> None:
        self._endpoint = endpoint
        self._factory = factory
        self._setting = setting
        self._pace = pace
        self._end_pace: Callable[[], None] = lambda: None

    def privilegedStartService(self) -> None:
        """Listen while the process may still have the privilege to use a low port."""
        super().privilegedStartService()
        self._listen()

    def startService(self) -> None:
        """Listen, unless it listens already."""
        super().startService()
        if self.port is None:
            self._listen()

    def _listen(self) -> None:
        if self._endpoint is None:
            return
        failures: list[Failure] = []
        # An exception in a callback would be swallowed, and the daemon would not listen. Endpoints
        # for sockets of this machine fail synchronously, so we can raise the error here.
        listening = self._endpoint.listen(self._factory)
        listening.addCallbacks(self._listening, failures.append)
        for failure in failures:
            raise ListenError(
                f"{self._setting}: cannot listen: {why_not(failure.value)}; choose another "
                "address, or stop the program that uses this one"
            )

    def _listening(self, port: IListeningPort) -> None:
        self.port = port
        self._end_pace = self._pace(port)
        log.info("listening", setting=self._setting, address=address_text(port))

    def change_to(
        self,
        port: IListeningPort | None,
        endpoint: IStreamServerEndpoint | None,
        factory: IProtocolFactory,
        setting: str,
    ) -> None:
        """Listen at another port from now on, which listens already; close the old one.

        The other arguments are those of a service that begins with it. Without a port, no longer
        listen.
        """
        before, self._setting = self.port, setting
        self._endpoint, self._factory = endpoint, factory
        self._end_pace()
        if port is not None:
            self._listening(port)
        else:
            self.port, self._end_pace = None, lambda: None
            log.info("not_listening", setting=setting)
        if before is not None:
            if isinstance(before, Port):
                Port.doRead(before)  # Connections that the kernel has made would be reset.
            before.stopListening()

    def stopService(self) -> Deferred[None]:
        """Accept no more connections; open connections stay open."""
        super().stopService()
        port, self.port = self.port, None
        self._end_pace()
        return (port.stopListening() if port is not None else None) or succeed(None)


def why_not(error: BaseException | None) -> object:
    """Return why a listener could not listen, in the words of the system if it has any."""
    reason = getattr(error, "socketError", error)
    return getattr(reason, "strerror", None) or reason


def address_text(port: IListeningPort) -> str:
    """Return a port's address in the form that clients use: host:port, or a socket's path."""
    address: Any = port.getHost()
    host = getattr(address, "host", None)
    if host is None:
        return os.fsdecode(address.name)
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"


class Ending(Service):
    """Does nothing until it is stopped; then it awaits ``end``."""

    def __init__(self, end: Callable[[], Awaitable[Any]]) -> None:
        self._end = end

    def stopService(self) -> Deferred[Any]:
        """Await the end."""
        super().stopService()
        return Deferred.fromCoroutine(_awaited(self._end))


async def _awaited(end: Callable[[], Awaitable[Any]]) -> Any:
    return await end()


class SignalService(Service):
    """Stops the reactor at SIGTERM and SIGINT, so that the process exits with status 0.

    Twisted stops at SIGTERM and SIGINT too, but then kills the process with the same signal, which
    a supervisor regards as a crash. A second SIGTERM or SIGINT calls ``hurry``. SIGHUP calls
    ``reload`` and never stops anything: Twisted does not handle it, so the kernel would kill the
    process when its terminal closes, or when an operator asks for a reload.
    """

    def __init__(
        self, reactor: Any, hurry: Callable[[], None], reload: Callable[[], object]
    ) -> None:
        self._reactor = reactor
        self._hurry = hurry
        self._reload = reload
        self._stopping = False

    def startService(self) -> None:
        """Install our handlers after the reactor has installed its own."""
        super().startService()
        self._reactor.callWhenRunning(self._install)

    def _install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._caught)
        signal.signal(signal.SIGHUP, self._caught_hangup)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._stop, signal.Signals(number))

    def _caught_hangup(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._reload)

    def _stop(self, number: signal.Signals) -> None:
        if self._stopping:
            self._hurry()
            return
        self._stopping = True
        log.info("stopping", signal=number.name)
        self._reactor.stop()
