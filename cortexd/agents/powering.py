"""Lets the machines of nodes sleep, and wakes them, as the scheduler orders it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferTimeoutError
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import deferLater

from cortexd.agents.commands import CommandFailed, run
from cortexd.agents.machines import Machine
from cortexd.fleet.sleep.power import PowerState
from cortexd.fleet.states import NodeRemoved
from cortexd.link.connected import AgentFailed, AgentGone, Agents
from cortexd.logs import get_logger
from cortexd.scheduling.events import Effect
from cortexd.scheduling.powering.events import (
    PowerChanged,
    StartSuspend,
    StartWake,
    SuspendDone,
    SuspendFailed,
    WakeFailed,
)

SUSPEND_SECONDS: Final = 60.0
"""How long a command that lets a machine sleep may take."""

POLL_SECONDS: Final = 1.0
"""How often a node that is woken is polled."""

POLLS_PER_PACKET: Final = 3
"""After how many of these polls the packet goes out again, for it may be lost."""

log = get_logger("cortexd.power")

End = SuspendDone | SuspendFailed | WakeFailed
"""How an order has ended."""


class Powering(Service):
    """Carries out the orders for ``machines``, by the names of their nodes; a reload replaces them.

    ``dispatch`` gets the end of each order, unless its node has left or this service has stopped.
    ``poll`` polls a node at once. ``boot_id`` is as for ``Repairing``.
    """

    def __init__(
        self,
        dispatch: Callable[[End], None],
        agents: Agents,
        reactor: Any,
        boot_id: str,
        poll: Callable[[str], None],
        machines: Mapping[str, Machine],
    ) -> None:
        self.machines = machines
        self._dispatch = dispatch
        self._agents = agents
        self._reactor = reactor
        self._boot_id = boot_id
        self._poll = poll
        self._courses: dict[str, Deferred[None]] = {}

    def stopService(self) -> None:
        """Give up what is under way."""
        super().stopService()
        for node in list(self._courses):
            self._forget(node)

    def carry_out(self, effect: Effect) -> None:
        """Begin an order, and end those of a node that is awake or leaves."""
        match effect:
            case StartSuspend() | StartWake() if self.running:
                self._begin(effect)
            case PowerChanged(node, after=PowerState.AWAKE) | NodeRemoved(node):
                self._forget(node)

    def _begin(self, order: StartSuspend | StartWake) -> None:
        self._forget(order.node)
        course = Deferred.fromCoroutine(self._carry_out(order))
        if not course.called:
            self._courses[order.node] = course
        course.addErrback(lambda failure: log.error("power_crashed", failure=failure))

    def _forget(self, node: str) -> None:
        course = self._courses.pop(node, None)
        if course is not None:
            course.cancel()

    async def _carry_out(self, order: StartSuspend | StartWake) -> None:
        node, number = order.node, order.number
        failed = SuspendFailed if isinstance(order, StartSuspend) else WakeFailed
        try:
            if isinstance(order, StartSuspend):
                await self._suspend(order)
                end: End = SuspendDone(node, number)
            else:
                end = WakeFailed(node, number, await self._wake(node))
        except CancelledError:
            return
        except (AgentFailed, AgentGone, CommandFailed) as error:
            end = failed(node, number, str(error))
        except Exception:
            log.exception("power_crashed", node=node, number=number)
            end = failed(node, number, "internal error; see the log")
        self._courses.pop(node, None)
        self._dispatch(end)

    async def _suspend(self, order: StartSuspend) -> None:
        machine = self.machines.get(order.node)
        if machine is not None and machine.suspend:
            await run(self._reactor, machine.suspend, SUSPEND_SECONDS)
            return
        agent = self._agents.on(order.node)
        if agent is None:
            raise AgentFailed("its agent is not connected any more")
        answer = agent.suspend(f"{self._boot_id}-{order.number}", SUSPEND_SECONDS)
        answer.addTimeout(SUSPEND_SECONDS, self._reactor)
        try:
            await answer
        except DeferTimeoutError:
            words = f"its agent has not answered within {SUSPEND_SECONDS:g} s"
            raise AgentFailed(words) from None

    async def _wake(self, node: str) -> str:
        """Send packets and poll until this is cancelled, or return why the node is given up."""
        machine = self.machines.get(node)
        if machine is None:
            return "its [[nodes]] has no power any more"
        began_at, polls, trouble = self._reactor.seconds(), 0, ""
        while self._reactor.seconds() - began_at < machine.wake_seconds:
            if polls % POLLS_PER_PACKET == 0:
                trouble = await self._send(node, machine)
            self._poll(node)
            polls += 1
            await deferLater(self._reactor, POLL_SECONDS)
        words = f"it does not answer {machine.wake_seconds:g} s after it was woken"
        return f"{words}; {trouble}" if trouble else words

    async def _send(self, node: str, machine: Machine) -> str:
        """Send the packet that wakes a machine; return why it cannot be sent, empty if it can."""
        host, port = machine.address
        try:
            sender = self._reactor.listenUDP(0, DatagramProtocol())
            try:
                sender.setBroadcastAllowed(True)
                sender.write(machine.packet, machine.address)
            finally:
                await maybeDeferred(sender.stopListening)
        except (CannotListenError, OSError) as error:
            log.warning("wake_unsent", node=node, address=f"{host}:{port}", reason=str(error))
            return f"the packet that wakes it cannot be sent to {host}:{port}: {error}"
        return ""
