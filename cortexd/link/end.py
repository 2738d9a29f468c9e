"""One end of a link: AMP with limits for all that the other end may do to it.

A box that is too large, or no box at all, ends the link quietly. A command that this end does not
know is answered as such, and so is one whose values cannot be read; neither ends the link. An end
that sends too many boxes, or does not read its answers, is not read for a while. Silence leads to a
``Beat``, and more silence to the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, TypeVar

import msgspec
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.protocols import amp
from twisted.protocols.amp import BinaryBoxProtocol
from twisted.python.failure import Failure

from cortexd.link.contract import BEAT_SECONDS, DEAD_SECONDS, Beat
from cortexd.link.limits import CLOSE_SECONDS, MAX_BOX_BYTES, MAX_GREETING_BYTES, Allowance
from cortexd.logs import get_logger
from cortexd.text import one_line

UNREADABLE: Final = "its values cannot be read"
NO_BOX: Final = "it has sent something else than a box of the link"
TOO_LARGE: Final = "it has sent a box that is too large"
CLOSED: Final = "the other side has closed it"
LOST: Final = "the connection was lost"

# Reasons of both ends, one for each pause of reading.
UNREAD: Final = "unread"
FLOOD: Final = "flood"

Answer = TypeVar("Answer")

log = get_logger("cortexd.link")


class LinkEnded(ConnectionLost):
    """Raised for what was asked over a link that has ended; ``words`` say how it ended."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words

    def __str__(self) -> str:
        return self.words


