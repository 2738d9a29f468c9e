"""All links of a gateway: how they begin, who is admitted, and which agent speaks for which node.

A listener beyond loopback speaks TLS only. At one on loopback an agent of this machine may speak
without TLS, and is believed which node it speaks for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from cortexd.admission.descriptors import MOST_NEWCOMERS
from cortexd.admission.recent import Recent
from cortexd.agents.newcomers import Newcomers
from cortexd.agents.session import Session
from cortexd.agents.tls import ServerTLS
from cortexd.config.addresses import is_loopback
from cortexd.config.node_tls import NodeTLS
from cortexd.fleet.agents import AgentReport
from cortexd.link.admission import Enrolments, Kind, PeerCertificate
from cortexd.link.connected import Agents
from cortexd.link.end import CLOSED, LOST
from cortexd.link.limits import GREETING_SECONDS
from cortexd.link.proofs import is_proof
from cortexd.logs import get_logger
from cortexd.scheduling.events import Event
from cortexd.scheduling.repairs.events import AgentJoined, AgentLeft, AgentReported

TLS_RECORD: Final = 0x16
"""The first byte of TLS. A box begins with a zero."""

REASONS: Final = ("tls", "certificate", "token", "version", "slow", "full", "garbage")
"""Why connections are refused, for the metric."""

LATELY_SECONDS: Final = 3600.0
"""For so long after a refusal the operator is told of it: what was mended is no news for ever."""

log = get_logger("cortexd.agents")


class AgentSite(ServerFactory):
    """Makes the gateway's end of each link, and keeps ``agents``, the registry of those admitted.

    ``is_plain_allowed`` says that the listener is on loopback. ``has_node`` returns whether the
    fleet has a node of a name, and events go to ``dispatch``. ``unix_time`` gives the time of day.
    ``refused`` counts connections by reason.
    """

    noisy = False

    def __init__(
        self,
        agents: Agents,
        enrolments: Enrolments,
        has_node: Callable[[str], bool],
        dispatch: Callable[[Event], None],
        reactor: IReactorTime,
        unix_time: Callable[[], float],
    ) -> None:
        self.agents = agents
        self._tls: _TLSFactory | None = None
        self.is_plain_allowed = False
        self.refused = dict.fromkeys(REASONS, 0)
        self._last_refused: dict[str, float] = {}
        self.enrolments = enrolments
        self.newcomers: Newcomers[_Door] = Newcomers(MOST_NEWCOMERS)
        self.reactor = reactor
        self._has_node = has_node
        self._dispatch = dispatch
        self._unix_time = unix_time
        self._sessions: dict[Session, _Door] = {}
        self._noted = Recent()

    # Connections.

    @property
    def tls(self) -> ServerTLS | None:
        """The TLS of new connections, ``None`` while there is no certificate."""
        return None if self._tls is None else self._tls.tls

    @tls.setter
    def tls(self, tls: ServerTLS | None) -> None:
        self._tls = None if tls is None else _TLSFactory(tls, self.reactor)

    def take_files(self, files: NodeTLS | None, *, is_ours: bool) -> None:
        """Take the certificate for new connections, and the authorities of agents, from now on.

        ``is_ours`` says that the authority is the gateway's own. Links that are open stay, unless
        the authorities are others: then each agent has to show its certificate anew.
        """
        before = self.tls
        if before is not None and (before.files, before.is_ours) == (files, is_ours):
            return
        try:
            self.tls = None if files is None else ServerTLS(files, self, is_ours=is_ours)
        except SSL.Error:
            log.exception("agents_certificate_refused")
            return
        authorities = () if files is None else files.authorities
        if before is not None and before.files.authorities != authorities:
            for session in list(self._sessions):
                if session.certificate is not None:
                    session.drop("the authorities of agents have changed")

    def secured(self, session: Session) -> TwistedProtocol | None:
        """Return the protocol of a new connection, TLS around its session."""
        return None if self._tls is None else self._tls.around(session)

    def buildProtocol(self, addr: IAddress | None) -> TwistedProtocol:
        """Return the beginning of a new connection."""
        return _Door(self)

    def stop(self, reason: str) -> Deferred[None]:
        """End all links and connections in order; the Deferred fires when they have gone."""
        for door in list(self.newcomers):
            door.cut(reason)
        sessions = list(self._sessions)
        for session in sessions:
            session.close(reason)
        return gatherResults([each.gone for each in sessions]).addCallback(lambda _: None)

    def note_refused(self, peer: str, reason: str, words: str) -> None:
        """Count a connection that is refused, and log it once a minute for each peer."""
        self.refused[reason] += 1
        self._last_refused[reason] = now = self.reactor.seconds()
        if self._noted.note(peer, now):
            log.warning("agent_refused", peer=peer, reason=words)

    def lately_refused(self) -> dict[str, int]:
        """Return how many connections were refused since the start, of the last hour's reasons."""
        since = self.reactor.seconds() - LATELY_SECONDS
        return {
            reason: self.refused[reason] for reason, at in self._last_refused.items() if at >= since
        }

    @property
    def needs_certificate(self) -> bool:
        """Whether no agent is admitted without a certificate: none has a token."""
        return all(each.kind is not Kind.TOKEN for each in self.enrolments.by_node.values())

    # For sessions.

    def certificate_of(self, transport: Any) -> PeerCertificate | None:
        """Return the certificate that an agent has shown, ``None`` without one."""
        tls: ServerTLS = transport.factory.tls
        return tls.certificate_of(transport)

    def objection(self, session: Session) -> str | None:
        """Return why an agent is not admitted now, after what it has shown; ``None`` if it is."""
        node, now = session.node, self._unix_time()
        found: str | None = None
        if session.certificate is not None:
            found = self.enrolments.check_certificate(node, session.certificate, now)
        elif session.token_key is not None:
            if session.token_key != self.enrolments.token_key(node, now):
                found = "its token does not hold any more"
        elif not (session.is_plain and self.is_plain_allowed):
            found = "without TLS, an agent must be on the gateway's machine"
        if found is None and not self._has_node(node):
            found = f"the gateway's configuration has no node {node!r}"
        return found

    def proved_key(self, node: str, nonce: bytes, proof: bytes, exporter: bytes) -> bytes | None:
        """Return the key of a node's token if a proof shows that its sender has the token."""
        key = self.enrolments.token_key(node, self._unix_time())
        return key if is_proof(proof, key, nonce, node, exporter) else None

    def note_admitted(self, session: Session) -> None:
        """Wait no longer for a greeting."""
        self._sessions[session].admitted()

    def join(self, session: Session) -> None:
        """Take an agent in, instead of the one that its node may have."""
        node = session.node
        before = self.agents.add(session)
        if before is None:
            if self._may_log("joined", node):
                log.info("agent_joined", node=node, peer=session.peer)
        else:
            if self._may_log("replaced", node):
                log.warning("agent_replaced", node=node, before=before.peer, now=session.peer)
            before.drop("a newer link of the same agent has replaced it")
        self._dispatch(AgentJoined(node, session.abilities))

    def refuse(self, session: Session, reason: str, words: str) -> None:
        """Note that an agent is refused."""
        door = self._sessions[session]
        door.is_noted = True
        self.note_refused(door.peer, reason, words)

    def take_report(self, session: Session, report: AgentReport) -> None:
        """Pass on what an agent sees, unless it was replaced."""
        if self.agents.on(session.node) is session:
            self._dispatch(AgentReported(session.node, report))

    def leave(self, session: Session, words: str) -> None:
        """Take the end of a link."""
        door = self._sessions.pop(session)
        if not session.is_admitted:
            door.ended(words, session.tls_fault)
        elif self.agents.remove(session):
            if self._may_log("left", session.node):
                log.info("agent_left", node=session.node, peer=session.peer, reason=words)
            self._dispatch(AgentLeft(session.node, words))

    def _may_log(self, change: str, node: str) -> bool:
        """Return whether a change of a node's agent may be logged: each kind once a minute.

        A link that flaps would fill the log; the repair record says how often it did.
        """
        return self._noted.note(f"{node} {change}", self.reactor.seconds())

    # Changes.

    def review(self) -> None:
        """Drop the agents that would not be admitted any more."""
        for session in list(self._sessions):
            objection = self.objection(session) if session.is_admitted else None
            if objection is not None:
                log.warning("agent_dropped", node=session.node, reason=objection)
                session.drop(objection)

    def opened(self, door: _Door, session: Session) -> None:
        """Take the session of a connection."""
        self._sessions[session] = door


