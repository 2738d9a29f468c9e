import signal
import sys
from collections.abc import Callable
from io import StringIO
from typing import Any

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from cortexd.service.stages import (
    Ending,
    ListenError,
    ListeningService,
    SignalService,
    Stages,
    address_text,
)


class Recorder(Service):
    """Notes when it starts and stops; its stop ends when ``stopped`` fires."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.stopped: Deferred[None] | None = None
        self._label = name
        self._notes = notes

    def privilegedStartService(self) -> None:
        self._notes.append(f"prepare {self._label}")

    def startService(self) -> None:
        super().startService()
        self._notes.append(f"start {self._label}")

    def stopService(self) -> Deferred[None] | None:
        super().stopService()
        self._notes.append(f"stop {self._label}")
        return self.stopped


class StagesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.notes: list[str] = []
        self.stages = Stages()
        self.recorders = {name: Recorder(name, self.notes) for name in ("a", "b", "c")}
        for recorder in self.recorders.values():
            self.stages.stage(recorder)

    def start(self) -> None:
        self.stages.privilegedStartService()
        self.stages.startService()
        self.notes.clear()

    def test_it_starts_in_order(self) -> None:
        """All are prepared, then all started, each time in the order of staging."""
        self.stages.privilegedStartService()
        self.stages.startService()

        assert [
            *("prepare a", "prepare b", "prepare c"),
            *("start a", "start b", "start c"),
        ] == self.notes
        assert self.stages.running

    def test_it_stops_in_reverse_each_after_the_last(self) -> None:
        """A service is stopped once the one before it has ended, and not earlier."""
        self.recorders["c"].stopped = Deferred()
        self.recorders["b"].stopped = Deferred()
        self.start()

        stopping = self.stages.stopService()
        assert ["stop c"] == self.notes
        self.recorders["c"].stopped.callback(None)
        assert ["stop c", "stop b"] == self.notes
        self.assertNoResult(stopping)
        self.recorders["b"].stopped.callback(None)

        assert ["stop c", "stop b", "stop a"] == self.notes
        self.successResultOf(stopping)
        assert not self.stages.running

    def test_one_that_fails_to_stop_does_not_keep_the_rest_running(self) -> None:
        """Its failure is logged; a failing Deferred and an exception are the same."""
        self.recorders["c"].stopped = fail(RuntimeError("cannot stop"))
        self.start()

        def crash() -> None:
            raise RuntimeError("cannot stop either")

        self.patch(self.recorders["b"], "stopService", crash)
        stopping = self.stages.stopService()

        self.successResultOf(stopping)
        assert ["stop c", "stop a"] == self.notes
        assert 2 == len(self.flushLoggedErrors(RuntimeError))

    def test_what_is_expected_to_hinder_a_start_is_one_line_and_status_1(self) -> None:
        """Those types of errors end the process with their text; others are a mistake of ours."""
        stages = Stages(expected=(ListenError, LookupError))
        recorder = Recorder("x", self.notes)
        stages.stage(recorder)
        stream = StringIO()
        self.patch(sys, "__stderr__", stream)

        for hook, start in (
            ("privilegedStartService", stages.privilegedStartService),
            ("startService", stages.startService),
        ):
            for error in (ListenError("port taken"), KeyError("no socket")):
                self.patch(recorder, hook, _raiser(error))
                ended = self.assertRaises(SystemExit, start)
                assert 1 == ended.code
            self.patch(recorder, hook, _raiser(RuntimeError("a mistake of ours")))
            self.assertRaises(RuntimeError, start)

        assert ["port taken", "'no socket'"] * 2 == stream.getvalue().splitlines()


def _raiser(error: Exception) -> Callable[[], None]:
    def crash() -> None:
        raise error

    return crash


@implementer(IListeningPort)
class Port:
    """A port that listens nowhere; ``closed`` fires its stop, if it is set."""

    def __init__(self) -> None:
        self.stops = 0
        self.closed: Deferred[None] | None = None

    def startListening(self) -> None:
        """Nothing to start."""

    def stopListening(self) -> Deferred[None] | None:
        self.stops += 1
        return self.closed

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 8000)


class Endpoint:
    """Gives what it was told to, and counts how often."""

    def __init__(self, result: Callable[[], "Deferred[Any]"]) -> None:
        self.listens = 0
        self._result = result

    def listen(self, factory: Factory) -> "Deferred[Any]":
        self.listens += 1
        return self._result()


def listening(endpoint: Endpoint) -> ListeningService:
    given: Any = endpoint  # it need not say that it is one
    return ListeningService(given, Factory(), "gateway.listen = ':8000'")


class ListeningServiceTests(SynchronousTestCase):
    def test_it_listens_once_and_stops(self) -> None:
        """It listens before the rights of root are shed, and not again after."""
        port = Port()
        endpoint = Endpoint(lambda: succeed(port))
        service = listening(endpoint)

        service.privilegedStartService()
        assert service.port is port
        service.startService()
        assert 1 == endpoint.listens
        self.successResultOf(service.stopService())

        assert (1, None) == (port.stops, service.port)

    def test_it_listens_where_nothing_was_privileged(self) -> None:
        """A service added to a parent that runs is only ever started."""
        service = listening(Endpoint(lambda: succeed(Port())))

        service.startService()

        assert service.port is not None

    def test_its_stop_ends_when_the_ports_does(self) -> None:
        """A port that takes its time is waited for."""
        port = Port()
        port.closed = Deferred()
        service = listening(Endpoint(lambda: succeed(port)))
        service.startService()

        stopping = service.stopService()
        self.assertNoResult(stopping)
        port.closed.callback(None)

        self.successResultOf(stopping)

    def test_stopping_what_never_listened_is_nothing(self) -> None:
        """A start that failed elsewhere is stopped all the same."""
        self.successResultOf(listening(Endpoint(lambda: succeed(Port()))).stopService())

    def test_where_it_cannot_listen_its_start_fails(self) -> None:
        """The error has the setting and the system's reason, of each kind that Twisted raises."""
        taken = CannotListenError("127.0.0.1", 8000, OSError(98, "Address already in use"))
        for error, reason in (
            (taken, "Address already in use"),
            (PermissionError(13, "Permission denied"), "Permission denied"),
            (ValueError("what?"), "what?"),
        ):
            service = listening(Endpoint(lambda error=error: fail(error)))  # type: ignore[misc] # a default binds the loop's value
            raised = self.assertRaises(ListenError, service.privilegedStartService)
            assert (
                f"gateway.listen = ':8000': cannot listen: {reason}; choose another address, or "
                "stop the program that uses this one"
            ) == str(raised)
            self.successResultOf(service.stopService())

    def test_an_address_reads_as_a_client_writes_it(self) -> None:
        """Host and port, with brackets where the host has colons, or the path of a socket."""
        port = Port()
        for address, text in (
            (IPv4Address("TCP", "127.0.0.1", 80), "127.0.0.1:80"),
            (IPv6Address("TCP", "::1", 80), "[::1]:80"),
            (UNIXAddress("/run/http.sock"), "/run/http.sock"),
        ):
            self.patch(port, "getHost", lambda address=address: address)
            assert text == address_text(port)


