"""Notifications to systemd, for a service of Type=notify: ready, alive, stopping.

The protocol is sd_notify(3): datagrams of ``NAME=value`` lines to the socket in ``NOTIFY_SOCKET``.
Without that variable, which only systemd sets, no datagram is sent.
"""

import os
import socket
from collections.abc import Callable, Mapping
from typing import Final

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorCore, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from cortexd.logs import get_logger

MICROSECONDS_PER_SECOND: Final = 1_000_000

log = get_logger("cortexd.systemd")


def datagram_socket() -> socket.socket:
    """Open a UNIX datagram socket that never blocks: a stuck systemd must not stop the reactor."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    opened.setblocking(False)
    return opened


def watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """Return the seconds of silence after which systemd kills process ``pid``.

    None if systemd does not watch this process: ``WATCHDOG_USEC`` is missing, zero or not a number,
    or ``WATCHDOG_PID`` names another process (sd_watchdog_enabled(3)).
    """
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not (microseconds.isascii() and microseconds.isdecimal()) or int(microseconds) == 0:
        return None
    return int(microseconds) / MICROSECONDS_PER_SECOND


class Notifier:
    """Sends sd_notify messages to the socket that ``environ`` names, one socket per message.

    A message that cannot be sent is dropped; the first failure logs a warning.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        socket_factory: Callable[[], socket.socket] = datagram_socket,
    ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._socket_factory = socket_factory
        self._has_failed = False

    def ready(self, status: str) -> None:
        """Report that the service is ready; ``systemctl status`` shows ``status``."""
        self._send("READY=1", _status_line(status))

    def status(self, text: str) -> None:
        """Show another text in ``systemctl status``."""
        self._send(_status_line(text))

    def watchdog(self) -> None:
        """Report that the service is alive."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Report that the service is stopping; systemd then expects no more watchdog messages."""
        self._send("STOPPING=1")

    def mute(self) -> None:
        """Send nothing more: from now on another process of the unit does."""
        self._address = ""

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # The variable writes the NUL at the beginning of an abstract socket's name as "@".
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with self._socket_factory() as opened:
                opened.sendto("\n".join(lines).encode("utf-8", "replace"), address)
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                log.warning("systemd_not_notified", socket=self._address, reason=str(error))


class SystemdService(Service):
    """Keeps systemd informed while it runs.

    It sends READY=1 when the reactor runs, WATCHDOG=1 immediately after that and then at least
    twice per interval in ``environ``, and STOPPING=1 when the service stops. Services stop in
    reverse order: add this one to its parent last, so that systemd learns of the stop before the
    drain begins.

    It calls ``healthy`` before each WATCHDOG=1, and does not send the message while the result is
    False or an exception; systemd then restarts the daemon after the interval. ``systemctl status``
    shows ``ready_status``.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        notifier: Notifier,
        environ: Mapping[str, str],
        *,
        healthy: Callable[[], bool] = lambda: True,
        ready_status: str = "serving",
    ) -> None:
        self._reactor = reactor
        self._notifier = notifier
        self._watchdog_seconds = watchdog_seconds(environ, os.getpid())
        self._healthy = healthy
        self._ready_status = ready_status
        self._watchdog_loop: LoopingCall | None = None
        self._is_withholding = False

    def startService(self) -> None:
        """Send READY=1 as soon as the reactor runs."""
        super().startService()
        # By then the listeners of the services before this one are open.
        IReactorCore(self._reactor).callWhenRunning(self._reactor_runs)

    def stopService(self) -> None:
        """Send STOPPING=1 and end the watchdog."""
        super().stopService()
        self._notifier.stopping()
        loop, self._watchdog_loop = self._watchdog_loop, None
        if loop is not None and loop.running:
            loop.stop()

    def _reactor_runs(self) -> None:
        if not self.running:
            return
        self._notifier.ready(self._ready_status)
        if self._watchdog_seconds is None or self._watchdog_loop is not None:
            return
        loop = LoopingCall(self._ping)
        loop.clock = self._reactor
        self._watchdog_loop = loop
        # Half the interval is what sd_watchdog_enabled(3) recommends. The reactor's clock keeps a
        # quarter of the true pace in an overload (heartbeat), from which no restart would help.
        loop.start(self._watchdog_seconds / 8).addErrback(_watchdog_failed)

    def _ping(self) -> None:
        failure = None
        try:
            is_healthy = self._healthy()
        except Exception:  # systemd must act on it, whatever the cause
            failure = Failure()
            is_healthy = False
        if is_healthy:
            self._notifier.watchdog()
        elif not self._is_withholding:
            log.error(
                "watchdog_withheld",
                silence_allowed_seconds=self._watchdog_seconds,
                exc_info=failure,
            )
        self._is_withholding = not is_healthy


def _status_line(text: str) -> str:
    # A line break would start another variable.
    return f"STATUS={' '.join(text.split())}"


def _watchdog_failed(failure: Failure) -> None:
    log.error("watchdog_stopped", failure=failure)
