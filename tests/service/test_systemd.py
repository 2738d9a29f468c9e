"""What systemd hears, and what the unit file promises the daemon."""

import configparser
import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from cortexd.logs import fields_of
from cortexd.service.heartbeat import SLOWEST
from cortexd.service.systemd import Notifier, SystemdService, datagram_socket, watchdog_seconds

UNIT_FILE = Path(__file__).parents[2] / "contrib" / "systemd" / "cortexd.service"
DEFAULT_GRACE_SECONDS = 30


class RunnableReactor(MemoryReactorClock):
    """A reactor in memory that runs what waited for its start once told to."""

    def start(self) -> None:
        """Begin to run."""
        self.hasRun = True
        for function, arguments, keywords in self.whenRunningHooks:
            function(*arguments, **keywords)


def names_of(events: Sequence[LogEvent]) -> list[str]:
    """Return the names of our own events among those captured."""
    return [fields["event"] for fields in map(fields_of, events) if fields is not None]


class SystemdTestCase(SynchronousTestCase):
    """Gives a test the other end of the notify socket."""

    def setUp(self) -> None:
        """Open a datagram socket where systemd would have its own."""
        # Trial's own folders make paths longer than the 107 bytes a socket name may have.
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.address = str(Path(folder.name) / "notify")
        self.environ = {"NOTIFY_SOCKET": self.address}
        self.systemd = self.listen(self.address)

    def listen(self, address: str) -> socket.socket:
        """Bind a datagram socket for the duration of the test."""
        listening = datagram_socket()
        self.addCleanup(listening.close)
        listening.bind(address)
        return listening

    def received(self) -> list[str]:
        """Return the messages that came in since the last call."""
        messages = []
        while True:
            try:
                messages.append(self.systemd.recv(4096).decode())
            except BlockingIOError:
                return messages


class NotifierTests(SystemdTestCase):
    def test_messages(self) -> None:
        """Each call is one datagram in the words of sd_notify(3)."""
        notifier = Notifier(self.environ)
        notifier.ready("serving 3 nodes")
        notifier.watchdog()
        notifier.status("2 of 3 nodes up")
        notifier.stopping()

        expected = [
            "READY=1\nSTATUS=serving 3 nodes",
            "WATCHDOG=1",
            "STATUS=2 of 3 nodes up",
            "STOPPING=1",
        ]
        self.assertEqual(expected, self.received())

    def test_status_cannot_smuggle_a_variable(self) -> None:
        """Line breaks in a status do not begin another variable."""
        Notifier(self.environ).status("well\nMAINPID=1")

        self.assertEqual(["STATUS=well MAINPID=1"], self.received())

    def test_abstract_socket(self) -> None:
        """A name that begins with "@" means a socket of the abstract namespace."""
        name = f"cortexd-test-{os.getpid()}"
        self.systemd = self.listen(f"\0{name}")
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).watchdog()

        self.assertEqual(["WATCHDOG=1"], self.received())

    def test_without_systemd(self) -> None:
        """Without NOTIFY_SOCKET no socket is so much as opened."""
        opened: list[socket.socket] = []

        def open_and_remember() -> socket.socket:
            opened.append(datagram_socket())
            return opened[-1]

        notifier = Notifier({}, socket_factory=open_and_remember)
        notifier.ready("serving")
        notifier.watchdog()
        notifier.stopping()

        self.assertEqual([], opened)

    def test_failure_is_logged_once(self) -> None:
        """Messages that nobody takes raise nothing and leave one warning."""
        notifier = Notifier({"NOTIFY_SOCKET": f"{self.address}-gone"})
        with capturedLogs() as events:
            notifier.ready("serving")
            notifier.watchdog()
            notifier.stopping()

        self.assertEqual(["systemd_not_notified"], names_of(events))
        fields = fields_of(events[0])
        assert fields is not None
        self.assertEqual(f"{self.address}-gone", fields["socket"])
        assert "No such file" in fields["reason"]

    def test_full_queue_does_not_block(self) -> None:
        """A systemd that reads nothing costs messages, and never the reactor's time."""
        notifier = Notifier(self.environ)
        with capturedLogs() as events:
            for _ in range(10_000):
                notifier.watchdog()
                if events:
                    break

        self.assertEqual(["systemd_not_notified"], names_of(events))

    def test_every_socket_is_closed(self) -> None:
        """Neither a message that went out nor one that did not leaves a descriptor behind."""
        opened: list[socket.socket] = []

        def open_and_remember() -> socket.socket:
            opened.append(datagram_socket())
            return opened[-1]

        Notifier(self.environ, socket_factory=open_and_remember).watchdog()
        Notifier({"NOTIFY_SOCKET": "/gone"}, socket_factory=open_and_remember).watchdog()

        self.assertEqual([-1, -1], [each.fileno() for each in opened])


