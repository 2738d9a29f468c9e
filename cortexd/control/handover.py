"""How a daemon hands its work over to its successor: commands of the control socket, and both ends.

The successor connects to the control socket and sends HandOver. The old daemon answers once it has
given up what only one process can have: polls, loads and unloads, the store, the control socket and
the listeners. Before that answer it sends boxes that are no commands: pages of the leases that it
still holds, of the GPU seconds that requesters have used, and of right keys (``proofs``). The
connection stays open. On it the old daemon asks for further leases and releases them, because from
now on only the successor decides over replicas. If the connection is lost, its leases count as
ended.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any, ClassVar, Final, NamedTuple

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import connectionDone
from twisted.protocols import amp
from twisted.python.failure import Failure

import cortexd.errors
from cortexd.access.requesters import ANYONE, Requester
from cortexd.access.verdicts import Proven
from cortexd.control.boxes import read_box
from cortexd.control.contract import LAST_PAGE, Refused, page
from cortexd.control.proofs import proven_pages, read_page
from cortexd.control.socket import peer_credentials
from cortexd.control.usage_reports import UsageReceiver, UsageSender
from cortexd.dispatcher import Dispatcher
from cortexd.errors import CortexError, Overloaded, internal_error
from cortexd.fleet.breaker import SAYS_NOTHING, Outcome
from cortexd.fleet.nodes import Lease
from cortexd.fleet.shares import Shares
from cortexd.logs import get_logger
from cortexd.scheduling.events import Grant, SharesAdopted
from cortexd.scheduling.hints import NO_HINTS, Hints
from cortexd.upstream.first_polls import FirstPolls

PAGE: Final = b"page"
"""The key of a page of leases, in the boxes before the answer to HandOver."""

USED: Final = b"used"
"""The key of a page of used GPU seconds in these boxes; earlier versions neither send nor read it.
"""

TOKENS: Final = b"tokens"
"""The key of the tokens in the answer to HandOver."""

LONGEST_NAME: Final = 400
"""Characters of a request's id in a lease: clients choose them."""

LONGEST_FAULT: Final = 1_000
"""Characters of a node's fault that go along with the end of a lease."""

RETRY_SECONDS: Final = 2.0

Arguments = list[tuple[bytes, amp.Argument]]

log = get_logger("cortexd.handover")


class HeldLease(msgspec.Struct, frozen=True):
    """A lease that the old daemon holds; ``number`` is the old daemon's own.

    ``gpu_seconds`` is what it has used so far.
    """

    number: int
    node: str
    model: str
    request_id: str
    base: str | None = None
    requester: Requester = ANYONE
    gpu_seconds: float = 0.0


class UsedSeconds(msgspec.Struct, frozen=True):
    """The GPU seconds that the requester of this name has used, decayed until the handover."""

    name: str
    seconds: float


class WantedLease(msgspec.Struct, frozen=True):
    """A lease that the old daemon needs; the arguments are those of ``Dispatcher.acquire``."""

    ticket: int
    request_id: str
    model: str
    tried: tuple[str, ...]
    only: tuple[str, ...]
    waited: float = 0.0
    requester: Requester = ANYONE
    hints: Hints = NO_HINTS


class Answer(msgspec.Struct, frozen=True):
    """The answer to a wanted lease: the lease, or the error of a rejection."""

    lease: HeldLease | None = None
    queued_seconds: float = 0.0
    load_seconds: float = 0.0
    decision: str = ""
    affinity: str = ""
    error: str = ""
    message: str = ""
    retry_after: float | None = None


class HandOver(amp.Command):
    """Take over from a daemon that is being restarted.

    ``introduced`` says that connections may be passed on behind a header. The answer has the
    ``tokens`` of these headers, in hexadecimal and joined by commas.
    """

    arguments: ClassVar[Arguments] = [(b"introduced", amp.Boolean(optional=True))]
    response: ClassVar[Arguments] = [(TOKENS, amp.Unicode(optional=True))]
    errors: ClassVar[dict[type[Exception], bytes]] = {Refused: b"REFUSED"}


