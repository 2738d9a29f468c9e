"""The agent's end of the link: it connects, greets, proves itself, and connects again.

A ``Dialler`` keeps one link to the gateway as long as it runs. Only the newest report goes over it:
while one is unanswered, further ones replace each other, and each new link begins with the newest.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar, Final, Protocol, TypeVar

from OpenSSL import SSL, crypto
from twisted.application.internet import ClientService
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IHandshakeListener, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.protocols import amp
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from cortexd import __version__
from cortexd.admission.recent import Recent
from cortexd.config.addresses import is_loopback
from cortexd.config.values import LONGEST_RESTART_SECONDS
from cortexd.fleet.agents import AgentAbilities, AgentReport
from cortexd.link.backoff import Backoff
from cortexd.link.contract import (
    MAX_LOG_LINES,
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
from cortexd.link.end import LinkEnd, LinkEnded
from cortexd.link.identities import Creator, Identity, exported
from cortexd.link.limits import GREETING_SECONDS, batches, last_lines, words_of
from cortexd.link.proofs import key_of, proof
from cortexd.logs import get_logger

Take = Callable[[Sequence[str]], Deferred[object]]
"""Takes further lines of a log. Its Deferred fires when it can take more, and fails at the end of
the link, or when the gateway wants no more."""

PLAIN: Final = "without TLS, an agent connects to its own machine only: enrol it, or use 127.0.0.1"

WITHOUT_TLS: Final = "if the gateway speaks TLS there, enrol this agent"

HINTS: Final = {
    "TLS has failed: certificate verify failed": "the gateway's certificate is from another "
    "authority than this agent expects (enrol it anew, or change its ca), or it is not valid now, "
    "or a clock is wrong",
}
"""What to do about an end that OpenSSL puts into few words."""

T = TypeVar("T")

log = get_logger("cortexd.link")


class Handlers(Protocol):
    """What the gateway may ask of an agent; each method may fail with ``contract.Failed``.

    ``abilities`` are read at each greeting. At the end of a link all that was asked over it is
    cancelled; an order that has begun, such as a restart, goes on nevertheless.
    """

    @property
    def abilities(self) -> AgentAbilities:
        """What this agent can do."""

    def read_memory(self) -> Deferred[AgentReport]:
        """Look at once, and return what is seen."""

    def restart(self, order: str, reason: str, limit: float) -> Deferred[float]:
        """Restart the engine; return the seconds until it was well again."""

    def suspend(self, order: str) -> Deferred[None]:
        """Let the machine sleep."""

    def tail(self, stream: int, lines: int, take: Take | None) -> Deferred[Sequence[str]]:
        """Return the last lines of the engine's log; with ``take``, further ones go there."""

    def end_log(self, stream: int) -> None:
        """Send no more lines of a stream; an unknown one is no error."""

    def end_logs(self) -> None:
        """Send no more lines of any stream: the link has ended."""


class NoLink(Exception):
    """Raised when no link could be made; the message says why."""