class WatchdogSecondsTests(SynchronousTestCase):
    def test_interval(self) -> None:
        """The interval comes in microseconds and goes out in seconds."""
        self.assertEqual(30.0, watchdog_seconds({"WATCHDOG_USEC": "30000000"}, 7))

    def test_whose_watchdog(self) -> None:
        """A watchdog on another process is none of ours; one that names no process is."""
        environ = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}

        self.assertEqual(30.0, watchdog_seconds(environ, 7))
        self.assertIsNone(watchdog_seconds(environ, 8))

    def test_no_watchdog(self) -> None:
        """Nothing, zero and nonsense all mean that nobody watches."""
        for text in ("", "0", "-1", "soon", "1.5", "²"):
            self.assertIsNone(watchdog_seconds({"WATCHDOG_USEC": text}, 7), text)
        self.assertIsNone(watchdog_seconds({}, 7))


class SystemdServiceTests(SystemdTestCase):
    def setUp(self) -> None:
        """Have a watchdog of 30 s on this very process."""
        super().setUp()
        self.reactor = RunnableReactor()
        self.environ |= {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
        self.is_healthy = True

    def service(self, environ: Mapping[str, str]) -> SystemdService:
        """Make a service whose health the test decides."""
        return SystemdService(
            self.reactor,
            Notifier(environ),
            environ,
            healthy=self.health,
            ready_status="serving 3 nodes",
        )

    def health(self) -> bool:
        """Say what the test wants said."""
        return self.is_healthy

    def test_ready_waits_for_the_reactor(self) -> None:
        """Nothing is said until the reactor runs; then READY=1 comes before any WATCHDOG=1."""
        self.service(self.environ).startService()
        self.assertEqual([], self.received())

        self.reactor.start()

        self.assertEqual(["READY=1\nSTATUS=serving 3 nodes", "WATCHDOG=1"], self.received())

    def test_watchdog_within_half_the_interval(self) -> None:
        """WATCHDOG=1 follows every 15 s when systemd bears 30, also of a clock that is held."""
        self.service(self.environ).startService()
        self.reactor.start()
        self.received()

        self.reactor.advance(15.0 * SLOWEST - 0.1)
        self.assertEqual([], self.received())
        self.reactor.advance(0.1)
        self.assertEqual(["WATCHDOG=1"], self.received())
        self.reactor.pump([15.0 * SLOWEST] * 2)
        self.assertEqual(["WATCHDOG=1", "WATCHDOG=1"], self.received())

    def test_no_watchdog_asked_for(self) -> None:
        """Without WATCHDOG_USEC the service only says READY=1 and STOPPING=1."""
        service = self.service({"NOTIFY_SOCKET": self.address})
        service.startService()
        self.reactor.start()
        service.stopService()

        self.assertEqual(["READY=1\nSTATUS=serving 3 nodes", "STOPPING=1"], self.received())
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_stop(self) -> None:
        """STOPPING=1 is the last that is heard, and no timer stays behind."""
        service = self.service(self.environ)
        service.startService()
        self.reactor.start()
        self.received()

        service.stopService()
        self.reactor.advance(60)

        self.assertEqual(["STOPPING=1"], self.received())
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_stop_before_the_reactor_runs(self) -> None:
        """A service that was stopped again never says READY=1."""
        service = self.service(self.environ)
        service.startService()
        service.stopService()
        self.reactor.start()

        self.assertEqual(["STOPPING=1"], self.received())
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_restart(self) -> None:
        """A service started anew has one watchdog loop, not two."""
        service = self.service(self.environ)
        service.startService()
        service.stopService()
        service.startService()
        self.reactor.start()
        self.received()

        self.reactor.advance(15)

        self.assertEqual(["WATCHDOG=1"], self.received())

    def test_unhealthy(self) -> None:
        """An unhealthy daemon stops pinging, says so once, and resumes when it has recovered."""
        self.service(self.environ).startService()
        self.reactor.start()
        self.received()

        self.is_healthy = False
        with capturedLogs() as events:
            self.reactor.pump([15.0, 15.0, 15.0])
        self.assertEqual([], self.received())
        self.assertEqual(["watchdog_withheld"], names_of(events))

        self.is_healthy = True
        self.reactor.advance(15)
        self.assertEqual(["WATCHDOG=1"], self.received())

    def test_health_check_that_fails(self) -> None:
        """A health check that raises counts as unhealthy and leaves its traceback in the log."""

        def broken() -> bool:
            raise ZeroDivisionError("in the check")

        SystemdService(
            self.reactor, Notifier(self.environ), self.environ, healthy=broken
        ).startService()
        self.reactor.start()
        self.reactor.pump([15.0, 15.0])

        self.assertEqual(["READY=1\nSTATUS=serving"], self.received())
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_without_systemd(self) -> None:
        """Started by hand, the service runs and stops in silence."""
        service = self.service({})
        service.startService()
        self.reactor.start()
        service.stopService()

        self.assertEqual([], self.received())
        self.assertEqual([], self.reactor.getDelayedCalls())


class UnitFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Read the unit as systemd does: case matters, a key may come twice."""
        parser = configparser.RawConfigParser(strict=False)
        parser.optionxform = str  # type: ignore[assignment,method-assign]  # documented way
        parser.read(UNIT_FILE, encoding="utf-8")
        self.unit, self.service = parser["Unit"], parser["Service"]

    def test_daemon_is_told_where_to_report(self) -> None:
        """Systemd waits for READY=1 and WATCHDOG=1, not of the guard but of its child."""
        self.assertEqual("notify", self.service["Type"])
        self.assertEqual("all", self.service["NotifyAccess"])
        assert int(self.service["WatchdogSec"]) > 0

    def test_folders(self) -> None:
        """The folders of socket, state and configuration are there before the daemon."""
        for key in ("RuntimeDirectory", "StateDirectory", "ConfigurationDirectory"):
            self.assertEqual("cortex", self.service[key], key)
        assert "/etc/cortex/cortex.toml" in self.service["ExecStart"]

    def test_drain_is_waited_for(self) -> None:
        """Systemd's patience at a stop outlasts the grace that streams get, with time to spare."""
        assert int(self.service["TimeoutStopSec"]) >= DEFAULT_GRACE_SECONDS + 10

    def test_twistd_stays_in_the_foreground_with_our_log(self) -> None:
        """The guard runs twistd, without a pid file, logging JSON."""
        guard, _, twistd = self.service["ExecStart"].partition(" -- ")

        self.assertEqual(["-m", "cortexd.service.guard", "--unit", "%n"], guard.split()[1:])
        self.assertEqual(
            ["-n", "--pidfile=", "--logger", "cortexd.logs.json_observer", "cortex"],
            twistd.split()[1:6],
        )

    def test_the_old_process_outlives_a_restart(self) -> None:
        """It shares sockets that do not block, and its control socket is found by the next one."""
        self.assertEqual("process", self.service["KillMode"])
        self.assertEqual("yes", self.service["NonBlocking"])
        self.assertEqual("restart", self.service["RuntimeDirectoryPreserve"])
        self.assertEqual("always", self.service["Restart"])
        self.assertEqual("0", self.unit["StartLimitIntervalSec"])

    def test_a_reload_asks_the_daemon(self) -> None:
        """The status of cortexctl says whether the reload was refused; SIGHUP would not."""
        self.assertEqual("/usr/bin/cortexctl reload", self.service["ExecReload"])

    def test_the_log_is_one_stream_of_the_journal(self) -> None:
        """The daemon finds its standard output in JOURNAL_STREAM, which names one stream only."""
        self.assertEqual("journal", self.service["StandardOutput"])
        self.assertEqual("inherit", self.service["StandardError"])
        self.assertEqual("yes", self.service["SyslogLevelPrefix"])
        self.assertEqual("cortexd", self.service["SyslogIdentifier"])

    def test_the_sockets_have_the_names_of_the_documented_addresses(self) -> None:
        """A single unit has one name for all its sockets, so there are two."""
        names = {}
        for name in self.service["Sockets"].split():
            parser = configparser.RawConfigParser()
            parser.optionxform = str  # type: ignore[assignment,method-assign]  # documented way
            parser.read(UNIT_FILE.with_name(name), encoding="utf-8")
            names[name] = parser["Socket"]["FileDescriptorName"]
            self.assertEqual("cortexd.service", parser["Socket"]["Service"])
        self.assertEqual({"cortexd.socket": "http", "cortexd-metrics.socket": "metrics"}, names)

    def test_sockets_it_needs(self) -> None:
        """TCP of both kinds and UNIX sockets are open to the daemon, and nothing else is."""
        families = self.service["RestrictAddressFamilies"].split()

        self.assertEqual({"AF_INET", "AF_INET6", "AF_UNIX"}, set(families))

    def test_https_nodes_stay_reachable(self) -> None:
        """MemoryDenyWriteExecute, under which pyOpenSSL can set no callback, stays off."""
        assert "MemoryDenyWriteExecute" not in self.service
