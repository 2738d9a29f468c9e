"""The commands of the control socket that enrol agents and revoke them.

They belong to the contract of ``cortexd.control.contract``, which has the others.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec
from twisted.protocols import amp

from cortexd.control.contract import ControlCommand, Count, Json


class EnrolmentSummary(msgspec.Struct, kw_only=True, frozen=True):
    """What admits the agent of a node: ``kind`` is "certificate" or "token", ``None`` for nothing.

    Times are in unix seconds. ``revoked`` is when the node was last revoked. The certificate of
    another authority is not in our list, but ``expires`` is known once it has admitted an agent.
    ``is_configured``: the configuration has the node.
    """

    node: str
    kind: str | None
    created: float | None
    expires: float | None
    revoked: float | None
    connected: bool
    is_configured: bool


class EnrolAgent(ControlCommand):
    """Enrol the agent of a node for ``days``, which replaces an enrolment before.

    ``enrolment`` is the file that the agent needs, with its key or (``by_token``) its token; no
    other answer has it. ``gateway`` is the HOST:PORT at which the agent connects. Raises
    UnknownNode, or Refused if the node cannot be enrolled so.
    """

    arguments: ClassVar = [
        (b"node", amp.Unicode()),
        (b"by_token", amp.Boolean(optional=True)),
        (b"days", Count(optional=True)),
        (b"gateway", amp.Unicode(optional=True)),
    ]
    response: ClassVar = [(b"enrolment", amp.Unicode()), (b"agent", Json(EnrolmentSummary))]


class ListEnrolments(ControlCommand):
    """All nodes with an enrolment, a revocation or an agent, sorted; nothing secret of them."""

    arguments: ClassVar = [(b"offset", Count())]
    response: ClassVar = [(b"items", Json(list[EnrolmentSummary])), (b"next", amp.Integer())]


class RevokeAgent(ControlCommand):
    """End what admits the agent of a node, and its link.

    Certificates from before, of whatever authority, and tokens admit it no more. Raises UnknownNode
    for a name that neither the configuration nor an enrolment has.
    """

    arguments: ClassVar = [(b"node", amp.Unicode())]
    response: ClassVar = [(b"was_connected", amp.Boolean())]
