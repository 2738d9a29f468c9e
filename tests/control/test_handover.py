"""The change from an old daemon to its successor, both in memory, over a connection."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.protocols import amp
from twisted.test.iosim import FakeTransport, connect
from twisted.trial.unittest import SynchronousTestCase

import cortexd.errors
from cortexd.access.requesters import ANYONE, Requester
from cortexd.access.verdicts import Proven
from cortexd.control.handover import (
    PAGE,
    USED,
    Answer,
    HeldLease,
    Predecessor,
    Successor,
    TakeoverError,
    error_of,
    is_ours,
    pages,
    take_over,
)
from cortexd.errors import CortexError, ModelNotLoaded, Overloaded
from cortexd.fleet.breaker import Outcome
from cortexd.fleet.learning.prefills import Reading
from cortexd.fleet.nodes import Lease, ModelTerms
from cortexd.fleet.shares import Shares
from cortexd.fleet.states import ReplicaState
from cortexd.scheduling.events import Grant, StartUnload, UnloadWanted
from cortexd.scheduling.hints import Hints
from cortexd.upstream.first_polls import FirstPolls
from tests.support.control import ControlledFleet

CHAT, OTHER = "acme/chat", "acme/other"
LISTED = {CHAT: ReplicaState.LOADED, OTHER: ReplicaState.UNLOADED}
ONE_SLOT = {CHAT: ModelTerms(1)}
SIZES = {CHAT: 20_000, OTHER: 20_000}

PROVEN_KEYS = Proven(b"secret", tuple((b"%016d" % i, b"%016d" % -i) for i in range(3_001)))
"""More right keys than one box has room for."""


class HandoverTestCase(SynchronousTestCase):
    """An old daemon whose fleet is known, and a new one that has not polled yet."""

    def setUp(self) -> None:
        self.old = self.daemon()
        self.old.see_all("a", LISTED)
        self.new = self.daemon()
        self.first_polls = FirstPolls(self.new.fleet, self.new.clock, 4.0)
        self.predecessor = Predecessor(self.new.dispatcher, self.first_polls)
        connection = amp.AMP()
        self.successor = Successor(connection, {"a"})
        self.pump: Any = connect(
            connection,
            FakeTransport(connection, isServer=True),
            self.predecessor,
            FakeTransport(self.predecessor, isServer=False),
        )

    def daemon(self) -> ControlledFleet:
        return ControlledFleet({"a": 24_000}, footprints=SIZES, models=ONE_SLOT)

    def acquire(self, daemon: ControlledFleet, model: str = CHAT) -> list[Any]:
        """Ask for a lease; what comes of it goes to the list."""
        came: list[Any] = []
        self.asked = daemon.dispatcher.acquire(model, "r")
        self.asked.addBoth(came.append)
        return came

    def hand_over(self) -> None:
        """Do what the services of both processes do."""
        leases = self.old.fleet.leases
        self.old.dispatcher.hand_over(self.successor)
        for box in pages(leases):
            self.predecessor.hold(_held(box))
        self.successor.open()
        self.pump.flush()

    def poll(self) -> None:
        self.new.see_all("a", LISTED)
        self.first_polls.note()
        self.pump.flush()

    def leases(self) -> int:
        """Return how many leases the new daemon counts on the node."""
        return self.new.fleet.nodes["a"].leases


def _held(box: amp.AmpBox) -> list[HeldLease]:
    return msgspec.json.decode(box[PAGE], type=list[HeldLease])


class LeaseTests(HandoverTestCase):
    def test_a_stream_of_the_old_process_keeps_its_model_loaded(self) -> None:
        """The successor counts its lease, before and after its first poll, until it ends."""
        (grant,) = self.acquire(self.old)
        self.hand_over()
        assert 1 == self.leases()
        self.poll()
        replica = self.new.fleet.replica("a", CHAT)
        assert replica is not None
        assert (1, False) == (replica.leases, replica.has_slot)
        self.new.dispatcher.dispatch(UnloadWanted(CHAT, "a"))
        assert [] == [each for each in self.new.effects if isinstance(each, StartUnload)]

        self.old.dispatcher.release(grant.lease)
        self.pump.flush()
        assert (0, 0) == (self.leases(), replica.leases)
        assert [CHAT] == [each.model for each in self.new.effects if isinstance(each, StartUnload)]

    def test_an_old_process_that_dies_holds_nothing(self) -> None:
        """Its leases end with the connection."""
        self.acquire(self.old)
        self.hand_over()
        self.poll()
        self.predecessor.connectionLost()
        assert 0 == self.leases()
        self.successResultOf(self.predecessor.ended)

    def test_the_time_in_the_queue_goes_on(self) -> None:
        """A request that has waited in the old process is rejected by the sum of both waits."""
        self.acquire(self.old)
        waiting = self.acquire(self.old)
        timeout = self.old.dispatcher.scheduler.terms.queue_timeout
        self.old.clock.advance(timeout - 10)
        self.hand_over()
        self.poll()
        self.new.clock.advance(9)
        self.pump.flush()
        assert [] == waiting

        self.new.clock.advance(1)
        self.pump.flush()
        (failed,) = waiting
        assert failed.check(Overloaded)

    def test_a_request_in_the_queue_waits_on_with_the_successor(self) -> None:
        """Its lease comes from there; the old process decides nothing any more."""
        (first,) = self.acquire(self.old)
        waiting = self.acquire(self.old)
        self.hand_over()
        self.poll()
        assert [] == waiting
        self.old.dispatcher.release(first.lease)
        self.pump.flush()
        (grant,) = waiting
        assert (Grant, "a", CHAT, 1) == (
            type(grant),
            grant.lease.node,
            grant.lease.model,
            self.leases(),
        )
        self.old.dispatcher.release(grant.lease)
        self.pump.flush()
        assert 0 == self.leases()

    def test_what_is_known_of_a_request_goes_along(self) -> None:
        """The hints of a request that waits, and what the end of another shows of its prompt."""
        (first,) = self.acquire(self.old)
        hints = Hints(55.0, "session", (1, 2**64 - 1))
        self.old.dispatcher.acquire(CHAT, "waits", hints=hints)
        self.hand_over()
        self.poll()

        (waiter,) = self.new.scheduler.waiting.of(CHAT)
        assert hints == waiter.hints
        left = Outcome(reading=Reading(500, is_left=True))
        self.old.dispatcher.release(first.lease, left)
        self.pump.flush()
        replica = self.new.fleet.replica("a", CHAT)
        assert replica is not None
        assert 1 == replica.ghosts

    def test_a_request_after_the_handover_waits_for_the_first_poll(self) -> None:
        """The successor does not know the model before."""
        self.hand_over()
        came = self.acquire(self.old)
        self.pump.flush()
        assert [] == came
        self.poll()
        assert ["a"] == [grant.lease.node for grant in came]

    def test_a_rejection_keeps_its_reason(self) -> None:
        """The client of the old process gets the error that it would get from the new one."""
        self.hand_over()
        self.poll()
        came = self.acquire(self.old, "acme/never")
        self.pump.flush()
        (failure,) = came
        assert "acme/never" in failure.value.message
        assert isinstance(failure.value, CortexError)

    def test_a_client_may_leave_the_queue_of_the_successor(self) -> None:
        """And gets no lease later, which nobody would release."""
        (first,) = self.acquire(self.old)
        self.hand_over()
        self.poll()
        came = self.acquire(self.old)
        self.pump.flush()
        self.asked.cancel()
        self.pump.flush()
        assert came[0].check(CancelledError)
        self.old.dispatcher.release(first.lease)
        self.pump.flush()
        assert (0, 0) == (self.leases(), self.new.scheduler.waiting.count(CHAT))

    def test_a_lease_that_crosses_its_cancellation_is_released(self) -> None:
        """Whichever comes first."""
        self.hand_over()
        self.poll()
        self.acquire(self.old)
        self.asked.cancel()
        self.pump.flush()
        assert 0 == self.leases()

    def test_without_a_successor_requests_fail_with_a_time_to_come_back(self) -> None:
        """If it dies, what it has not granted yet is refused, and no later request waits."""
        self.hand_over()
        came = self.acquire(self.old)
        self.pump.flush()
        self.successor.lose()
        later = self.acquire(self.old)
        assert (Overloaded, True) == (type(later[0].value), later[0].value.retry_after > 0)
        assert [] == came

    def test_leases_go_on_to_the_next_but_one(self) -> None:
        """A second restart, while the first process still streams."""
        (grant,) = self.acquire(self.old)
        self.hand_over()
        self.poll()
        newest = self.daemon()
        third = Predecessor(newest.dispatcher, FirstPolls(newest.fleet, newest.clock, 4.0))
        connection = amp.AMP()
        successor = Successor(connection, {"a"})
        pump: Any = connect(
            connection,
            FakeTransport(connection, isServer=True),
            third,
            FakeTransport(third, isServer=False),
        )
        leases = self.new.fleet.leases
        self.new.dispatcher.hand_over(successor)
        third.hold(_held(pages(leases)[0]))
        successor.open()
        assert 1 == newest.fleet.nodes["a"].leases
        self.old.dispatcher.release(grant.lease)
        self.pump.flush()
        pump.flush()
        assert 0 == newest.fleet.nodes["a"].leases

    def test_more_names_than_a_command_has_room_for(self) -> None:
        """One request is refused, and what else waits for the successor is sent."""
        came: list[Any] = []
        successor = Successor(self.pump.server, {f"{number:066}" for number in range(1_000)})
        successor.acquire(CHAT, "r", (), None, 0.0, ANYONE).addBoth(came.append)
        successor.acquire(CHAT, "r", (), {f"{1:066}"}, 0.0, ANYONE).addBoth(came.append)
        successor.open()

        (refused,) = came
        assert refused.check(Overloaded)

    def test_a_node_that_has_left_the_configuration(self) -> None:
        """The successor holds no lease there, and its release does no harm."""
        lease = Lease(7, "gone", CHAT, "r", 0.0)
        self.predecessor.hold(_held(pages([lease])[0]))
        assert 0 == self.predecessor.leases
        self.predecessor.release_lease(7, "{}")


class SharesTests(HandoverTestCase):
    def test_used_gpu_seconds_go_along(self) -> None:
        """Those of running leases and of all requesters; the lease goes on to use more."""
        came: list[Any] = []
        ann = Requester("ann")
        self.old.dispatcher.acquire(CHAT, "r", requester=ann).addBoth(came.append)
        (grant,) = came
        old, now = self.old.scheduler.shares, self.old.clock.seconds() + 40.0
        old.take({"bob": 9.0}, now)
        (box,) = pages([grant.lease], old, now)
        (held,) = _held(box)
        used = {each["name"]: each["seconds"] for each in msgspec.json.decode(box[USED])}
        self.predecessor.hold([held], used)

        new = self.new.scheduler.shares
        assert (40.0, 9.0) == (held.gpu_seconds, new.used("bob", self.new.clock.seconds()))
        assert 39.0 < new.used("ann", self.new.clock.seconds()) < 40.0
        (adopted,) = self.new.fleet.leases
        assert 40.0 == new.of_lease(adopted, self.new.clock.seconds())

    @settings(max_examples=5)
    @given(st.integers(0, 3000), st.text(min_size=1, max_size=60))
    def test_many_requesters_fit(self, count: int, name: str) -> None:
        """Each box can be sent, and has a page of leases, as earlier versions expect."""
        shares = Shares()
        shares.take({f"{name}{number}": 1.0 for number in range(count)}, 0.0)
        boxes = pages([Lease(1, "a", CHAT, "r", 0.0)], shares)
        assert [1] == [held.number for box in boxes for held in _held(box)]
        assert count == sum(len(msgspec.json.decode(box[USED])) for box in boxes)
        for box in boxes:
            box.serialize()


class PageTests(SynchronousTestCase):
    @settings(max_examples=20)
    @given(st.integers(0, 350), st.text(max_size=500), st.sampled_from([CHAT, "m" * 900]))
    def test_many_leases_fit(self, count: int, name: str, model: str) -> None:
        """Each box can be sent, and all leases come over."""
        leases = [Lease(number, "a", model, name, 0.0) for number in range(count)]
        boxes = pages(leases)
        assert list(range(count)) == [held.number for box in boxes for held in _held(box)]
        for box in boxes:
            box.serialize()

    @given(
        st.sampled_from([*dir(cortexd.errors), "", "Exception"]),
        st.text(max_size=20),
        st.none() | st.floats(0, 100),
    )
    def test_any_error_can_be_read(self, kind: str, message: str, after: float | None) -> None:
        """An error of another version is one of the tree, with its message."""
        error = error_of(Answer(error=kind, message=message, retry_after=after))
        assert (message, after) == (error.message, error.retry_after)

    def test_an_error_keeps_its_kind(self) -> None:
        """So that the client gets the same status and code."""
        assert ModelNotLoaded is type(error_of(Answer(error="ModelNotLoaded", message="x")))


class TakeOverTests(SynchronousTestCase):
    """The successor's first words, over a real socket: its reactor does not run yet."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = str(Path(folder.name, "control.sock"))

    def answer(self, *boxes: amp.AmpBox, tail: bytes = b"") -> threading.Thread:
        """Answer one connection with boxes and more bytes, in a thread of its own."""
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind(self.path)
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"".join(box.serialize() for box in boxes) + tail)

        thread = threading.Thread(target=serve)
        thread.start()
        self.addCleanup(thread.join)
        return thread

    def test_without_an_old_process_there_is_nothing_to_take_over(self) -> None:
        """No socket, or one that a killed daemon has left."""
        assert take_over(self.path, 5.0) is None
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(self.path)
        assert take_over(self.path, 5.0) is None

    def test_a_daemon_that_is_not_being_restarted_goes_on(self) -> None:
        """It refuses, and the start goes on to its own error about the socket."""
        error = {amp.ERROR: b"1", amp.ERROR_CODE: b"REFUSED", amp.ERROR_DESCRIPTION: b"no"}
        self.answer(amp.AmpBox(error))
        assert take_over(self.path, 5.0) is None

    def test_what_follows_the_answer_is_left_for_the_reactor(self) -> None:
        """The old process may ask for leases at once; those bytes must not be read too early."""
        lease = Lease(7, "a", CHAT, "r", 0.0)
        self.answer(
            *pages([lease], proven=PROVEN_KEYS),
            amp.AmpBox({amp.ANSWER: b"1", b"tokens": b"0a,ff"}),
            tail=b"the next box",
        )
        taken = take_over(self.path, 5.0)
        assert taken is not None
        connection, held, used, tokens, proven = taken
        with connection:
            assert [7] == [each.number for each in held]
            assert {} == used
            assert (b"\n", b"\xff") == tokens
            assert PROVEN_KEYS == proven
            assert b"the next box" == connection.recv(100)
            assert is_ours(connection, os.geteuid())
            assert not is_ours(connection, os.geteuid() + 1)

    def test_an_old_process_that_dies_meanwhile_is_an_error(self) -> None:
        """In one line; systemd starts the new process again."""
        self.answer(tail=b"\x00\x04")
        with self.assertRaises(TakeoverError) as raised:
            take_over(self.path, 5.0)
        assert "\n" not in str(raised.exception)
