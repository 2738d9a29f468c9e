"""Enrols agents and revokes them, and keeps the gateway's own certificate for their links.

The enrolments are in a file that is people's too: each change reads it again. While it cannot be
read, no agent is admitted, for it may have a revocation; the gateway itself goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from cryptography import x509
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from cortexd.agents.folder import Folder
from cortexd.agents.given import server_name, trusted_text
from cortexd.config.agents_file import (
    AgentsTable,
    EnrolmentSettings,
    RevokedSettings,
    enrolled,
    revoked,
)
from cortexd.config.expiry import OF_AN_AGENT, OF_THE_LINK, Shown, Validity
from cortexd.config.node_tls import NO_FILES, NodeTLS
from cortexd.config.tables import ConfigError
from cortexd.errors import OperationRefused
from cortexd.link.admission import Enrolment, Enrolments, Kind
from cortexd.link.certificates import (
    DAY,
    GATEWAY_NAME,
    HOUR,
    LONGEST_DAYS,
    Authority,
    Pair,
    agent_pair,
    loaded,
)
from cortexd.link.enrolment import AgentEnrolment, tls_of
from cortexd.link.proofs import key_of, new_token
from cortexd.logs import get_logger

LOOK_SECONDS: Final = HOUR
"""How often the files are looked at, and what has expired."""

UNREAD: Final = "their file has not been read yet"
STOPPED: Final = "the daemon is stopping or being replaced: try again in a moment"
FOREIGN: Final = (
    "certificates of agents come from the authority in [agents] ca: let it sign one for clients "
    "whose DNS name or common name is {node!r}, and name it, its key and the authority in [agent] "
    "of agent.toml; or enrol the agent with --token"
)

log = get_logger("cortexd.agents")


class InThread(Protocol):
    """Calls a function that may wait for files; the Deferred fires with what it returns."""

    def __call__(self, call: Callable[[], Any]) -> Deferred[Any]:
        """Call it."""


class Site(Protocol):
    """Has the links of agents, as ``cortexd.agents.site`` does."""

    def take_files(self, files: NodeTLS | None, *, is_ours: bool) -> None:
        """Show this certificate from now on; its authority may be ours."""

    def review(self) -> None:
        """Drop the agents that would not be admitted any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentTerms:
    """What a configuration says about the links of agents.

    ``is_open``: agents may connect, at ``address``, HOST:PORT, as far as that is known. ``names``
    are further names and addresses in our own certificate. ``files`` are the operator's own
    certificate, key and authorities, instead of ours.
    """

    is_open: bool = False
    address: str | None = None
    names: tuple[str, ...] = ()
    files: NodeTLS | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """What the files say: the table or why not, and our certificate or why not."""

    table: AgentsTable | None
    fault: str | None = None
    tls: NodeTLS | None = field(default=None, repr=False)
    unwritten: str | None = None


