"""One client that reads events, at its own pace within bounds."""

from __future__ import annotations

from collections import deque
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from zope.interface import implementer

from cortexd.access.callers import Caller
from cortexd.downstream.response import Downstream

MOST_BYTES: Final = 64 * 1024
"""How many bytes wait for a client that does not read, beside those in the system's buffers."""

SLOW_SECONDS: Final = 60.0
"""How long a client may read nothing while there is something for it."""


@implementer(IPushProducer)
class Reader:
    """Sends events to a ``caller``'s ``downstream``; ``over`` fires when the stream has ended.

    ``is_slow`` says that the client was dropped because it did not read.
    """

    def __init__(self, caller: Caller, downstream: Downstream, clock: IReactorTime) -> None:
        self.caller = caller
        self.over: Deferred[None] = Deferred()
        self.is_slow = False
        self._downstream = downstream
        self._clock = clock
        self._paused_at: float | None = None
        self._unsent: deque[bytes] = deque()
        self._bytes = 0

    def send(self, data: bytes) -> None:
        """Send bytes, or keep them while the client does not read; drop one that is too slow."""
        if self.over.called:
            return
        if self._paused_at is None:
            self._downstream.write(data)
            return
        self._unsent.append(data)
        self._bytes += len(data)
        if self._bytes > MOST_BYTES or self._clock.seconds() - self._paused_at > SLOW_SECONDS:
            self.is_slow = True
            self.end()

    def end(self) -> None:
        """End the stream."""
        self._unsent.clear()
        if not self.over.called:
            self.over.callback(None)

    def pauseProducing(self) -> None:
        """Keep what comes from now on: the client does not read."""
        if self._paused_at is None:
            self._paused_at = self._clock.seconds()

    def resumeProducing(self) -> None:
        """Send what was kept."""
        self._paused_at = None
        while self._unsent and self._paused_at is None:
            data = self._unsent.popleft()
            self._bytes -= len(data)
            self._downstream.write(data)

    def stopProducing(self) -> None:
        """Forget what was kept: the client is gone."""
        self._unsent.clear()
