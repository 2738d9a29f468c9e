"""An answer in pieces that goes on without its client, and that clients follow from any point."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.defer import Deferred

from cortexd.dialects.wire.exchange import EVENT_STREAM
from cortexd.downstream.body_memory import Share
from cortexd.downstream.response import Downstream, NoDownstream


class Replay(NoDownstream):
    """Keeps the events of one answer until its end, and passes them on to those who follow.

    A client that reads slowly does not slow the answer down: the answer is in memory anyway.
    """

    def __init__(self, share: Share | None = None) -> None:
        super().__init__(share)
        self.write = self._pass_on
        self._events: list[bytes] = []
        self._followers: dict[Downstream, Deferred[None]] = {}

    def _pass_on(self, data: bytes) -> None:
        self._count(data)
        self._events.append(data)
        for follower in self._followers:
            follower.write(data)

    def follow(
        self, client: Downstream, headers: Mapping[str, str], missed: Callable[[bytes], bytes]
    ) -> Deferred[None]:
        """Send the answer to a client, from its beginning; fires when the answer has ended.

        ``missed`` gets the events so far and returns those that the client lacks. Cancelling ends
        the following, not the answer.
        """
        client.begin(EVENT_STREAM, headers)
        client.write(missed(b"".join(self._events)))

        def stop(_: Deferred[None]) -> None:
            self._followers.pop(client, None)

        following: Deferred[None] = Deferred(stop)
        self._followers[client] = following
        return following

    def finish(self, last: bytes = b"") -> None:
        """End the answer, also for those who follow it."""
        if last:
            self._pass_on(last)
        followers, self._followers = self._followers, {}
        for follower, following in followers.items():
            follower.finish()
            following.callback(None)

    def break_off(self) -> None:
        """End the answer before it is complete, also for those who follow it."""
        followers, self._followers = self._followers, {}
        for follower, following in followers.items():
            follower.break_off()
            following.callback(None)
