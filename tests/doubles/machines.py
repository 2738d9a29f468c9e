"""A machine that sleeps: its node answers nothing meanwhile and closes nothing.

It is stricter than the world: only a datagram that is a magic packet from its first byte to its
last, for this very card, and sent as a broadcast, wakes it.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.python.failure import Failure

HARDWARE_ADDRESS: Final = "00:1b:21:3a:4f:5e"
CARD: Final = bytes((0x00, 0x1B, 0x21, 0x3A, 0x4F, 0x5E))
SUSPEND: Final = ("suspend-it", "a")


class Sender:
    """A datagram port of the gateway."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._may_broadcast = False
        self._is_open = True

    def setBroadcastAllowed(self, enabled: bool) -> None:
        """Allow datagrams to everybody."""
        self._may_broadcast = enabled

    def write(self, datagram: bytes, address: tuple[str, int]) -> None:
        """Send a datagram."""
        assert self._may_broadcast
        assert self._is_open
        self._machine.receive(datagram, address)

    def stopListening(self) -> None:
        """Close."""
        self._is_open = False
        self._machine.open_senders -= 1


class Machine:
    """The machine of a simulated ``node``: it sleeps by SUSPEND, and wakes by its packet.

    ``wake_seconds`` is how long it takes until it answers again. ``suspend_fails`` is what the
    command writes before it fails. ``packets`` has the times at which it was sent one.
    """

    def __init__(self, node: Any, network: Any) -> None:
        self.is_asleep = False
        self.wake_seconds = 20.0
        self.suspend_fails = ""
        self.is_deaf = False
        self.suspended = 0
        self.open_senders = 0
        self.packets: list[float] = []
        self._node = node
        self._network = network
        network.listenUDP = self.listenUDP
        network.spawnProcess = self.spawnProcess

    def listenUDP(self, port: int, protocol: Any) -> Sender:
        """Open a port, as a reactor does."""
        self.open_senders += 1
        return Sender(self)

    def spawnProcess(self, protocol: Any, program: str, args: Any, env: Any = None) -> Any:
        """Run the command that lets it sleep, as a reactor does."""
        assert args == list(SUSPEND)
        assert program == SUSPEND[0]
        if self.suspend_fails:
            protocol.childDataReceived(2, self.suspend_fails.encode())
            protocol.processEnded(Failure(ProcessTerminated(1)))
            return
        self.sleep()
        protocol.processEnded(Failure(ProcessDone(0)))

    def sleep(self) -> None:
        """Fall asleep."""
        assert not self._node.open_streams, "it sleeps under a request"
        self.suspended += 1
        self.is_asleep = self._node.faults.hang = True

    def receive(self, datagram: bytes, address: tuple[str, int]) -> None:
        """Wake up by a magic packet for this machine's card."""
        assert address == ("255.255.255.255", 9)
        self.packets.append(self._network.seconds())
        if datagram == b"\xff" * 6 + CARD * 16 and self.is_asleep and not self.is_deaf:
            self.is_asleep = False
            self._network.callLater(self.wake_seconds, self.wake)

    def wake(self) -> None:
        """Answer again."""
        self.is_asleep = self._node.faults.hang = False
