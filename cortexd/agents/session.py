"""The gateway's end of one link: who is there, what it reports, and what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.protocols import amp
from twisted.python.failure import Failure

from cortexd import __version__
from cortexd.agents.incoming import Nonsense, abilities_of, log_lines, report_of, seconds_of
from cortexd.fleet.agents import AgentAbilities, AgentReport
from cortexd.link.admission import PeerCertificate
from cortexd.link.connected import AgentFailed, AgentGone, LogStream
from cortexd.link.contract import (
    BEAT_SECONDS,
    PROTOCOL,
    Beat,
    EndLog,
    Failed,
    Hello,
    Incompatible,
    LogLines,
    NotAdmitted,
    Prove,
    ReadMemory,
    Report,
    RestartEngine,
    SuspendMachine,
    TailLog,
)
from cortexd.link.end import UNREADABLE, LinkEnd, LinkEnded, refusal
from cortexd.link.identities import exported
from cortexd.link.limits import words_of
from cortexd.link.proofs import new_nonce

PATIENT_SECONDS: Final = BEAT_SECONDS + 2
"""Our own silence after which we send a beat: an agent's comes first, and its answer is ours."""

REPORT_GAP: Final = 0.1
"""The least time between two events from the reports of one agent, in seconds."""

ANSWER_SECONDS: Final = 3.0
"""How much longer than an agent's own limit its answer may take."""

Take = Callable[[Sequence[str]], None]
T = TypeVar("T")


class Host(Protocol):
    """What the links of a gateway have in common."""

    def certificate_of(self, transport: Any) -> PeerCertificate | None:
        """Return the certificate that an agent has shown, ``None`` without one."""

    def objection(self, session: Session) -> str | None:
        """Return why an agent is not admitted, after what it has shown; ``None`` if it is."""

    def proved_key(self, node: str, nonce: bytes, proof: bytes, exporter: bytes) -> bytes | None:
        """Return the key of a node's token if a proof shows that its sender has the token."""

    def note_admitted(self, session: Session) -> None:
        """Note that an agent has proved who it is."""

    def join(self, session: Session) -> None:
        """Take an agent in that has been admitted."""

    def refuse(self, session: Session, reason: str, words: str) -> None:
        """Note that an agent is refused, for a reason that is counted."""

    def take_report(self, session: Session, report: AgentReport) -> None:
        """Take what an agent sees."""

    def leave(self, session: Session, words: str) -> None:
        """Take the end of a link."""