class _Door(TwistedProtocol):
    """The beginning of one connection: its first byte tells whether it speaks TLS."""

    transport: Any

    def __init__(self, site: AgentSite) -> None:
        self.site = site
        self.peer = ""
        self.is_noted = False
        self._session: Session | None = None
        self._timer: Any = None

    def connectionMade(self) -> None:
        """Wait for the greeting, or make room for it."""
        site, address = self.site, self.transport.getPeer()
        self.peer = address.host
        self.transport.setTcpNoDelay(True)
        self._timer = site.reactor.callLater(GREETING_SECONDS, self._be_late)
        leaving = site.newcomers.enter(self, self.peer)
        if leaving is not None:
            leaving.refuse("full", "too many connections wait to be admitted")

    def dataReceived(self, data: bytes) -> None:
        """Choose the protocol by the first byte, and give the connection to it."""
        site, transport = self.site, self.transport
        if self.is_noted:
            return
        protocol: Any = None
        if data[0] == TLS_RECORD:
            session = Session(site, site.reactor, is_plain=False)
            protocol = site.secured(session)
        elif data[0] == 0 and site.is_plain_allowed and is_loopback(self.peer):
            protocol = session = Session(site, site.reactor, is_plain=True)
        if protocol is None:
            self.refuse("garbage", "it does not speak TLS")
            return
        self._session = session
        session.peer = _text(transport.getPeer())
        site.opened(self, session)
        transport.protocol = protocol
        protocol.makeConnection(transport)
        protocol.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget a connection that has ended before its first byte."""
        self._forget()

    def admitted(self) -> None:
        """Wait no longer: the agent is admitted."""
        self._forget()

    def ended(self, words: str, tls_fault: str | None) -> None:
        """Note that the session has ended before its agent was admitted."""
        self._forget()
        if self.is_noted:
            return
        if tls_fault is not None or words.startswith("TLS"):
            self.site.note_refused(self.peer, "tls", tls_fault or words)
        elif words not in (CLOSED, LOST):
            self.site.note_refused(self.peer, "garbage", words)

    def refuse(self, reason: str, words: str) -> None:
        """Cut the connection, and note why."""
        self.site.note_refused(self.peer, reason, words)
        self.cut(words)

    def cut(self, words: str) -> None:
        """Cut the connection."""
        self._forget()
        self.is_noted = True
        if self._session is not None:
            self._session.end(words)
        else:
            self.transport.abortConnection()

    def _be_late(self) -> None:
        self._timer = None
        self.refuse("slow", f"no greeting within {GREETING_SECONDS:g} s")

    def _forget(self) -> None:
        self.site.newcomers.leave(self)
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


class _TLSFactory(TLSMemoryBIOFactory):
    """Puts TLS around sessions."""

    def __init__(self, tls: ServerTLS, clock: IReactorTime) -> None:
        super().__init__(tls, False, ServerFactory(), clock)
        self.tls = tls

    def around(self, session: Session) -> TwistedProtocol:
        """Return the protocol of a connection."""
        return self.protocol(self, session)


def _text(address: Any) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"
