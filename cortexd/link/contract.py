"""The commands of the link between an agent and the gateway.

The protocol is AMP (https://amp-protocol.net) over TLS; the agent connects. It greets first, and
the gateway answers before anything else. Values have at most 65,535 bytes; reports and abilities
are JSON, whose readers ignore fields that they do not know.

Two versions are compatible if their PROTOCOL is the same. Within one PROTOCOL, values may gain
fields, commands optional arguments, and new commands may be added: a side that does not know a
command answers with AMP's UNHANDLED, which its peer takes for "not possible with this version".
Any other change raises the number, which the gateway answers with ``Incompatible``. ``Hello`` never
changes its name, or the names of its fields.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import msgspec
from twisted.protocols import amp

from cortexd.fleet.agents import AgentAbilities, AgentReport

PROTOCOL: Final = 1
"""The number of this contract."""

BEAT_SECONDS: Final = 10.0
"""Seconds of silence after which either side sends a ``Beat``."""

DEAD_SECONDS: Final = 25.0
"""Seconds without a byte from the other side after which a link counts as dead."""

REPORT_SECONDS: Final = 1.0
"""Seconds after a change within which an agent reports it."""

MAX_LOG_LINES: Final = 1000
"""The largest number of lines that one command asks for."""


class NotAdmitted(Exception):
    """Raised when a peer may not speak for the node that it names; the message says why."""


class Incompatible(Exception):
    """Raised when a peer speaks another PROTOCOL; the message names both versions."""


class Failed(Exception):
    """Raised when a command could not be carried out; the message says why."""


class Packed(amp.Argument):
    """A value of ``type_`` as JSON, by msgspec.

    Decoding raises msgspec.DecodeError if the value is not of the type.
    """

    def __init__(self, type_: Any, optional: bool = False) -> None:
        super().__init__(optional)
        self._decoder = msgspec.json.Decoder(type_)

    def toString(self, value: Any) -> bytes:  # noqa: N802 - AMP's name
        """Return the JSON of a value."""
        return msgspec.json.encode(value)

    def fromString(self, text: bytes) -> Any:  # noqa: N802 - AMP's name
        """Return the value of a JSON text."""
        return self._decoder.decode(text)


# From the agent to the gateway.


class Hello(amp.Command):
    """The agent names its node, and what it can do; the first command of a link.

    The answer's ``nonce`` is empty if the agent's certificate, or a link within one machine, admits
    it already. Otherwise only ``Prove`` may follow.
    """

    arguments: ClassVar[list[tuple[bytes, amp.Argument]]] = [
        (b"protocol", amp.Integer()),
        (b"version", amp.Unicode()),
        (b"node", amp.Unicode()),
        (b"abilities", Packed(AgentAbilities)),
    ]
    response: ClassVar[list[tuple[bytes, amp.Argument]]] = [
        (b"protocol", amp.Integer()),
        (b"version", amp.Unicode()),
        (b"nonce", amp.String()),
    ]
    errors: ClassVar[dict[type[Exception], bytes]] = {
        NotAdmitted: b"NOT_ADMITTED",
        Incompatible: b"INCOMPATIBLE",
    }


class Prove(amp.Command):
    """The agent proves that it has the node's token, for the nonce of this link."""

    arguments: ClassVar[list[tuple[bytes, amp.Argument]]] = [(b"proof", amp.String())]
    response: ClassVar[list[tuple[bytes, amp.Argument]]] = []
    errors: ClassVar[dict[type[Exception], bytes]] = {NotAdmitted: b"NOT_ADMITTED"}


class Report(amp.Command):
    """The agent reports what it sees: after its greeting, and within a second of a change."""

    arguments: ClassVar[list[tuple[bytes, amp.Argument]]] = [(b"report", Packed(AgentReport))]
    response: ClassVar[list[tuple[bytes, amp.Argument]]] = []


class LogLines(amp.Command):
    """The agent sends lines of the engine's log, for the ``stream`` that the gateway has begun."""

    arguments: ClassVar[list[tuple[bytes, amp.Argument]]] = [
        (b"stream", amp.Integer()),
        (b"lines", Packed(list[str])),
    ]
    response: ClassVar[list[tuple[bytes, amp.Argument]]] = []


# From either side to the other.


class Beat(amp.Command):
    """A sign of life."""

    arguments: ClassVar[list[tuple[bytes, amp.Argument]]] = []
    response: ClassVar[list[tuple[bytes, amp.Argument]]] = []


# From the gateway to the agent.


class ReadMemory(amp.Command):
    """The agent looks at once, and answers what it sees."""

    arguments: ClassVar[list[tuple[bytes, amp.Argument]]] = []
    response: ClassVar[list[tuple[bytes, amp.Argument]]] = [(b"report", Packed(AgentReport))]
    errors: ClassVar[dict[type[Exception], bytes]] = {Failed: b"FAILED"}


class RestartEngine(amp.Command):
    """The agent restarts the engine, and answers once the engine's health is well again.

    The same ``order`` sent twice is one restart: the second answer is that of the first. A restart
    fails after ``limit`` seconds.
    """

    arguments: ClassVar[list[tuple[bytes, amp.Argument]]] = [
        (b"order", amp.Unicode()),
        (b"reason", amp.Unicode()),
        (b"limit", amp.Float()),
    ]
    response: ClassVar[list[tuple[bytes, amp.Argument]]] = [(b"seconds", amp.Float())]
    errors: ClassVar[dict[type[Exception], bytes]] = {Failed: b"FAILED"}


class SuspendMachine(amp.Command):
    """The agent runs its own suspend command, and answers before the machine sleeps."""

    arguments: ClassVar[list[tuple[bytes, amp.Argument]]] = [(b"order", amp.Unicode())]
    response: ClassVar[list[tuple[bytes, amp.Argument]]] = []
    errors: ClassVar[dict[type[Exception], bytes]] = {Failed: b"FAILED"}


class TailLog(amp.Command):
    """The agent answers the last ``lines`` lines of the engine's log, cut to fit one answer.

    With ``follow`` it sends further lines by LogLines until EndLog, or until the link ends.
    """

    arguments: ClassVar[list[tuple[bytes, amp.Argument]]] = [
        (b"stream", amp.Integer()),
        (b"lines", amp.Integer()),
        (b"follow", amp.Boolean()),
    ]
    response: ClassVar[list[tuple[bytes, amp.Argument]]] = [(b"lines", Packed(list[str]))]
    errors: ClassVar[dict[type[Exception], bytes]] = {Failed: b"FAILED"}


class EndLog(amp.Command):
    """The agent sends no more lines for a stream; an unknown stream is no error."""

    arguments: ClassVar[list[tuple[bytes, amp.Argument]]] = [(b"stream", amp.Integer())]
    response: ClassVar[list[tuple[bytes, amp.Argument]]] = []