class AcquireLease(amp.Command):
    """Ask the successor for a lease: WantedLease and Answer, as JSON."""

    arguments: ClassVar[Arguments] = [(b"wanted", amp.Unicode())]
    response: ClassVar[Arguments] = [(b"answer", amp.Unicode())]


class CancelLease(amp.Command):
    """Withdraw the request for a lease."""

    arguments: ClassVar[Arguments] = [(b"ticket", amp.Integer())]
    requiresAnswer = False  # noqa: N815 - Twisted calls it by this name


class ReleaseLease(amp.Command):
    """End a lease: ``number`` is that of HeldLease, and negative for one that was acquired.

    ``outcome`` is Outcome, as JSON.
    """

    arguments: ClassVar[Arguments] = [
        (b"number", amp.Integer()),
        (b"outcome", amp.Unicode()),
    ]
    requiresAnswer = False  # noqa: N815 - Twisted calls it by this name


def pages(
    leases: Sequence[Lease],
    shares: Shares | None = None,
    now: float = 0.0,
    proven: Proven | None = None,
) -> list[amp.AmpBox]:
    """Return as boxes the leases, what requesters have used by ``now``, and the right keys."""
    shares = shares or Shares()
    held = [
        HeldLease(
            lease.number,
            lease.node,
            lease.model,
            lease.request_id[:LONGEST_NAME],
            lease.base,
            lease.requester,
            shares.of_lease(lease, now),
        )
        for lease in leases
        if not lease.is_probe
    ]
    used = [UsedSeconds(name, seconds) for name, seconds in shares.all_used(now).items()]
    # Each box has a page of leases, for earlier versions look for no other key.
    boxes = [
        amp.AmpBox({PAGE: held_page, USED: used_page})
        for held_page, used_page in zip_longest(
            _encoded_pages(held), _encoded_pages(used), fillvalue=b"[]"
        )
    ]
    proofs = () if proven is None else proven_pages(proven)
    return boxes + [amp.AmpBox({PAGE: b"[]", **each}) for each in proofs]


def _encoded_pages(items: Sequence[HeldLease] | Sequence[UsedSeconds]) -> list[bytes]:
    encoded, offset = [], 0 if items else LAST_PAGE
    while offset != LAST_PAGE:
        found, offset = page(items, offset)
        encoded.append(msgspec.json.encode(found))
    return encoded


# ---------------------------------------------------------------------- the old daemon's end


class Successor(UsageSender):
    """The successor as the old daemon sees it: it grants leases over ``connection``.

    What is asked before ``open`` is sent then.
    """

    def __init__(self, connection: amp.AMP, nodes: Collection[str]) -> None:
        self._connection = connection
        self._nodes = frozenset(nodes)
        self._unsent: list[Callable[[], None]] | None = []
        self._tickets = 0
        self._is_lost = False

    def open(self) -> None:
        """Send what was asked meanwhile: the successor has answered to nothing before."""
        unsent, self._unsent = self._unsent, None
        for send in unsent or ():
            send()

    def lose(self) -> None:
        """Note that the successor is gone."""
        self._is_lost = True

    def acquire(
        self,
        model: str,
        request_id: str,
        tried: Collection[str],
        only: Collection[str] | None,
        waited: float,
        requester: Requester,
        hints: Hints = NO_HINTS,
    ) -> Deferred[Grant]:
        """Return a lease, as ``Dispatcher.acquire`` does; never on a node that we do not know."""
        self._tickets += 1
        ticket = self._tickets
        # The configuration of the successor may have nodes that this process has no client for.
        among = self._nodes if only is None else self._nodes & frozenset(only)
        name = request_id[:LONGEST_NAME]
        wanted = WantedLease(
            ticket, name, model, tuple(tried), tuple(among), waited, requester, hints
        )
        answered: Deferred[Grant] = Deferred(lambda _: self._tell(CancelLease, ticket=ticket))

        def send() -> None:
            if self._is_lost:
                _fail(answered, _lost())
                return
            encoded = msgspec.json.encode(wanted).decode()
            try:
                asked: Deferred[Any] = self._connection.callRemote(AcquireLease, wanted=encoded)
            except amp.TooLong:  # the names of thousands of nodes
                _fail(answered, _lost())
                return
            asked.addCallbacks(
                partial(self._answered, answered, request_id), lambda _: _fail(answered, _lost())
            )

        self._send(send)
        return answered

    def _answered(self, answered: Deferred[Grant], request_id: str, answer: Any) -> None:
        told = msgspec.json.decode(answer["answer"], type=Answer)
        if told.lease is None:
            _fail(answered, error_of(told))
            return
        held = told.lease
        lease = Lease(-held.number, held.node, held.model, request_id, 0.0, held.base)
        if answered.called:  # it was cancelled while the answer was on its way
            self.release(lease)
        else:
            queued, load = told.queued_seconds, told.load_seconds
            answered.callback(Grant(lease, queued, load, told.decision, affinity=told.affinity))

    def release(self, lease: Lease, outcome: Outcome = SAYS_NOTHING) -> None:
        """End a lease, granted before or after the handover."""
        told = replace(outcome, fault=outcome.fault[:LONGEST_FAULT])
        encoded = msgspec.json.encode(told).decode()
        self._tell(ReleaseLease, number=lease.number, outcome=encoded)

    def _tell(self, command: type[amp.Command], **arguments: int | str) -> None:
        def send() -> None:
            if not self._is_lost:
                self._connection.callRemote(command, **arguments)

        self._send(send)

    def _send(self, send: Callable[[], None]) -> None:
        if self._unsent is None:
            send()
        else:
            self._unsent.append(send)


