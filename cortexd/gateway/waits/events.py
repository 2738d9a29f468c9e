"""The events of ``GET /api/events``: loads and unloads, and the requests that wait for them.

A client gets the events of the models that are there for it. Of requests it gets those of its own
key; a key with the scope ``read`` gets those of all. Whoever comes gets first what is under way.
One timer, which runs while there is a reader, tells how far all of that is; another sends
heartbeats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from cortexd.access.callers import Caller
from cortexd.access.keys import Scope
from cortexd.access.ring import KeyRing
from cortexd.dialects.routes import waits as told
from cortexd.dialects.wire.exchange import EVENT_STREAM
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dispatcher import Dispatcher
from cortexd.downstream.response import Downstream
from cortexd.errors import GatewayBusy, Overloaded
from cortexd.fleet.catalogue import Catalogue
from cortexd.fleet.nodes import Replica, ReplicaKey
from cortexd.fleet.states import NodeRemoved, ReplicaChanged, ReplicaState
from cortexd.gateway.waits.loads import progress
from cortexd.gateway.waits.reader import Reader
from cortexd.gateway.waits.waits import Wait, Waits
from cortexd.logs import get_logger
from cortexd.scheduling.estimating.expectation import Expectation
from cortexd.scheduling.events import Effect

PROGRESS_SECONDS: Final = 2.0
"""How often is told how far loads and waits are."""

HEARTBEAT_SECONDS: Final = 15.0
"""How often each reader gets a comment, so that nobody between takes the connection for dead."""

MOST_READERS: Final = 100
MOST_READERS_OF_A_KEY: Final = 10
"""How many clients may read at a time, of all keys and of one."""

MOST_ASKED: Final = 100
"""Of how many waiting requests is asked in one turn what they may expect: some 10 ms where a
thousand wait for one model."""

NOTABLE_SECONDS: Final = 1.0
"""By how much the expected end must have moved to be told anew."""

MOVING: Final = frozenset({ReplicaState.LOADING, ReplicaState.DRAINING, ReplicaState.UNLOADING})

log = get_logger("cortexd.events")


class Events:
    """Tells readers what happens. ``stop`` ends all streams in good order, for good."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        waits: Waits,
        catalogue: Catalogue,
        ring: KeyRing,
        clock: IReactorTime,
    ) -> None:
        self._dispatcher = dispatcher
        self._waits = waits
        self._catalogue = catalogue
        self._ring = ring
        self._clock = clock
        self._readers: dict[Reader, Callable[[str], bool]] = {}
        self._moving: dict[ReplicaKey, None] = {}
        self._is_stopped = False
        self._asked = 0
        self._telling = LoopingCall(self._tell_progress)
        self._beating = LoopingCall(self._beat)
        self._telling.clock = self._beating.clock = clock
        dispatcher.listen(self._follow)
        waits.on_begin, waits.on_end = self._began, self._ended

    async def serve(self, caller: Caller, downstream: Downstream) -> None:
        """Send events to a client until it leaves, reads too slowly, or the gateway stops.

        Raises GatewayBusy where too many read already. Cancelling ends the stream.
        """
        if self._is_stopped:
            raise Overloaded("the gateway is stopping; try again shortly", retry_after=5.0)
        own = sum(reader.caller.name == caller.name for reader in self._readers)
        if len(self._readers) >= MOST_READERS or (caller.key and own >= MOST_READERS_OF_A_KEY):
            raise GatewayBusy(
                "too many clients read the events already; close one, or try again later",
                retry_after=HEARTBEAT_SECONDS,
            )
        reader = Reader(caller, downstream, self._clock)
        downstream.begin(EVENT_STREAM, {})
        release = downstream.pace(reader)
        self._readers[reader] = self._catalogue.sight(caller)
        self._start()
        try:
            reader.send(told.beginning() + b"".join(self._under_way(reader)))
            await reader.over
        finally:
            self._readers.pop(reader, None)
            release()
            if not self._readers:
                self._pause()
        if reader.is_slow:
            log.warning("event_reader_dropped", key=caller.name or None)
            downstream.drop()
        else:
            downstream.finish()

    def stop(self) -> None:
        """End all streams; whoever comes later is refused."""
        self._is_stopped = True
        for reader in list(self._readers):
            reader.end()

    # Timers.

    def _start(self) -> None:
        for loop, seconds in (
            (self._telling, PROGRESS_SECONDS),
            (self._beating, HEARTBEAT_SECONDS),
        ):
            if not loop.running:
                loop.start(seconds, now=False).addErrback(_loop_ended)

    def _pause(self) -> None:
        for loop in (self._telling, self._beating):
            if loop.running:
                loop.stop()

    def _beat(self) -> None:
        """Send heartbeats, and end the streams of keys that are not valid any more."""
        for reader in list(self._readers):
            key = reader.caller.key
            is_valid = (
                not self._ring.is_required if key is None else self._ring.keys.get(key.name) == key
            )
            if is_valid:
                # A reload may have changed the names of models.
                self._readers[reader] = self._catalogue.sight(reader.caller)
                reader.send(told.HEARTBEAT)
            else:
                reader.end()

    def _tell_progress(self) -> None:
        for key in list(self._moving):
            replica = self._dispatcher.fleet.replica(*key)
            if replica is not None and replica.state is ReplicaState.LOADING:
                self._tell_of(key)
        waiting = list(self._waits.waiting)
        if len(waiting) > MOST_ASKED:
            self._asked %= len(waiting)
            waiting = [*waiting[self._asked :], *waiting[: self._asked]]
            self._asked += MOST_ASKED
        for wait in islice(filter(self._has_reader, waiting), MOST_ASKED):
            before, after = wait.told, self._waits.expected(wait)
            if after is not None and _differ(before, after):
                wait.told = after
                self._tell_request(wait, "waiting", after)

    # Models.

    def _follow(self, effect: Effect) -> None:
        match effect:
            case ReplicaChanged(node, model, before, after):
                key = node, model
                if after in MOVING:
                    self._moving[key] = None
                else:
                    self._moving.pop(key, None)
                replica = self._dispatcher.fleet.replica(*key)
                is_past = replica is not None and replica.state is not after
                if before is not None and self._readers and not is_past:
                    self._tell_of(key, before)
            case NodeRemoved(node):
                for key in [key for key in self._moving if key[0] == node]:
                    del self._moving[key]

    def _tell_of(self, key: ReplicaKey, before: ReplicaState | None = None) -> None:
        readers = [reader for reader, is_there in self._readers.items() if is_there(key[1])]
        if not readers:
            return
        event, failure = self._model_event(key, before)
        for reader in readers:
            reader.send(event or self._failed(key, failure, reader))

    def _model_event(self, key: ReplicaKey, before: ReplicaState | None) -> tuple[bytes, str]:
        """Return the event of a replica; of a load that has failed only the node's own words."""
        name, model = key
        replica = self._dispatcher.fleet.replica(name, model)
        if replica is None:
            return told.model_event(model, name, "gone"), ""
        has_ended = before is ReplicaState.LOADING and replica.state is ReplicaState.UNLOADED
        if has_ended and replica.failure:
            return b"", replica.failure
        return told.model_event(model, name, replica.state.value, self._progress(replica)), ""

    def _failed(self, key: ReplicaKey, failure: str, reader: Reader) -> bytes:
        """Return the event of a failed load, without models that the reader may not see."""
        node, model = key
        words = self._catalogue.concealed(failure, reader.caller)
        return told.model_event(model, node, "failed", failure=words)

    def _progress(self, replica: Replica) -> JsonObject | None:
        now = self._clock.seconds()
        found = progress(self._dispatcher.scheduler, replica, now)
        return None if found is None else told.load_progress(found.elapsed, found.rest, found.share)

    # Requests.

    def _began(self, wait: Wait) -> None:
        if self._readers:
            self._tell_request(wait, "waiting", wait.told)

    def _ended(self, wait: Wait, has_lease: bool) -> None:
        if self._readers:
            self._tell_request(wait, "granted" if has_lease else "left")

    def _tell_request(self, wait: Wait, status: str, expected: Expectation | None = None) -> None:
        event = self._request_event(wait, status, expected)
        for reader in list(self._readers):
            if self._may_see(reader, wait):
                reader.send(event)

    def _request_event(self, wait: Wait, status: str, expected: Expectation | None) -> bytes:
        record = wait.record
        about = None
        if expected is not None:
            seconds = expected.seconds(self._clock.seconds())
            about = told.expectation(
                expected.phase, expected.place, seconds, is_measured=expected.is_measured
            )
        return told.request_event(record.request_id, record.model or wait.model, status, about)

    def _may_see(self, reader: Reader, wait: Wait) -> bool:
        caller, record = reader.caller, wait.record
        if caller.key is not None and record.caller.name == caller.name:
            return True
        return caller.may(Scope.READ) and self._readers[reader](record.model or wait.model)

    def _has_reader(self, wait: Wait) -> bool:
        return any(self._may_see(reader, wait) for reader in self._readers)

    def _under_way(self, reader: Reader) -> Iterator[bytes]:
        """Yield the events of all that is under way for a reader that has just come."""
        is_there = self._readers[reader]
        for key in list(self._moving):
            if is_there(key[1]):
                yield self._model_event(key, None)[0]
        seen = (wait for wait in list(self._waits.waiting) if self._may_see(reader, wait))
        for wait in islice(seen, MOST_ASKED):
            yield self._request_event(wait, "waiting", self._waits.expected(wait))


def _differ(before: Expectation | None, after: Expectation) -> bool:
    """Return whether what a request may expect has changed so much that it is told anew."""
    return (
        before is None
        or (before.phase, before.place) != (after.phase, after.place)
        or abs(before.ends_at - after.ends_at) >= NOTABLE_SECONDS
    )


def _loop_ended(failure: Failure) -> None:
    log.error("events_ended", failure=failure)
