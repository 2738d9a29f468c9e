"""Parts of the daemon's service: stages that stop in turn, listeners, signals, a steady clock."""

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
from twisted.python.failure import Failure

from cortexd.logs import get_logger

log = get_logger("cortexd.services")


def steady_seconds(
    unix_time: Callable[[], float], monotonic: Callable[[], float]
) -> Callable[[], float]:
    """Return a clock that shows unix seconds, set once, now; from then on it goes on evenly.

    For a reactor's ``seconds``, by which all timers go. Twisted's own is the machine's clock: where
    that is set back by an hour nothing is done for an hour, and where it is set ahead every limit
    of time is over at once (Twisted's issue 2424).
    """
    set_to = unix_time() - monotonic()
    return lambda: set_to + monotonic()


class ListenError(Exception):
    """Raised when a service cannot listen; its text names the setting and the reason."""


class Stages(MultiService):
    """Starts its services in their order and stops them in reverse, each once the last has ended.

    Twisted's own MultiService stops all of them at once; but a request that is still being
    answered needs its connections to nodes until it has ended.

    Where a service cannot start, for a reason that is one of the types in ``expected``, the process
    ends with status 1 and the error's text as its one line: twistd would add a traceback.
    """

    def __init__(self, expected: tuple[type[Exception], ...] = (ListenError,)) -> None:
        super().__init__()
        self._expected = expected

    def privilegedStartService(self) -> None:
        """Start what needs the rights of root, in order."""
        try:
            super().privilegedStartService()
        except self._expected as error:
            _give_up(error)

    def startService(self) -> None:
        """Start all services in order."""
        try:
            super().startService()
        except self._expected as error:
            _give_up(error)

    def stopService(self) -> Deferred[None]:
        """Stop all services in turn; one that fails to stop does not keep the rest running."""
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
    stream = sys.__stderr__  # twistd has sent sys.stderr to the log by now
    if stream is not None:
        stream.write(f"{error}\n")
    raise SystemExit(1) from None


class ListeningService(Service):
    """Listens at ``endpoint`` with ``factory`` while it runs; ``port`` is what it listens on.

    ``setting`` is the configuration's key and value for it. Starting raises ListenError where it
    cannot listen: Twisted's own service would log a traceback and run deaf.
    """

    port: IListeningPort | None = None

    def __init__(
        self, endpoint: IStreamServerEndpoint, factory: IProtocolFactory, setting: str
    ) -> None:
        self._endpoint = endpoint
        self._factory = factory
        self._setting = setting

    def privilegedStartService(self) -> None:
        """Listen while the process may still have the right to a low port."""
        super().privilegedStartService()
        self._listen()

    def startService(self) -> None:
        """Listen, unless that was done before."""
        super().startService()
        if self.port is None:
            self._listen()

    def _listen(self) -> None:
        failures: list[Failure] = []
        # An exception raised in a callback would end there, and the daemon run deaf; those
        # endpoints that serve sockets of this machine fail at once.
        listening = self._endpoint.listen(self._factory)
        listening.addCallbacks(self._listening, failures.append)
        for failure in failures:
            error = failure.value
            reason = getattr(error, "socketError", error)
            reason = getattr(reason, "strerror", None) or reason
            raise ListenError(
                f"{self._setting}: cannot listen: {reason}; choose another address, or stop what "
                "has this one"
            )

    def _listening(self, port: IListeningPort) -> None:
        self.port = port
        log.info("listening", setting=self._setting, address=address_text(port))

    def stopService(self) -> Deferred[None]:
        """Accept no more connections; those that are open stay."""
        super().stopService()
        port, self.port = self.port, None
        return (port.stopListening() if port is not None else None) or succeed(None)


def address_text(port: IListeningPort) -> str:
    """Return where a port listens, as a client would write it: host:port, or a socket's path."""
    address: Any = port.getHost()
    host = getattr(address, "host", None)
    if host is None:
        return os.fsdecode(address.name)
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"


class Ending(Service):
    """Does nothing until it is stopped, and then awaits ``end``."""

    def __init__(self, end: Callable[[], Awaitable[Any]]) -> None:
        self._end = end

    def stopService(self) -> Deferred[Any]:
        """Await the end."""
        super().stopService()
        return Deferred.fromCoroutine(_awaited(self._end))


async def _awaited(end: Callable[[], Awaitable[Any]]) -> Any:
    return await end()


class SignalService(Service):
    """Stops the reactor at SIGTERM, SIGINT and SIGHUP, so that the process exits with status 0.

    Twisted itself stops too, but then ends the process by the same signal, which a supervisor
    takes for a crash. A second signal means haste: ``hurry`` is called. SIGHUP, with which a
    terminal closes, Twisted leaves to the kernel, which ends the process in the middle of every
    answer; nohup(1) has it ignored, and so it stays. Kernel and shell may both send one, so that a
    second one means nothing.
    """

    def __init__(self, reactor: Any, hurry: Callable[[], None]) -> None:
        self._reactor = reactor
        self._hurry = hurry
        self._stopping = False

    def startService(self) -> None:
        """Take the signals over once the reactor has installed its own handlers."""
        super().startService()
        self._reactor.callWhenRunning(self._install)

    def _install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._caught)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._caught)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._stop, signal.Signals(number))

    def _stop(self, number: signal.Signals) -> None:
        if self._stopping:
            if number != signal.SIGHUP:
                self._hurry()
            return
        self._stopping = True
        log.info("stopping", signal=number.name)
        self._reactor.stop()