class Session(LinkEnd):
    """The gateway's end of one link, over TLS or (``is_plain``) within this machine.

    It is an ``Agent`` of ``cortexd.link.connected`` once it is admitted. ``certificate`` is what
    the agent has shown, and ``tls_fault`` what is wrong with it. ``token_key`` is the key of the
    token that it has proved to have.
    """

    commands: ClassVar = {
        Beat: "note_beat",
        Hello: "hello",
        Prove: "prove",
        Report: "take_report",
        LogLines: "take_lines",
    }

    def __init__(self, host: Host, clock: IReactorTime, *, is_plain: bool) -> None:
        super().__init__(clock, PATIENT_SECONDS)
        self.node = ""
        self.peer = ""
        self.since = 0.0
        self.abilities = AgentAbilities(version="")
        self.is_plain = is_plain
        self.is_admitted = False
        self.token_key: bytes | None = None
        self.certificate: PeerCertificate | None = None
        self.tls_fault: str | None = None
        self._host = host
        self._nonce = b""
        self._is_refused = False
        self._report: AgentReport | None = None
        self._reported_at: float | None = None
        self._streams: dict[int, Take | None] = {}
        self._last_stream = 0

    # The greeting.

    def dispatchCommand(self, box: amp.AmpBox) -> Deferred[Any]:  # noqa: N802 - AMP's name
        """Carry out a command: before an agent is admitted, only those of the greeting."""
        if not self.is_admitted:
            wanted = Prove if self._nonce else Hello
            if box[amp.COMMAND] != wanted.commandName or self._is_refused:
                self.end("it did not greet")
                return refusal(amp.UNHANDLED_ERROR_CODE, "greet first")
        return super().dispatchCommand(box)

    def hello(
        self, protocol: int, version: str, node: str, abilities: AgentAbilities
    ) -> dict[str, Any]:
        """Admit an agent, or ask for a proof. Raises NotAdmitted and Incompatible."""
        if self.is_admitted:
            raise self._refused("garbage", NotAdmitted("it has greeted already"))
        self.node, self.abilities = words_of(node), abilities_of(abilities)
        if protocol != PROTOCOL:
            version = words_of(version)
            error = Incompatible(
                f"cortexd {__version__} of the gateway speaks version {PROTOCOL} of the link, and "
                f"cortexd {version} of the agent version {protocol}: update the older one"
            )
            raise self._refused("version", error)
        if not self.is_plain:
            self.certificate = self._host.certificate_of(self.transport)
        if self.is_plain or self.certificate is not None:
            self._admit("certificate", self._host.objection(self))
        else:
            self._nonce = new_nonce()
        return {"protocol": PROTOCOL, "version": __version__, "nonce": self._nonce}

    def prove(self, proof: bytes) -> dict[str, Any]:
        """Admit an agent that has its node's token. Raises NotAdmitted."""
        if self.is_admitted:
            raise self._refused("garbage", NotAdmitted("it has proved itself already"))
        nonce, exporter = self._nonce, exported(self.transport)
        self.token_key = self._host.proved_key(self.node, nonce, proof, exporter)
        words = (
            f"the proof of the token does not hold: 'cortexctl agent enroll {self.node} --token' "
            "on the gateway makes a new one"
        )
        self._admit("token", words if self.token_key is None else self._host.objection(self))
        return {}

    def _admit(self, reason: str, objection: str | None) -> None:
        if objection is not None:
            raise self._refused(reason, NotAdmitted(objection))
        self.is_admitted = True
        self.since = self.clock.seconds()
        self.admit()
        self._host.note_admitted(self)
        # The greeting is answered before anything else is sent.
        self._later("join", 0, self._host.join, self)

    def _refused(self, reason: str, error: Exception) -> Exception:
        """Return an error for the agent, after whose answer the link ends."""
        self._is_refused = True
        self._host.refuse(self, reason, str(error))
        self._later("refused", 0, self.close, str(error))
        return error

    def lost(self, words: str) -> None:
        """Let what reads the log know, and leave."""
        self._streams.clear()
        self._host.leave(self, words)

    # What the agent sends.

    def take_report(self, report: AgentReport) -> dict[str, Any]:
        """Take a report; of several ones in a short time, the last."""
        try:
            self._report = report_of(report)
        except Nonsense as error:
            raise amp.RemoteAmpError(
                amp.UNKNOWN_ERROR_CODE, f"{UNREADABLE}: {error}", False
            ) from None
        left = 0.0
        if self._reported_at is not None:
            left = self._reported_at + REPORT_GAP - self.clock.seconds()
        if left <= 0:
            self._pass_report()
        elif "report" not in self._timers:
            self._later("report", left, self._pass_report)
        return {}

    def _pass_report(self) -> None:
        report, self._report = self._report, None
        if report is not None:
            self._reported_at = self.clock.seconds()
            self._host.take_report(self, report)

    def take_lines(self, stream: int, lines: list[str]) -> dict[str, Any]:
        """Pass lines of a log on. An agent hears that nobody reads them any more."""
        take = self._streams.get(stream)
        if take is None:
            raise amp.RemoteAmpError(amp.UNKNOWN_ERROR_CODE, "nobody reads this stream", False)
        take(log_lines(lines))
        return {}

    # What the agent is asked.

    def read_memory(self, limit: float) -> Deferred[AgentReport]:
        """Return what the agent sees now."""
        return self._asked(lambda answer: report_of(answer["report"]), limit, ReadMemory)

    def restart(self, order: str, reason: str, limit: float) -> Deferred[float]:
        """Restart the engine within ``limit``; return the seconds until it was well again."""
        return self._asked(
            lambda answer: seconds_of(answer["seconds"]),
            limit + ANSWER_SECONDS,
            RestartEngine,
            order=order,
            reason=words_of(reason),
            limit=limit,
        )

    def suspend(self, order: str, limit: float) -> Deferred[None]:
        """Let the machine sleep."""
        return self._asked(lambda answer: None, limit, SuspendMachine, order=order)

    def tail(self, lines: int, take: Take | None, limit: float) -> Deferred[LogStream]:
        """Return the last lines of the engine's log; with ``take``, further ones go there."""
        self._last_stream = number = self._last_stream + 1
        stream = _Stream(self, number)
        if take is not None:
            self._streams[number] = take

        def read(answer: dict[str, Any]) -> LogStream:
            stream.last = log_lines(answer["lines"])
            return stream

        def close(failure: Failure) -> Failure:
            stream.close()
            return failure

        follow = take is not None
        arguments = {"stream": number, "lines": lines, "follow": follow}
        return self._asked(read, limit, TailLog, **arguments).addErrback(close)

    def end_log(self, stream: int) -> None:
        """Pass no more lines of a stream on."""
        if self._streams.pop(stream, None) is not None and self.is_open:
            self.ask(EndLog, stream=stream).addErrback(lambda failure: None)

    def drop(self, reason: str) -> None:
        """End the link in order; the agent may connect again."""
        self.close(reason)

    def _asked(
        self,
        read: Callable[[dict[str, Any]], T],
        limit: float,
        command: type[amp.Command],
        /,
        **arguments: Any,
    ) -> Deferred[T]:
        """Return the answer to a command as ``read`` reads it.

        It fails with AgentGone or AgentFailed, within ``limit`` seconds.
        """

        def too_late(result: object, seconds: float) -> object:
            raise AgentFailed(f"the agent did not answer within {seconds:g} s")

        asking: Deferred[Any] = self.ask(command, **arguments)
        asking.addTimeout(limit, self.clock, too_late)
        return asking.addCallback(read).addErrback(self._failed)

    def _failed(self, failure: Failure) -> Failure:
        """Return a failure in the words of ``cortexd.link.connected``."""
        error = failure.value
        words = words_of(failure.getErrorMessage())
        match error:
            case LinkEnded():
                return Failure(AgentGone(f"the link to the agent has ended: {words}"))
            case Failed():
                return Failure(AgentFailed(words or "the agent failed without a reason"))
            case amp.UnhandledCommand():
                version = self.abilities.version
                return Failure(AgentFailed(f"an agent of cortexd {version} cannot do that"))
            case Nonsense():
                return Failure(AgentFailed(f"the agent's answer cannot be: {words}"))
            case amp.AmpError() | ValueError() | LookupError():
                return Failure(AgentFailed(f"the agent's answer cannot be used: {words}"))
        return failure


class _Stream:
    """The lines of one log; see LogStream."""

    def __init__(self, session: Session, number: int) -> None:
        self.last: Sequence[str] = ()
        self._session = session
        self._number = number

    def close(self) -> None:
        """End the stream."""
        self._session.end_log(self._number)