@implementer(IHandshakeListener)
class AgentEnd(LinkEnd):
    """The agent's end of one link, whose commands ``handlers`` carry out.

    ``ended`` is called once with the reason when the link ends.
    """

    commands: ClassVar = {
        Beat: "note_beat",
        ReadMemory: "read_memory",
        RestartEngine: "restart_engine",
        SuspendMachine: "suspend_machine",
        TailLog: "tail_log",
        EndLog: "end_log",
    }

    def __init__(self, clock: Any, handlers: Handlers) -> None:
        super().__init__(clock)
        self.is_greeted = False
        self.ended: Callable[[str], None] = lambda words: None
        self.is_secure = False
        self._handlers = handlers
        self._ready: Deferred[None] = Deferred()
        self._running: set[Deferred[Any]] = set()

    # The greeting.

    def begin(self) -> None:
        """Begin without TLS."""
        self._be_ready()

    def handshakeCompleted(self) -> None:  # noqa: N802 - Twisted's name
        """Begin: the gateway has shown who it is."""
        self.is_secure = True
        self._be_ready()

    def _be_ready(self) -> None:
        if self.is_open and not self._ready.called:
            self._ready.callback(None)

    async def greet(self, identity: Identity) -> str:
        """Greet and prove who we are; return the version of the gateway. Raises NoLink."""
        try:
            await self._ready
            answer = await self.ask(
                Hello,
                protocol=PROTOCOL,
                version=__version__,
                node=identity.node,
                abilities=self._handlers.abilities,
            )
            version = words_of(answer["version"])
            if answer["protocol"] != PROTOCOL:
                raise Incompatible(f"it speaks version {answer['protocol']}, and we {PROTOCOL}")
            if answer["nonce"]:
                await self.ask(Prove, proof=self._proof(identity, answer["nonce"]))
        except NotAdmitted as error:
            raise NoLink(f"the gateway does not admit this agent: {words_of(str(error))}") from None
        except Incompatible as error:
            raise NoLink(f"gateway and agent do not fit: {words_of(str(error))}") from None
        except LinkEnded as error:
            hint = WITHOUT_TLS if identity.tls is None else HINTS.get(error.words)
            advice = "" if hint is None else f"; {hint}"
            words = f"the link has ended before the greeting: {error.words}{advice}"
            raise NoLink(words) from None
        except (amp.AmpError, ValueError, LookupError) as error:
            words = words_of(str(error))
            raise NoLink(f"the other side does not greet like a gateway: {words}") from None
        self.admit()
        self.is_greeted = True
        return version

    def _proof(self, identity: Identity, nonce: bytes) -> bytes:
        if not identity.token or not self.is_secure:
            raise NoLink(
                "the gateway asks for the proof of a token, and this agent has none: enrol it anew"
            )
        key = key_of(identity.token, identity.node)
        return proof(key, nonce, identity.node, exported(self.transport))

    # What the gateway asks.

    def read_memory(self) -> Deferred[dict[str, Any]]:
        """Answer what the agent sees now."""
        return self._run(self._handlers.read_memory()).addCallback(lambda seen: {"report": seen})

    def restart_engine(self, order: str, reason: str, limit: float) -> Deferred[dict[str, Any]]:
        """Restart the engine, and answer how long it took."""
        if not math.isfinite(limit) or not 0 < limit <= LONGEST_RESTART_SECONDS:
            raise Failed(f"no restart: a limit of {limit} s makes no sense")
        restarting = self._handlers.restart(order, words_of(reason), limit)
        return self._run(restarting).addCallback(lambda seconds: {"seconds": float(seconds)})

    def suspend_machine(self, order: str) -> Deferred[dict[str, Any]]:
        """Let the machine sleep."""
        return self._run(self._handlers.suspend(order)).addCallback(lambda _: {})

    def tail_log(self, stream: int, lines: int, follow: bool) -> Deferred[dict[str, Any]]:
        """Answer the last lines of the engine's log, and send further ones if they are wanted."""
        lines = max(0, min(lines, MAX_LOG_LINES))

        def take(more: Sequence[str]) -> Deferred[object]:
            return Deferred.fromCoroutine(self._send_lines(stream, more))

        tailing = self._handlers.tail(stream, lines, take if follow else None)
        return self._run(tailing).addCallback(lambda found: {"lines": last_lines(found)})

    def end_log(self, stream: int) -> dict[str, Any]:
        """Send no more lines of a stream."""
        self._handlers.end_log(stream)
        return {}

    async def _send_lines(self, stream: int, lines: Sequence[str]) -> object:
        for batch in batches(lines):
            await self.ask(LogLines, stream=stream, lines=batch)
        return None

    def _run(self, running: Deferred[T]) -> Deferred[T]:
        """Return what runs for the gateway, and cancel it if the link ends first."""
        self._running.add(running)

        def note(result: Any) -> Any:
            self._running.discard(running)
            return result

        return running.addBoth(note)

    def lost(self, words: str) -> None:
        """Cancel what runs for the gateway, and note the end."""
        if not self._ready.called:
            self._ready.callback(None)  # whatever is asked from now on fails
        for running in list(self._running):
            running.cancel()
        if self.is_greeted:
            self._handlers.end_logs()
        ended, self.ended = self.ended, lambda words: None
        ended(words)