class EndingTests(SynchronousTestCase):
    def test_its_stop_awaits_the_end(self) -> None:
        """Nothing happens before the stop, which lasts as long as the end does."""
        calls: list[Deferred[None]] = []

        async def end() -> None:
            calls.append(Deferred())
            await calls[-1]

        service = Ending(end)
        service.startService()
        assert [] == calls
        stopping = service.stopService()
        self.assertNoResult(stopping)
        calls[0].callback(None)

        self.successResultOf(stopping)

    def test_an_end_may_be_a_deferred(self) -> None:
        """What Twisted's own functions return is awaited too."""
        ended: Deferred[str] = Deferred()
        stopping = Ending(lambda: ended).stopService()

        self.assertNoResult(stopping)
        ended.callback("done")

        assert "done" == self.successResultOf(stopping)


class Reactor:
    """Runs what it is given when the test says so, and counts stops."""

    def __init__(self) -> None:
        self.stops = 0
        self.when_running: list[Callable[[], None]] = []
        self.from_thread: list[Callable[[], None]] = []

    def callWhenRunning(self, function: Callable[[], None]) -> None:
        self.when_running.append(function)

    def callFromThread(self, function: Callable[..., None], *arguments: object) -> None:
        self.from_thread.append(lambda: function(*arguments))

    def stop(self) -> None:
        self.stops += 1

    def turn(self) -> None:
        due, self.from_thread = self.from_thread, []
        for call in due:
            call()


class SignalServiceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.hurries = self.reloads = 0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self.addCleanup(signal.signal, number, signal.getsignal(number))

    def hurry(self) -> None:
        self.hurries += 1

    def reload(self) -> None:
        self.reloads += 1

    def test_it_takes_over_when_the_reactor_runs(self) -> None:
        """Not before: the reactor installs its own handlers as it starts."""
        before = signal.getsignal(signal.SIGTERM)
        SignalService(self.reactor, self.hurry, self.reload).startService()
        assert before == signal.getsignal(signal.SIGTERM)

        self.reactor.when_running[0]()

        assert before != signal.getsignal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT)

    def test_the_first_signal_stops_and_the_others_hasten(self) -> None:
        """Any signal counts; nothing happens inside the handler itself."""
        for first in (signal.SIGTERM, signal.SIGINT):
            self.reactor, self.hurries = Reactor(), 0
            SignalService(self.reactor, self.hurry, self.reload).startService()
            self.reactor.when_running[0]()

            signal.raise_signal(first)
            assert 0 == self.reactor.stops
            self.reactor.turn()
            assert (1, 0) == (self.reactor.stops, self.hurries)
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            self.reactor.turn()

            assert (1, 2) == (self.reactor.stops, self.hurries)

    def test_a_hangup_reloads_and_never_stops(self) -> None:
        """Each one does, also while the daemon stops: it ends nothing and hastens nothing."""
        SignalService(self.reactor, self.hurry, self.reload).startService()
        self.reactor.when_running[0]()

        signal.raise_signal(signal.SIGHUP)
        assert 0 == self.reloads
        self.reactor.turn()
        assert (0, 0, 1) == (self.reactor.stops, self.hurries, self.reloads)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        self.reactor.turn()

        assert (1, 0, 2) == (self.reactor.stops, self.hurries, self.reloads)

    def test_a_hangup_reloads_under_nohup_too(self) -> None:
        """Under nohup(1) it is ignored at first; an operator who sends one wants a reload."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        SignalService(self.reactor, self.hurry, self.reload).startService()
        self.reactor.when_running[0]()

        signal.raise_signal(signal.SIGHUP)
        self.reactor.turn()

        assert (0, 1) == (self.reactor.stops, self.reloads)
