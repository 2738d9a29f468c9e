"""What lets the machines of nodes sleep, and what wakes them: pure.

A magic packet (AMD, publication 20213) is six bytes FF and sixteen times the hardware address of
the network card that it wakes, anywhere in a frame. It goes out as a datagram to everybody in the
network, because a machine that sleeps has no address of the Internet protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SYNCHRONIZATION: Final = b"\xff" * 6
REPETITIONS: Final = 16


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine of a node: it is woken by ``packet``, sent to ``address``.

    ``suspend`` is the gateway's own command that lets it sleep, empty if its agent has one.
    ``wake_seconds`` is how long it may take to answer after it was woken.
    """

    packet: bytes
    address: tuple[str, int]
    suspend: tuple[str, ...]
    wake_seconds: float


def magic_packet(hardware_address: str) -> bytes:
    """Return the packet that wakes the network card of a hardware address such as 00:1b:21:..."""
    card = bytes.fromhex(hardware_address.replace(":", "").replace("-", ""))
    return SYNCHRONIZATION + card * REPETITIONS


def machine(
    hardware_address: str, broadcast: str, suspend: tuple[str, ...], wake_seconds: float
) -> Machine:
    """Return the machine that a configuration describes; ``broadcast`` is ADDRESS:PORT."""
    host, _, port = broadcast.rpartition(":")
    return Machine(magic_packet(hardware_address), (host, int(port)), suspend, wake_seconds)
