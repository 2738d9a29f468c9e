"""A key at a handover: what runs in the old process counts in the new one, and once."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.protocols import amp
from twisted.test.iosim import FakeTransport, connect
from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.callers import Caller, caller_with
from cortexd.access.keys import Key, KeyLimits
from cortexd.access.ring import KeyRing
from cortexd.access.usage import Usage
from cortexd.control.handover import Predecessor, Successor
from cortexd.dialects.routes import chat
from cortexd.dialects.wire import exchange
from cortexd.errors import KeyLimited, KeyOverBudget
from cortexd.metering.meters import Admission, Meters, Report
from cortexd.telemetry.accounting import RequestRecord
from cortexd.upstream.first_polls import FirstPolls
from tests.support.control import ControlledFleet

KEY = Key("alice", "id", "hash", limits=KeyLimits(max_concurrency=2, token_budget=10_000))


class Asked:
    """A request with a key."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.standing: Any = None


def meters(*keys: Key) -> Meters:
    """Return the meters of a process."""
    return Meters(KeyRing(keys), Clock(), lambda: 1_790_000_000.0)


def begin(process: Meters) -> Admission:
    """Begin a request with the key."""
    admission = process.begin(Asked(caller_with(KEY)), chat.ROUTE)
    assert admission is not None
    return admission


def end(process: Meters, admission: Admission, tokens: int) -> None:
    """End a request that has used so many tokens."""
    record = RequestRecord("r", chat.ROUTE, "client", 0.0, caller_with(KEY))
    record.usage = exchange.Usage(tokens, 0)
    process.end(admission, record)


def usage(process: Meters) -> Usage:
    """Return what the key has used, as a process knows it."""
    (found,) = process.all
    return found.usage


class ReportTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.old, self.new = meters(KEY), meters(KEY)

    def test_what_runs_takes_its_place_in_the_new_process(self) -> None:
        """Until it ends in the old one."""
        running = begin(self.old)
        self.old.hand_over(self.new.take)
        begin(self.new)
        self.assertRaises(KeyLimited, begin, self.new)
        end(self.old, running, 5)

        begin(self.new)
        assert Usage(1, 5) == usage(self.new)

    def test_what_is_used_in_the_old_process_counts_against_the_budget(self) -> None:
        """Also of a request that began after the handover, on a connection that stays."""
        self.old.hand_over(self.new.take)
        end(self.old, begin(self.old), 6_000)
        end(self.old, begin(self.old), 4_000)

        self.assertRaises(KeyOverBudget, begin, self.new)

    def test_a_process_that_dies_gives_its_places_back(self) -> None:
        """Its requests have ended with it."""
        for _ in range(2):
            begin(self.old)
        self.old.hand_over(self.new.take)
        self.assertRaises(KeyLimited, begin, self.new)
        self.new.lose_predecessor()

        begin(self.new)

    def test_reports_pass_through_a_process_in_between(self) -> None:
        """A second restart before the first process has ended."""
        newest = meters(KEY)
        oldest = begin(self.old)
        self.old.hand_over(self.new.take)
        begin(self.new)
        self.new.hand_over(newest.take)
        self.assertRaises(KeyLimited, begin, newest)
        end(self.old, oldest, 7)
        assert Usage(1, 7) == usage(newest)
        begin(newest)

    def test_a_process_in_between_reports_that_the_oldest_died(self) -> None:
        """Its places are free in the newest, too."""
        newest = meters(KEY)
        begin(self.old)
        begin(self.old)
        self.old.hand_over(self.new.take)
        self.new.hand_over(newest.take)
        self.new.lose_predecessor()

        begin(newest)

    def test_a_key_that_the_new_process_does_not_have(self) -> None:
        """Its usage is kept, and it goes once its requests have ended."""
        other = meters()
        running = begin(self.old)
        self.old.hand_over(other.take)
        other.forget_removed()
        end(self.old, running, 5)
        assert Usage(1, 5) == usage(other)
        other.forget_removed()
        assert [] == list(other.all)


class ConnectionTests(SynchronousTestCase):
    def setUp(self) -> None:
        daemon = ControlledFleet({"a": 24_000})
        self.new = meters(KEY)
        self.predecessor = Predecessor(
            daemon.dispatcher, FirstPolls(daemon.fleet, daemon.clock, 4.0)
        )
        self.predecessor.meters = self.new

    def connected(self, other: amp.AMP) -> tuple[Successor, Any]:
        """Return the old daemon's end of a connection, and the pump that moves its bytes."""
        connection = amp.AMP()
        pump: Any = connect(
            connection,
            FakeTransport(connection, isServer=True),
            other,
            FakeTransport(other, isServer=False),
        )
        return Successor(connection, {"a"}), pump

    def test_reports_wait_for_the_answer_to_the_handover(self) -> None:
        """And then arrive as they are."""
        successor, pump = self.connected(self.predecessor)
        successor.report(Report("alice", 1))
        pump.flush()
        assert [] == list(self.new.all)
        successor.open()
        successor.report(Report("alice", -1, Usage(1, 20, 3, 4, 0.5, 0.25, 0.125)))
        pump.flush()

        assert Usage(1, 20, 3, 4, 0.5, 0.25, 0.125) == usage(self.new)
        (found,) = self.new.all
        assert 0 == found.meter.running

    def test_a_successor_of_an_older_version_refuses_reports(self) -> None:
        """The connection stays, for the leases that depend on it."""
        successor, pump = self.connected(amp.AMP())
        successor.open()
        successor.report(Report("alice", -1, Usage(1, 20)))
        pump.flush()

        assert not pump.clientIO.disconnected
        assert not pump.serverIO.disconnected
