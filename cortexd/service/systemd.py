"""What systemd wants to know of a service of Type=notify: ready, alive, stopping.

The protocol is sd_notify(3): datagrams of ``NAME=value`` lines to the socket in ``NOTIFY_SOCKET``.
Without that variable, which only systemd sets, nothing is sent.
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
    """Return the longest silence in seconds that systemd bears from process ``pid``.

    None where it watches nobody, or somebody else: ``WATCHDOG_USEC`` is absent, zero or no number,
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

    A message that cannot be sent is dropped; the first one leaves a warning in the log.
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
        """Say that the service serves; ``status`` is what ``systemctl status`` shows."""
        self._send("READY=1", _status_line(status))

    def status(self, text: str) -> None:
        """Show another text in ``systemctl status``."""
        self._send(_status_line(text))

    def watchdog(self) -> None:
        """Say that the service is alive."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the service is on its way out; from here on systemd expects no watchdog."""
        self._send("STOPPING=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # "@" is how a variable spells the NUL that abstract socket names begin with.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with self._socket_factory() as opened:
                opened.sendto("\n".join(lines).encode("utf-8", "replace"), address)
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                log.warning("systemd_not_notified", socket=self._address, reason=str(error))


class SystemdService(Service):
    """Keeps systemd informed for as long as it runs.

    READY=1 goes out once the reactor runs, WATCHDOG=1 right after it and then at half the interval
    that ``environ`` asks for, STOPPING=1 when the service stops. Add it to its parent last, since
    services stop in reverse order: systemd then hears of the stop before the drain begins.

    ``healthy`` is asked before each WATCHDOG=1, which is left out while the answer is False or an
    exception; systemd then restarts the daemon once its patience is over. ``ready_status`` is what
    ``systemctl status`` shows.
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
        """Have READY=1 sent as soon as the reactor runs."""
        super().startService()
        # The listeners of the services before this one are open by then.
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
        # Half the interval is what sd_watchdog_enabled(3) recommends.
        loop.start(self._watchdog_seconds / 2).addErrback(_watchdog_failed)

    def _ping(self) -> None:
        failure = None
        try:
            is_healthy = self._healthy()
        except Exception:  # whatever is wrong, systemd is the one to act on it
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
    # A line break would begin the next variable.
    return f"STATUS={' '.join(text.split())}"


def _watchdog_failed(failure: Failure) -> None:
    log.error("watchdog_stopped", failure=failure)
