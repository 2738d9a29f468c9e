"""The change from one process of the daemon to the next, both sides.

At a restart, the guard (``cortexd.service.guard``) sends the old process SIGUSR2 and ends, so that
systemd starts the new one at once. The old process serves on. The new one finds it at the control
socket, after it has read its configuration, and takes over (``cortexd.control.handover``). Then the
old one ends its streams and stops.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import FrameType
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import clientFromString, quoteStringArgument
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.internet.utils import getProcessOutput

from cortexd.control.contract import Refused
from cortexd.control.handover import (
    HeldLease,
    Predecessor,
    Successor,
    TakeoverError,
    is_ours,
    pages,
    take_over,
)
from cortexd.control.server import ControlProtocol
from cortexd.downstream.passing_on import PassingOn
from cortexd.logs import get_logger
from cortexd.parts import Parts
from cortexd.service.guard import HAND_OVER, systemctl_command
from cortexd.service.relistening import Listener
from cortexd.service.systemd import Notifier

TAKEOVER_SECONDS: Final = 20.0
"""How long the old process may take to hand over: it waits for unloads at nodes first."""

UNLOAD_SECONDS: Final = 10.0
"""How long the old process waits for unloads at nodes before it refuses to hand over yet."""

LOOK_SECONDS: Final = 5.0
"""Seconds between two questions to systemd whether the unit was stopped meanwhile."""

TOKEN_BYTES: Final = 32

log = get_logger("cortexd.succession")


class Accession(Service):
    """Takes over from the process at the control socket ``path``, before anything else starts.

    ``predecessor`` is that process, while it holds leases of ours.
    """

    predecessor: Predecessor | None = None

    def __init__(self, path: str, parts: Parts, reactor: Any) -> None:
        self._path = path
        self._parts = parts
        self._reactor = reactor
        self._connection: socket.socket | None = None
        self._held: Sequence[HeldLease] = ()
        self._used: Mapping[str, float] = {}

    def privilegedStartService(self) -> None:
        """Take over. Raises TakeoverError; the old process then serves on."""
        super().privilegedStartService()
        taken = take_over(self._path, TAKEOVER_SECONDS)
        if taken is None:
            return
        connection, self._held, self._used, tokens, proven = taken
        if not is_ours(connection, os.geteuid()):
            connection.close()
            raise TakeoverError(f"{self._path}: the old daemon runs as another user")
        self._connection = connection
        self._parts.site.tokens = tokens
        if proven is not None:
            self._parts.gate.adopt(proven)

    def startService(self) -> None:
        """Hold the leases of the old process, and listen to it from now on."""
        super().startService()
        connection, self._connection = self._connection, None
        if connection is None:
            return
        parts = self._parts
        self.predecessor = predecessor = Predecessor(parts.dispatcher, parts.first_polls)
        predecessor.hold(self._held, self._used)
        predecessor.meters = parts.meters
        predecessor.ended.addCallback(lambda _: parts.meters.lose_predecessor())
        predecessor.ended.addCallback(self._forget_tokens)
        connection.setblocking(False)
        self._reactor.adoptStreamConnection(
            connection.fileno(), socket.AF_UNIX, Factory.forProtocol(lambda: predecessor)
        )
        connection.close()  # the reactor has a copy
        log.info("took_over", leases=predecessor.leases)

    def _forget_tokens(self, ended: None) -> None:
        self._parts.site.tokens = ()

    async def ended(self) -> None:
        """Return when the old process has ended: it reaches our successor only through us."""
        if self.predecessor is not None and not self.predecessor.ended.called:
            waiting: Deferred[None] = Deferred()
            self.predecessor.ended.addCallback(lambda _: waiting.callback(None))
            await waiting


class Retirement(Service):
    """Hands over to a successor after SIGUSR2, and then stops the reactor.

    ``listeners`` and ``control`` are what only one process can have; clients connect to the first
    of the listeners. ``unit`` is the
    name of our unit, and empty without one: then we ask nobody whether it was stopped.
    """

    is_over = False

    def __init__(
        self,
        parts: Parts,
        listeners: Sequence[Listener],
        control: Any,
        notifier: Notifier,
        reactor: Any,
        reloader: Service,
        unit: str,
    ) -> None:
        self._parts = parts
        self._listeners = listeners
        self._control = control
        self._notifier = notifier
        self._reactor = reactor
        self._reloader = reloader
        self._unit = unit
        self._began_at = 0.0
        self._passing_on: PassingOn | None = None
        self._looks = LoopingCall(self._look)
        self._looks.clock = reactor

    def startService(self) -> None:
        """Wait for SIGUSR2."""
        super().startService()
        self._reactor.callWhenRunning(signal.signal, HAND_OVER, self._caught)

    def stopService(self) -> None:
        """Stop to ask systemd."""
        super().stopService()
        if self._looks.running:
            self._looks.stop()

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self.begin)

    def begin(self) -> None:
        """Serve on until a successor takes over."""
        control = self._parts.control_factory
        if not self.running or control.on_hand_over is not None:
            return
        # systemd takes every message of the unit for one of its new main process.
        self._notifier.mute()
        control.on_hand_over = self._hand_over
        log.info("restart_awaits_successor", advice="if it does not start, see its error above")
        if self._unit:
            self._looks.start(LOOK_SECONDS, now=False).addErrback(_looks_ended)

    async def _look(self) -> None:
        """Stop if systemd has stopped the unit: then no successor will come."""
        with open("/proc/self/cgroup", encoding="utf-8") as file:  # noqa: PTH123 - as the guard
            command = systemctl_command(self._unit, file.read())
        if command is None:
            return
        program, *options = command
        asking = getProcessOutput(
            program,
            [*options, "show", "--property=ActiveState,Job", self._unit],
            env=os.environ,
            reactor=self._reactor,
        )
        try:
            shown = (await asking).decode("utf-8", "replace").split()
        except OSError as error:
            log.debug("unit_not_shown", reason=str(error))
            return
        if self.running and not self.is_over and is_stopped(shown):
            log.info("stopping", reason=f"{self._unit} was stopped")
            self._reactor.stop()

    def _hand_over(
        self, connection: ControlProtocol, is_introduced: bool
    ) -> Deferred[dict[str, Any]]:
        return Deferred.fromCoroutine(self._handed_over(connection, is_introduced))

    async def _handed_over(
        self, connection: ControlProtocol, is_introduced: bool
    ) -> dict[str, Any]:
        parts = self._parts
        parts.control_factory.on_hand_over = None
        if not await parts.lifecycle.close(UNLOAD_SECONDS):
            parts.control_factory.on_hand_over = self._hand_over
            raise Refused("a node has not ended an unload yet; try again")
        if connection.transport is None:  # lost meanwhile: another successor may come
            parts.lifecycle.reopen()
            parts.control_factory.on_hand_over = self._hand_over
            raise Refused("the successor has gone")
        # From here on no other turn of the reactor sees this process decide anything.
        successor = Successor(connection, parts.clients)
        connection.keep_open(successor.lose)
        leases = parts.fleet.leases
        parts.dispatcher.hand_over(successor)
        if self._reloader.running:
            self._reloader.stopService()
        parts.prober.stopService()
        parts.poller.stopService()
        parts.keeper.stopService()
        parts.usage_keeper.stopService()
        parts.meters.hand_over(successor.report)
        parts.enroller.stopService()
        parts.recorder.stopService()
        token = secrets.token_bytes(TOKEN_BYTES) if is_introduced else b""
        endpoint = own_address(self._listeners[0], self._reactor)
        for service in (*(each.service for each in self._listeners), self._control):
            await maybeDeferred(service.stopService)
        parts.agent_site.stop("another process of the gateway has taken over")
        if endpoint is not None:
            where = self._listeners[0].where
            is_tls = where is not None and where.is_tls
            self._passing_on = PassingOn(endpoint, token, is_tls=is_tls)
            parts.site.pass_on(self._passing_on)
        self.is_over = True
        self._began_at = self._reactor.seconds()
        log.info("handed_over", leases=len(leases), requests=parts.answers.in_flight)
        # First of all, for this process must end even if the boxes cannot be sent any more.
        self._reactor.callLater(0, self._answered, successor)
        shares, now = parts.dispatcher.scheduler.shares, self._reactor.seconds()
        for box in pages(leases, shares, now, parts.gate.proven()):
            connection.sendBox(box)
        # The process before this one still passes on with the token that we know.
        tokens = (token, *parts.site.tokens) if is_introduced else ()
        return {"tokens": ",".join(each.hex() for each in tokens) or None}

    def _answered(self, successor: Successor) -> None:
        successor.open()
        self._reactor.stop()

    async def drain(self, grace: float, predecessor_ended: Callable[[], Awaitable[None]]) -> None:
        """Wait for what else is left after a handover, for ``grace`` seconds since then at most.

        These are connections whose requests are passed on, and the process before this one. Log
        what was left, because no metrics of it are read any more.
        """
        if not self.is_over:
            return
        left = max(0.0, self._began_at + grace - self._reactor.seconds())
        waits: list[Deferred[None]] = [Deferred.fromCoroutine(_all_of(predecessor_ended))]
        if self._passing_on is not None:
            waits.append(self._passing_on.wait())
        waiting = gatherResults(waits, consumeErrors=True).addTimeout(left, self._reactor)
        try:
            await waiting
        except Exception:  # the time is over, or a part of it has failed
            log.warning("handover_cut", connections=self._passing_on and self._passing_on.open)
        log.info("handover_ended", seconds=round(self._reactor.seconds() - self._began_at, 3))


def is_stopped(shown: Sequence[str]) -> bool:
    """Return whether ``systemctl show`` shows a unit that is stopped and will not start again."""
    jobs = [line for line in shown if line.startswith("Job=")]
    return "ActiveState=inactive" in shown and all(job in ("Job=", "Job=0") for job in jobs)


def own_address(listener: Listener, reactor: Any) -> IStreamClientEndpoint | None:
    """Return the address at which a process of this machine reaches a listener.

    ``None`` for a listener that does not listen, or whose endpoint of Twisted's own expects more
    than PassingOn sends. Connections of such a listener stay with this process.
    """
    port, where = listener.service.port, listener.where
    if port is None or where is None or not where.is_reached_by_us:
        return None
    address: Any = port.getHost()
    if hasattr(address, "host"):
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104
        description = f"tcp:host={quoteStringArgument(host)}:port={address.port}"
    else:
        description = f"unix:path={quoteStringArgument(os.fsdecode(address.name))}"
    endpoint: IStreamClientEndpoint = clientFromString(reactor, description)
    return endpoint


def _looks_ended(failure: object) -> None:
    log.error("unit_not_watched", failure=failure)


async def _all_of(ended: Callable[[], Awaitable[None]]) -> None:
    await ended()
