"""The client's side of one request: the answer so far, and whether the client is still there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cortexd.dialects.wire.exchange import EVENT_STREAM
from cortexd.downstream.body_memory import Share
from cortexd.downstream.request import GatewayRequest


class Downstream(Protocol):
    """Takes one answer, piece by piece or whole.

    ``started`` says that the status has gone out, so that an error can no longer have its own.
    ``gone`` says that the client has left.
    """

    started: bool
    gone: bool
    write: Callable[[bytes], None]
    """Takes a piece. Each chunk needs it, so it is an attribute and not a method."""

    @property
    def bytes_out(self) -> int:
        """The bytes of the answer so far, without those of HTTP itself."""

    def begin(self, content_type: str, headers: Mapping[str, str]) -> None:
        """Begin an answer in pieces, with status 200."""

    def finish(self, last: bytes = b"") -> None:
        """End an answer in pieces in good order, after a last piece if there is one."""

    def respond(self, content_type: str, headers: Mapping[str, str], body: bytes) -> None:
        """Take a whole answer, with status 200."""

    def forget_body(self) -> None:
        """Take note that the body of the request is needed no more."""

    def break_off(self) -> None:
        """End an answer in pieces so that no client can take it for complete."""

    def drop(self) -> None:
        """Give up a client that does not read."""

    def pace(self, producer: Any) -> Callable[[], None]:
        """Let the client's reading pace the producer; return a function that ends the pacing."""


class ClientDownstream:
    """Sends one answer to the client that waits for it; see Downstream."""

    def __init__(self, request: GatewayRequest) -> None:
        self._request = request
        self.started = False
        self.gone = False
        self.write: Callable[[bytes], None] = request.write
        """Sends a piece, unless the client is gone."""
        request.notifyFinish().addErrback(self._client_left)

    def _client_left(self, reason: object) -> None:
        self.gone = True

    @property
    def bytes_out(self) -> int:
        """The bytes of the answer so far, without those of HTTP itself."""
        return self._request.bytes_out

    def begin(self, content_type: str, headers: Mapping[str, str]) -> None:
        """Begin an answer in pieces, with status 200."""
        self.started = True
        self._request.takes_comments = content_type.startswith(EVENT_STREAM)
        self._request.begin(
            200,
            {
                **headers,
                "Content-Type": content_type,
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",  # else nginx in front of us holds the stream back
            },
        )

    def finish(self, last: bytes = b"") -> None:
        """End an answer in pieces in good order, after a last piece if there is one."""
        if not self.gone:
            self._request.finish_with(last)

    def respond(self, content_type: str, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole answer, with status 200."""
        if not self.gone:
            self.started = True
            self._request.respond(200, {**headers, "Content-Type": content_type}, body)

    def forget_body(self) -> None:
        """Give back the memory of the request's body."""
        self._request.forget_body()

    def break_off(self) -> None:
        """End an answer in pieces so that no client can take it for complete."""
        if not self.gone:
            self._request.break_off()

    def drop(self) -> None:
        """Close the connection at once, also with bytes unsent: the client does not read them."""
        if self._has_channel:
            self._request.channel.forceAbortClient()

    @property
    def _has_channel(self) -> bool:
        """Whether the request still has its connection.

        Without it, the request that its loss cancels may end before ``gone`` is set.
        """
        return self._request.channel is not None

    def pace(self, producer: Any) -> Callable[[], None]:
        """Let the client's reading pace the producer; return a function that ends the pacing."""
        if self.gone:
            return lambda: None
        self._request.registerProducer(producer, True)

        def release() -> None:
            if self._has_channel:
                self._request.unregisterProducer()

        return release


class NoDownstream:
    """Takes an answer for which no client waits: it counts the bytes and keeps none of them.

    ``share`` is the memory of the request's body.
    """

    def __init__(self, share: Share | None = None) -> None:
        self.started = False
        self.gone = False
        self._share = share
        self.write: Callable[[bytes], None] = self._count
        self.bytes_out = 0

    def _count(self, data: bytes) -> None:
        self.bytes_out += len(data)

    def begin(self, content_type: str, headers: Mapping[str, str]) -> None:
        """Begin an answer in pieces."""
        self.started = True

    def finish(self, last: bytes = b"") -> None:
        """End it."""
        self._count(last)

    def respond(self, content_type: str, headers: Mapping[str, str], body: bytes) -> None:
        """Take a whole answer."""
        self.started = True
        self._count(body)

    def forget_body(self) -> None:
        """Give back the memory of the request's body."""
        if self._share is not None:
            self._share.free()

    def break_off(self) -> None:
        """End it: there is no connection to close."""

    def drop(self) -> None:
        """Do nothing: no client could be slow."""

    def pace(self, producer: Any) -> Callable[[], None]:
        """Let the node set the pace."""
        return lambda: None