def _lost() -> CortexError:
    return Overloaded("the gateway is restarting; try again shortly", retry_after=RETRY_SECONDS)


def _fail(answered: Deferred[Grant], error: CortexError) -> None:
    if not answered.called:
        answered.errback(error)


def error_of(told: Answer) -> CortexError:
    """Return the error that an answer describes; an unknown kind is Overloaded."""
    kind = getattr(cortexd.errors, told.error, None)
    if not (isinstance(kind, type) and issubclass(kind, CortexError)):
        kind = Overloaded
    try:
        error: CortexError = kind(told.message, retry_after=told.retry_after)
    except TypeError:  # an error with other arguments, which no scheduler raises
        error = Overloaded(told.message, retry_after=told.retry_after)
    return error


# ---------------------------------------------------------------------- the successor's end


class TakeoverError(Exception):
    """Raised when the old daemon has not handed over; the message says why, in one line."""


class Taken(NamedTuple):
    """The connection to the old daemon, its leases, GPU seconds by requester, tokens and keys."""

    connection: socket.socket
    held: Sequence[HeldLease]
    used: Mapping[str, float]
    tokens: tuple[bytes, ...]
    proven: Proven | None


def take_over(path: str, seconds: float) -> Taken | None:
    """Take over from the daemon that listens on the control socket ``path``.

    Returns ``None`` where no daemon listens, or where it is not being restarted. Blocks for at most
    ``seconds``; the old daemon serves meanwhile. Raises TakeoverError if it does not answer.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(seconds)
    try:
        connection.connect(path)
        asked = {b"introduced": amp.Boolean().toString(True)}
        box = amp.AmpBox({amp.ASK: b"1", amp.COMMAND: HandOver.commandName, **asked})
        connection.sendall(box.serialize())
        held: list[HeldLease] = []
        used: dict[str, float] = {}
        proven: Proven | None = None
        while PAGE in (box := read_box(connection)):
            held += msgspec.json.decode(box[PAGE], type=list[HeldLease])
            for each in msgspec.json.decode(box.get(USED, b"[]"), type=list[UsedSeconds]):
                used[each.name] = each.seconds
            proven = read_page(proven, box)
        stated = box.get(TOKENS, b"").decode("ascii")
        tokens = tuple(bytes.fromhex(token) for token in stated.split(",") if token)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError, PermissionError):
        connection.close()
        return None
    except (OSError, EOFError, ValueError, msgspec.DecodeError) as error:
        connection.close()
        raise TakeoverError(
            f"{path}: the old daemon, which is being restarted, has not handed over: "
            f"{error or type(error).__name__}"
        ) from None
    if amp.ANSWER not in box:
        log.info(
            "no_handover", reason=box.get(amp.ERROR_DESCRIPTION, b"").decode("utf-8", "replace")
        )
        connection.close()
        return None
    return Taken(connection, held, used, tokens, proven)


class Predecessor(UsageReceiver):
    """The old daemon as the successor sees it: it holds leases until it releases them or is gone.

    ``ended`` fires when it is gone.
    """

    def __init__(self, dispatcher: Dispatcher, first_polls: FirstPolls) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self._first_polls = first_polls
        self._leases: dict[int, Lease] = {}
        self._pending: dict[int, Deferred[dict[str, str]]] = {}
        self.ended: Deferred[None] = Deferred()

    def hold(self, held: Sequence[HeldLease], used: Mapping[str, float] | None = None) -> None:
        """Hold the leases of the old daemon, so that no replica that it uses is unloaded.

        ``used`` are the GPU seconds that requesters have used there, by their names.
        """
        if used:
            self._dispatcher.dispatch(SharesAdopted(used))
        for each in held:
            lease = self._dispatcher.adopt(
                each.node,
                each.model,
                each.base,
                each.request_id,
                each.requester,
                each.gpu_seconds,
            )
            if lease is not None:
                self._leases[each.number] = lease

    @property
    def leases(self) -> int:
        """How many leases the old daemon holds."""
        return len(self._leases)

    @AcquireLease.responder
    def acquire_lease(self, wanted: str) -> Deferred[dict[str, str]]:
        """Grant a lease, or reject the request, whose reason is part of the answer."""
        want = msgspec.json.decode(wanted, type=WantedLease)
        running = Deferred.fromCoroutine(self._acquired(want))
        if not running.called:
            self._pending[want.ticket] = running
        return running

    async def _acquired(self, want: WantedLease) -> dict[str, str]:
        try:
            await self._first_polls.known(want.model)
            grant = await self._dispatcher.acquire(
                want.model,
                want.request_id,
                want.tried,
                frozenset(want.only),
                want.waited,
                want.requester,
                want.hints,
            )
        except CancelledError:
            return _encoded(Answer(error="Overloaded", message="cancelled"))
        except CortexError as error:
            return _encoded(_rejection(error))
        except Exception:
            log.exception("acquire_crashed", model=want.model)
            return _encoded(_rejection(internal_error(want.request_id)))
        finally:
            self._pending.pop(want.ticket, None)
        lease = grant.lease
        if self.ended.called:
            self._dispatcher.release(lease)
            return _encoded(Answer())
        self._leases[-lease.number] = lease
        held = HeldLease(lease.number, lease.node, lease.model, "", lease.base)
        return _encoded(
            Answer(held, grant.queued_seconds, grant.load_seconds, grant.decision, grant.affinity)
        )

    @CancelLease.responder
    def cancel_lease(self, ticket: int) -> dict[str, Any]:
        """Leave the queue."""
        pending = self._pending.get(ticket)
        if pending is not None:
            pending.cancel()
        return {}

    @ReleaseLease.responder
    def release_lease(self, number: int, outcome: str) -> dict[str, Any]:
        """End a lease."""
        lease = self._leases.pop(number, None)
        if lease is not None:
            self._dispatcher.release(lease, msgspec.json.decode(outcome, type=Outcome))
        return {}

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End what the old daemon holds: it has ended, in whatever way."""
        super().connectionLost(Failure(ConnectionLost()))
        if self.ended.called:
            return
        for pending in list(self._pending.values()):
            pending.cancel()
        leases, self._leases = self._leases, {}
        if leases:
            log.warning("predecessor_lost", leases=len(leases))
        else:
            log.info("predecessor_ended")
        self.ended.callback(None)
        for lease in leases.values():
            self._dispatcher.release(lease)


def _rejection(error: CortexError) -> Answer:
    return Answer(
        error=type(error).__name__, message=error.message[:4000], retry_after=error.retry_after
    )


def _encoded(answer: Answer) -> dict[str, str]:
    return {"answer": msgspec.json.encode(answer).decode()}


def is_ours(connection: socket.socket, uid: int) -> bool:
    """Return whether the process at the other end runs as user ``uid``."""
    return peer_credentials(connection).uid == uid