class LinkEnd(amp.AMP):
    """One end of a link, which sends a Beat after ``beat_seconds`` of its own silence.

    A subclass has ``commands``: those that it carries out, each with the name of its method. The
    method takes the arguments of the command and returns its answer, or a Deferred of it.
    """

    transport: Any
    commands: ClassVar[Mapping[type[amp.Command], str]] = {Beat: "note_beat"}
    _by_name: ClassVar[Mapping[bytes, tuple[type[amp.Command], str]]]

    def __init_subclass__(cls) -> None:
        """Find commands by their names."""
        super().__init_subclass__()
        cls._by_name = {each.commandName: (each, name) for each, name in cls.commands.items()}

    def __init__(self, clock: IReactorTime, beat_seconds: float = BEAT_SECONDS) -> None:
        super().__init__()
        self.clock = clock
        self.max_box_bytes = MAX_GREETING_BYTES
        self.gone: Deferred[None] = Deferred()
        self._beat_seconds = beat_seconds
        self._box_bytes = 0
        self._ended: str | None = None
        self._heard_at = self._sent_at = clock.seconds()
        self._allowance = Allowance(self._heard_at)
        self._holds: set[str] = set()
        self._timers: dict[str, IDelayedCall] = {}

    # The connection.

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent."""
        return self.transport is not None and self._ended is None

    def makeConnection(self, transport: Any) -> None:  # noqa: N802 - Twisted's name
        """Begin; AMP's own method logs each connection."""
        self._heard_at = self._sent_at = self.clock.seconds()
        BinaryBoxProtocol.makeConnection(self, transport)
        transport.registerProducer(self, True)
        self._look()

    def admit(self) -> None:
        """Take large boxes from now on: the other side has shown who it is."""
        self.max_box_bytes = MAX_BOX_BYTES

    def end(self, reason: str) -> None:
        """Cut the connection at once; ``reason`` is what callers on this side get."""
        self._leave(reason)
        if self.transport is not None:
            self.transport.abortConnection()

    def close(self, reason: str) -> None:
        """Close the connection in order, or cut it if the other side does not close its end.

        For this side the link has ended at once; ``gone`` fires when the connection has.
        """
        if not self.is_open:
            return
        self._leave(reason)
        self._later("close", CLOSE_SECONDS, self.transport.abortConnection)
        self.transport.unregisterProducer()  # TLS would wait for it
        self.transport.loseConnection()

    def loseConnection(self) -> None:  # noqa: N802 - so a service of Twisted closes us
        """Close the connection in order, because this side stops."""
        self.close("this side stops")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End the link, unless it has ended already."""
        self._stop_timers()
        self._leave(words_for(reason))
        self.transport = None
        self.gone.callback(None)

    def _leave(self, words: str) -> None:
        """Fail all that was asked, and call ``lost``, once."""
        if self._ended is not None:
            return
        self._ended = words
        self._stop_timers()
        self.stopReceivingBoxes(Failure(LinkEnded(words)))
        self.lost(words)

    def _stop_timers(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def lost(self, words: str) -> None:
        """Take the end of the link; ``words`` say how it ended."""

    def unhandledError(self, failure: Failure) -> None:  # noqa: N802 - AMP's name
        """End the link at a fault of ours."""
        if not failure.check(ConnectionLost, CancelledError):
            log.error("link_failed", failure=failure)
        self.end("a fault in cortexd; its log has it")

    # What is sent.

    def sendBox(self, box: amp.AmpBox) -> None:  # noqa: N802 - AMP's name
        """Send a box, unless the link has ended."""
        if self._ended is not None:
            raise LinkEnded(self._ended)
        self._sent_at = self.clock.seconds()
        super().sendBox(box)

    def ask(self, command: type[amp.Command], **arguments: Any) -> Deferred[dict[str, Any]]:
        """Send a command; the Deferred fires with its answer.

        It fails with LinkEnded, with an error of the command, or with another one of AMP's. Unlike
        ``callRemote``, it also fails if a value is too long.
        """
        return maybeDeferred(self.callRemote, command, **arguments)

    # What comes.

    def dataReceived(self, data: bytes) -> None:
        """Take bytes."""
        if data:
            self._heard_at = self.clock.seconds()
        if self._ended is None:
            super().dataReceived(data)

    def proto_init(self, string: bytes) -> str:
        """Take the first key of a box."""
        self._box_bytes = 0
        if not string:
            self.end(NO_BOX)
            return "init"
        return str(super().proto_init(string))

    def proto_key(self, string: bytes) -> str:
        """Take a key, or the end of a box."""
        following = str(super().proto_key(string))
        if following == "value":
            self._box_bytes += len(string) + 4
            self.MAX_LENGTH = min(self._MAX_VALUE_LENGTH, self.max_box_bytes - self._box_bytes)
        return following

    def proto_value(self, string: bytes) -> str:
        """Take a value."""
        self._box_bytes += len(string)
        return str(super().proto_value(string))

    def lengthLimitExceeded(self, length: int) -> None:  # noqa: N802 - Twisted's name
        """End the link: a long key is no box, and a long value makes a box too large."""
        self.end(TOO_LARGE if self.state == "value" else NO_BOX)

    def ampBoxReceived(self, box: amp.AmpBox) -> None:  # noqa: N802 - AMP's name
        """Take a box: a command, or the answer to one."""
        if self._ended is not None:
            return
        pause = self._allowance.take(self.clock.seconds())
        if pause:
            self._hold(FLOOD)
            self._later(FLOOD, pause, self._release, FLOOD)
        try:
            super().ampBoxReceived(box)
        except (KeyError, amp.NoEmptyBoxes):
            self.end(NO_BOX)  # or the answer to a command that we have not sent

    def dispatchCommand(self, box: amp.AmpBox) -> Deferred[Any]:  # noqa: N802 - AMP's name
        """Carry out a command, unless it is unknown or its values cannot be read.

        AMP's own method would also start TLS for everyone who asks for it, and end the link with a
        traceback where a value cannot be read.
        """
        answered = self._carried_out(box)
        # A command that wants no answer gets no error either.
        return answered if amp.ASK in box else answered.addErrback(lambda failure: None)

    def _carried_out(self, box: amp.AmpBox) -> Deferred[Any]:
        name = box[amp.COMMAND]
        command, method = self._by_name.get(name, (None, ""))
        if command is None:
            return refusal(amp.UNHANDLED_ERROR_CODE, "this version does not know the command")
        try:
            arguments = command.parseArguments(box, self)
        except (msgspec.MsgspecError, ValueError, LookupError, TypeError, amp.AmpError):
            return refusal(amp.UNKNOWN_ERROR_CODE, UNREADABLE)
        errors: Mapping[type[Exception], bytes] = command.errors
        answered = maybeDeferred(getattr(self, method), **arguments)

        def answer(found: dict[str, Any] | None) -> amp.AmpBox:
            answer: amp.AmpBox = command.makeResponse(found or {}, self)
            if any(len(value) > self._MAX_VALUE_LENGTH for value in answer.values()):
                raise ValueError(f"the answer to {command.__name__} is too long for one box")
            return answer

        def refuse(failure: Failure) -> Any:
            kind = failure.check(*errors)
            if failure.check(amp.RemoteAmpError):
                return failure
            if kind is not None:
                return refusal(errors[kind], one_line(failure.getErrorMessage()))
            if not failure.check(CancelledError):
                log.error("link_command_failed", command=command.__name__, failure=failure)
            return refusal(amp.UNKNOWN_ERROR_CODE, "the command has failed; see the log there")

        return answered.addCallback(answer).addErrback(refuse)

    def note_beat(self) -> None:
        """Take a sign of life: there is nothing to do, for each byte is one."""

    # Reading.

    def pauseProducing(self) -> None:
        """Read nothing until the other side has read our answers."""
        self._hold(UNREAD)

    def resumeProducing(self) -> None:
        """Read again."""
        self._release(UNREAD)

    def stopProducing(self) -> None:
        """Do nothing: the connection is about to be lost."""

    def _hold(self, why: str) -> None:
        if not self._holds and self.transport is not None:
            super().pauseProducing()
        self._holds.add(why)

    def _release(self, why: str) -> None:
        self._holds.discard(why)
        if not self._holds and self.paused and self.is_open:
            super().resumeProducing()

    # Time.

    def _later(self, name: str, delay: float, call: Callable[..., object], *given: object) -> None:
        """Call later, at most once for each name, and not after the end of the connection."""
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

        def run() -> None:
            del self._timers[name]
            call(*given)

        self._timers[name] = self.clock.callLater(delay, run)

    def _look(self) -> None:
        """End the link if it is silent, or send a Beat if we are; look again when either is due."""
        now = self.clock.seconds()
        dead_at, beat_at = self._heard_at + DEAD_SECONDS, self._sent_at + self._beat_seconds
        if now >= dead_at:
            self.end(f"silent for {DEAD_SECONDS:g} s")
            return
        if now >= beat_at:
            self.ask(Beat).addErrback(_no_matter)
            beat_at = now + self._beat_seconds
        self._later("look", min(dead_at, beat_at) - now, self._look)


LinkEnd._by_name = {  # noqa: SLF001 - as for each subclass
    each.commandName: (each, name) for each, name in LinkEnd.commands.items()
}


def words_for(reason: Failure) -> str:
    """Return how a connection ended, in words."""
    error = reason.value
    if isinstance(error, VerificationError):
        return "the certificate of the other side is for another name"
    if isinstance(error, SSL.Error):
        queue = error.args[0] if error.args else ()
        words = str(queue[-1][-1]).lower() if isinstance(queue, list) and queue else "no reason"
        return f"TLS has failed: {words}"
    if reason.check(ConnectionDone):
        return CLOSED
    if type(error) in (ConnectionLost, ConnectionAborted):
        return LOST
    return one_line(reason.getErrorMessage()) or LOST


def refusal(code: bytes, words: str) -> Deferred[Any]:
    """Return the answer to a command that is not carried out."""
    failed: Deferred[Any] = Deferred()
    failed.errback(Failure(amp.RemoteAmpError(code, words, False)))
    return failed


def _no_matter(failure: Failure) -> None:
    """Take the error that answers a Beat: it is a sign of life as well."""