class Dialler(Service):
    """Keeps a link to the gateway at ``address``, a host and a port, and reports over it.

    ``handlers`` carry out what the gateway asks. ``address`` and ``identity`` may be replaced; the
    next link is the first that has the new ones, and ``redial`` begins one now. ``jitter`` returns
    numbers from 0 to 1. Raises ValueError for a link without TLS to another machine.
    """

    def __init__(
        self,
        reactor: Any,
        address: tuple[str, int],
        identity: Identity,
        handlers: Handlers,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if identity.tls is None and not is_loopback(address[0]):
            raise ValueError(PLAIN)
        self.address = address
        self.identity = identity
        self.reason = "it has not connected yet"
        self._reactor = reactor
        self._handlers = handlers
        self._backoff = Backoff(jitter)
        self._client: ClientService | None = None
        self._link: AgentEnd | None = None
        self._last: AgentEnd | None = None
        self._report: AgentReport | None = None
        self._is_due = self._is_sending = False
        self._noted = Recent()

    @property
    def is_connected(self) -> bool:
        """Whether the gateway has admitted us; ``reason`` says why not."""
        return self._link is not None

    def startService(self) -> None:
        """Connect, and connect again whenever the link ends."""
        super().startService()
        self._begin()

    def _begin(self) -> None:
        factory = Factory.forProtocol(TwistedProtocol)
        factory.noisy = False
        self._client = ClientService(
            _Dialled(self._connect), factory, lambda _: self._backoff.next(), self._reactor
        )
        self._client.startService()

    def stopService(self) -> Deferred[None]:
        """Close the link."""
        super().stopService()
        client, self._client = self._client, None
        return Deferred.fromCoroutine(self._stop(client))

    async def _stop(self, client: ClientService | None) -> None:
        last = self._last
        if client is not None:
            await client.stopService()
        if last is not None:
            await last.gone

    def redial(self) -> None:
        """End the link or the wait for one: the next has the address and the identity of now."""
        self._backoff.begin_anew()
        if self._link is not None:
            self._link.close("the agent connects anew")
        elif self._client is not None:
            client, self._client = self._client, None
            Deferred.fromCoroutine(self._dial_anew(client)).addErrback(_redial_failed)

    async def _dial_anew(self, client: ClientService) -> None:
        await self._stop(client)
        if self.running:
            self._begin()

    def report(self, report: AgentReport) -> None:
        """Send a report, unless a newer one comes before it can be sent."""
        self._report, self._is_due = report, True
        self._send()

    def _send(self) -> None:
        link = self._link
        if link is None or not link.is_open or not self._is_due or self._is_sending:
            return
        self._is_due, self._is_sending = False, True
        link.ask(Report, report=self._report).addErrback(self._unreported).addCallback(
            self._reported, link
        )

    def _reported(self, _: object, link: AgentEnd) -> None:
        if self._link is link:
            self._is_sending = False
            self._send()

    def _unreported(self, failure: Failure) -> None:
        if failure.check(LinkEnded):
            self._is_due = True
        elif self._noted.note("report", self._reactor.seconds()):
            log.warning("report_refused", reason=words_of(failure.getErrorMessage()))

    # The link.

    async def _connect(self, lost: Callable[[Failure], None]) -> AgentEnd:
        """Return a link over which the gateway has admitted us."""
        try:
            link, version = await self._greeted()
        except NoLink as error:
            self.reason = str(error)
            if self._noted.note(self.reason, self._reactor.seconds()):
                log.warning("link_not_made", gateway=self._gateway, reason=self.reason)
            raise
        since = self._reactor.seconds()

        def ended(words: str) -> None:
            self._backoff.note_link(self._reactor.seconds() - since)
            self.reason = words
            self._link, self._is_sending = None, False
            if self.running:
                log.warning("link_lost", gateway=self._gateway, reason=words)
            lost(Failure(LinkEnded(words)))

        link.ended = ended
        self._link, self.reason = link, ""
        log.info("link_made", gateway=self._gateway, version=version)
        self._is_due, self._is_sending = self._report is not None, False
        self._send()
        return link

    @property
    def _gateway(self) -> str:
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def _greeted(self) -> tuple[AgentEnd, str]:
        identity, (host, port) = self.identity, self.address
        link = AgentEnd(self._reactor, self._handlers)
        self._last = None
        factory: Any = Factory.forProtocol(lambda: link)
        factory.noisy = False
        if identity.tls is not None:
            try:
                creator = Creator(identity)
            except (SSL.Error, crypto.Error, ValueError) as error:
                raise NoLink(f"the agent's own files cannot be used: {error}") from None
            factory = TLSMemoryBIOFactory(creator, True, factory, self._reactor)
        endpoint = HostnameEndpoint(self._reactor, host, port, GREETING_SECONDS)
        try:
            await endpoint.connect(factory)
        except (ConnectError, DNSLookupError) as error:
            raise NoLink(f"cannot connect: {words_of(str(error))}") from None
        self._last = link
        try:
            if identity.tls is None:
                if not is_loopback(link.transport.getPeer().host):
                    raise NoLink(PLAIN)
                link.begin()
            link.transport.setTcpNoDelay(True)
            greeting = Deferred.fromCoroutine(link.greet(identity))
            version = await greeting.addTimeout(GREETING_SECONDS, self._reactor)
        except TimedOut:
            words = f"no greeting within {GREETING_SECONDS:g} s"
            link.end(words)
            raise NoLink(f"the gateway is silent: {words}") from None
        except BaseException:
            link.end("no greeting")
            raise
        return link, version


def _redial_failed(failure: Failure) -> None:
    log.error("redial_failed", failure=failure)


@implementer(IStreamClientEndpoint)
class _Dialled:
    """An endpoint whose connections are links that have been greeted.

    Twisted's service loses its place if a connection ends while it is being prepared, so it hears
    of a link only after its greeting.
    """

    def __init__(
        self, connect: Callable[[Callable[[Failure], None]], Coroutine[Any, Any, AgentEnd]]
    ) -> None:
        self._connect = connect

    def connect(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803 - IStreamClientEndpoint's name
        """Connect; the Deferred fires after the greeting."""
        return Deferred.fromCoroutine(self._connected(protocolFactory))

    async def _connected(self, factory: Any) -> Any:
        protocol = factory.buildProtocol(None)
        link = await self._connect(lambda reason: protocol.connectionLost(reason))
        protocol.makeConnection(link)
        return protocol