class Enroller(Service):
    """Keeps ``enrolments`` as the files in ``folder`` say, and ``tls`` for the listener of agents.

    While it runs, it is the only process that changes these files. ``in_thread`` calls what waits
    for files. ``unix_time`` is the time of day in seconds. Each function in ``changed`` is called
    when agents may have lost their right to speak, and each in ``renewed`` when ``tls`` is another.
    """

    def __init__(
        self,
        folder: Path,
        enrolments: Enrolments,
        terms: EnrolmentTerms,
        in_thread: InThread,
        unix_time: Callable[[], float],
        reactor: Any,
    ) -> None:
        self.enrolments = enrolments
        self.changed: list[Callable[[], object]] = []
        self.renewed: list[Callable[[], object]] = []
        self._folder = Folder(folder)
        self._terms = terms
        self._own: NodeTLS | None = None
        self._fault: str | None = None
        self._in_thread = in_thread
        self._unix_time = unix_time
        self._lock = DeferredLock()
        self.enrolments.fail(UNREAD)
        self._looks = LoopingCall(self._look)
        self._looks.clock = reactor

    # What it knows.

    @property
    def is_ours(self) -> bool:
        """Whether the agents' certificates are signed by our own authority."""
        return self._terms.files is None

    @property
    def address(self) -> str | None:
        """The HOST:PORT at which agents connect, as far as that is known."""
        return self._terms.address

    @property
    def tls(self) -> NodeTLS | None:
        """Our certificate for agents, its key, and the authorities of theirs, as soon as known."""
        return self._own if self._terms.files is None else self._terms.files

    @property
    def fault(self) -> str | None:
        """Why our own certificate is missing or could not be renewed, in words."""
        return self._fault if self.is_ours else None

    def attach(self, site: Site) -> None:
        """Let a site have our certificate, and look at its agents again, now and at each change."""

        def renew() -> None:
            site.take_files(self.tls, is_ours=self.is_ours)

        renew()
        self.renewed.append(renew)
        self.changed.append(site.review)

    def notices(self) -> list[str]:
        """Return what is wrong with the files, each in a line for the operator."""
        if not self._terms.is_open:
            return []
        faults = {
            "no agent is admitted": self.enrolments.fault,
            "the gateway's certificate for agents": self.fault,
        }
        return [f"{what}: {fault}" for what, fault in faults.items() if fault is not None]

    def shown(self) -> list[Shown]:
        """Return what expires: the gateway's certificate for agents, and their enrolments."""
        found = []
        if self._terms.is_open and self.validity is not None:
            whose = "the gateway's certificate for agents"
            found.append(Shown(whose, self.validity, OF_THE_LINK))
        expiries = self.enrolments.expiries
        for node in sorted(expiries, key=expiries.__getitem__):
            # One that is not valid yet is never known here.
            validity = Validity(0.0, expiries[node])
            found.append(Shown(f"the enrolment of node {node}", validity, OF_AN_AGENT))
        return found

    @property
    def validity(self) -> Validity | None:
        """From when on and until when the gateway's certificate for agents is valid."""
        tls = self.tls
        if tls is None or not tls.chain:
            return None
        own = x509.load_der_x509_certificate(tls.chain[0])
        return Validity(own.not_valid_before_utc.timestamp(), own.not_valid_after_utc.timestamp())

    # The course of the service.

    def startService(self) -> None:
        """Read the files before any agent can connect, and look at them from time to time."""
        super().startService()
        if self._terms.is_open:
            try:
                self._take(self._read(self._terms, self._unix_time()))
            except Exception:  # the gateway must go on
                log.exception("enrolments_not_read")
        self._looks.start(LOOK_SECONDS, now=False).addErrback(_looks_ended)

    def stopService(self) -> None:
        """Change no file any more: another process may."""
        super().stopService()
        if self._looks.running:
            self._looks.stop()

    def reconfigure(self, terms: EnrolmentTerms) -> Deferred[None]:
        """Follow a reload: read the files again under other terms."""
        before, self._terms = self._terms, terms
        if not terms.is_open:
            self.enrolments.fail(UNREAD)
        if before.files != terms.files:
            _call(self.renewed)
        return Deferred.fromCoroutine(self._read_again())

    def _look(self) -> Deferred[None]:
        _call(self.changed)  # what has expired since
        return Deferred.fromCoroutine(self._read_again())

    async def _read_again(self) -> None:
        """Take what the files say now, and renew our certificate if it is time."""
        await self._lock.acquire()
        try:
            if self.running and self._terms.is_open:
                terms, now = self._terms, self._unix_time()
                self._take(await self._in_thread(lambda: self._read(terms, now)))
        except Exception:
            log.exception("enrolments_not_read")
        finally:
            self._lock.release()

    def _read(self, terms: EnrolmentTerms, now: float) -> _Found:
        """Read, and write what is to be renewed; it waits for files."""
        try:
            table, fault = self._folder.table(), None
        except ConfigError as error:
            table, fault = None, str(error)
        if terms.files is not None:
            return _Found(table, fault)
        try:
            authority = self._folder.authority(now)
            pair, unwritten = self._folder.gateway(authority, terms.names, now)
        except OperationRefused as error:
            return _Found(table, fault, None, str(error))
        return _Found(table, fault, _as_tls(pair, authority), unwritten)

    def _take(self, found: _Found) -> None:
        if found.table is not None:
            self._take_table(found.table)
        elif found.fault is not None:
            if found.fault != self.enrolments.fault:
                log.error("enrolments_unreadable", reason=found.fault)
            self.enrolments.fail(found.fault)
            _call(self.changed)
        if self.is_ours:
            self._take_own(found.tls, found.unwritten)

    def _take_own(self, tls: NodeTLS | None, fault: str | None) -> None:
        if fault is not None and fault != self._fault:
            log.error("agents_certificate_failed", reason=fault)
        self._fault = fault
        if tls is not None and tls != self._own:
            self._own = tls
            _call(self.renewed)

    def _take_table(self, table: AgentsTable) -> None:
        self.enrolments.take(
            map(_enrolment_of, table.agents),
            {each.node: each.at.timestamp() for each in table.revoked},
        )
        _call(self.changed)

    # What an operator orders. Errors are OperationRefused; then nothing has changed.

    async def enrol(
        self, node: str, gateway: str, days: int, *, by_token: bool
    ) -> tuple[Enrolment, AgentEnrolment]:
        """Enrol the agent of a node, which replaces an enrolment before; return what it needs.

        ``gateway`` is the HOST:PORT at which it connects. Nobody can show the token or the key
        again.
        """
        if not 1 <= days <= LONGEST_DAYS:
            raise OperationRefused(f"found {days} days, expected 1 to {LONGEST_DAYS}")
        files = self._terms.files
        if files is not None and not by_token:
            raise OperationRefused(FOREIGN.format(node=node))

        def make(now: float) -> tuple[AgentsTable, AgentEnrolment]:
            authority = self._folder.authority(now) if files is None else None
            order = _Order(
                node=node,
                gateway=gateway,
                days=days,
                by_token=by_token,
                authority=authority,
                files=files,
            )
            given: list[AgentEnrolment] = []

            def edit(text: str, table: AgentsTable) -> tuple[str, AgentsTable]:
                entry, enrolment = order.made(table, now)
                given[:] = [enrolment]
                others = tuple(each for each in table.agents if each.node != node)
                wanted = AgentsTable(agents=(*others, entry), revoked=table.revoked)
                return enrolled(text, entry), wanted

            return self._folder.change(edit), given[0]

        made = await self._changed(make)
        return self.enrolments.by_node[node], made

    async def revoke(self, node: str) -> None:
        """Take an agent's right to speak for a node away.

        What was made before for the node admits nobody any more, whoever has signed it.
        """

        def make(now: float) -> tuple[AgentsTable, None]:
            at = _moment(now)

            def edit(text: str, table: AgentsTable) -> tuple[str, AgentsTable]:
                revocation = RevokedSettings(node=node, at=max(at, _last(table, node) or at))
                wanted = AgentsTable(
                    agents=tuple(each for each in table.agents if each.node != node),
                    revoked=(*(e for e in table.revoked if e.node != node), revocation),
                )
                return revoked(text, revocation), wanted

            return self._folder.change(edit), None

        await self._changed(make)

    async def listed(self) -> Mapping[str, Enrolment]:
        """Return the enrolments by their nodes. Raises OperationRefused while they are unknown."""
        if self.enrolments.fault is not None:
            await self._changed(lambda now: (self._folder.table(), None))
        return self.enrolments.by_node

    async def _changed(self, make: Callable[[float], tuple[AgentsTable, Any]]) -> Any:
        """Call in a thread what returns the table of now, and take it."""
        await self._lock.acquire()
        try:
            if not self.running:
                raise OperationRefused(STOPPED)
            now = self._unix_time()
            table, given = await self._in_thread(lambda: make(now))
            self._take_table(table)
        except ConfigError as error:
            raise OperationRefused(str(error)) from None
        finally:
            self._lock.release()
        return given


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """An enrolment that is to be made, by our own ``authority`` or beside the operator's files."""

    node: str
    gateway: str
    days: int
    by_token: bool
    authority: Authority | None
    files: NodeTLS | None

    def made(self, table: AgentsTable, now: float) -> tuple[EnrolmentSettings, AgentEnrolment]:
        """Return the enrolment as the file has it, and as the agent needs it."""
        # A revocation counts for all that was made before, to the second.
        last = _last(table, self.node)
        earliest = 0 if last is None else int(last.timestamp()) + 1
        created = max(int(now), earliest)
        end = created + self.days * DAY
        if self.by_token or self.authority is None:
            return self._with_token(created, end)
        return self._with_certificate(self.authority, max(created - HOUR, earliest), created, end)

    def _with_token(self, created: float, end: float) -> tuple[EnrolmentSettings, AgentEnrolment]:
        token = new_token()
        entry = EnrolmentSettings(
            node=self.node,
            kind="token",
            key=key_of(token, self.node).hex(),
            created=_moment(created),
            expires=_moment(end),
        )
        return entry, self._for_agent(token=token)

    def _with_certificate(
        self, authority: Authority, begin: float, created: float, end: float
    ) -> tuple[EnrolmentSettings, AgentEnrolment]:
        pair = agent_pair(authority, self.node, begin, end)
        certificate, _ = loaded(pair)
        entry = EnrolmentSettings(
            node=self.node,
            kind="certificate",
            serial=f"{certificate.serial_number:x}",
            created=_moment(created),
            expires=certificate.not_valid_after_utc,
        )
        return entry, self._for_agent(certificate=pair.certificate, key=pair.key)

    def _for_agent(self, **secrets: str) -> AgentEnrolment:
        files, authority = self.files, self.authority
        return AgentEnrolment(
            node=self.node,
            gateway=self.gateway,
            server_name=GATEWAY_NAME if files is None else server_name(files),
            ca=authority.pem if authority is not None else trusted_text(files or NO_FILES),
            **secrets,
        )


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(int(at), UTC)


def _last(table: AgentsTable, node: str) -> datetime | None:
    return next((each.at for each in table.revoked if each.node == node), None)


def _enrolment_of(entry: EnrolmentSettings) -> Enrolment:
    return Enrolment(
        node=entry.node,
        kind=Kind(entry.kind),
        created=entry.created.timestamp(),
        expires=entry.expires.timestamp(),
        serial=int(entry.serial or "0", 16),
        key=bytes.fromhex(entry.key or ""),
    )


def _as_tls(pair: Pair, authority: Authority) -> NodeTLS:
    return tls_of(pair.certificate, pair.key, authority.pem)


def _call(functions: Iterable[Callable[[], object]]) -> None:
    for each in functions:
        each()


def _looks_ended(failure: Failure) -> None:
    log.error("enrolments_not_watched", failure=failure)
