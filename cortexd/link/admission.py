"""Which agent may speak for which node: pure.

An agent is admitted by a certificate, or by the proof that it has its node's token. A certificate
of our own authority holds while it is the one that its node was enrolled with. One of another
authority holds while its node has not been revoked since. Times are in unix seconds.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from cortexd.config.expiry import moment

URN: Final = "urn:cortexd:agent:"
"""How the URI begins by which a certificate names the node of its agent."""

DAMAGED: Final = (
    "the gateway cannot read its enrolments, and admits no agent until they are mended: its log "
    "and 'cortexctl status' say where"
)

_is_name: Final = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch


class Kind(enum.Enum):
    """What an enrolled agent proves itself with."""

    CERTIFICATE = "certificate"
    TOKEN = "token"  # noqa: S105 - a kind, not a secret


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """A certificate whose authority, signature and purpose have been checked.

    ``names`` are the nodes that it may speak for. ``is_ours``: our own authority has signed it.
    """

    names: frozenset[str]
    serial: int
    not_before: float
    not_after: float
    is_ours: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What admits the agent of ``node``: the certificate with ``serial``, or a token's ``key``."""

    node: str
    kind: Kind
    created: float
    expires: float
    serial: int = 0
    key: bytes = field(default=b"", repr=False)


class Enrolments:
    """The enrolments of this moment, one for a node, and when nodes were revoked.

    With a ``fault``, nobody is admitted: the file of the enrolments cannot be read, and it may have
    a revocation that we do not know.
    """

    def __init__(
        self, enrolments: Iterable[Enrolment] = (), revoked: Mapping[str, float] | None = None
    ) -> None:
        self.fault: str | None = None
        self._by_node: Mapping[str, Enrolment] = {}
        self._revoked: Mapping[str, float] = {}
        self._seen: dict[str, float] = {}
        self.take(enrolments, revoked or {})

    @property
    def by_node(self) -> Mapping[str, Enrolment]:
        """The enrolments by their nodes."""
        return MappingProxyType(self._by_node)

    @property
    def revoked(self) -> Mapping[str, float]:
        """When nodes were last revoked: an enrolment or a certificate from before does not hold."""
        return MappingProxyType(self._revoked)

    @property
    def expiries(self) -> Mapping[str, float]:
        """When the agents of nodes are not admitted any more, as far as we know.

        A certificate of another authority is known once it has admitted an agent.
        """
        return self._seen | {node: each.expires for node, each in self._by_node.items()}

    def take(self, enrolments: Iterable[Enrolment], revoked: Mapping[str, float]) -> None:
        """Replace all enrolments and revocations; a fault is over."""
        self._by_node = {each.node: each for each in enrolments}
        self._seen = {
            node: until
            for node, until in self._seen.items()
            if revoked.get(node) == self._revoked.get(node)
        }
        self._revoked = dict(revoked)
        self.fault = None

    def fail(self, fault: str) -> None:
        """Admit nobody until ``take``, because of a fault in words for the operator."""
        self.fault = fault

    def check_certificate(self, node: str, certificate: PeerCertificate, now: float) -> str | None:
        """Return why a certificate does not admit the agent of a node, ``None`` if it does."""
        if self.fault is not None:
            return DAMAGED
        if node not in certificate.names:
            return f"the certificate is not for node {_shown(node)}: {_names(certificate.names)}"
        if now < certificate.not_before:
            return (
                f"the certificate is not valid before {moment(certificate.not_before)}: check the "
                "clocks of both machines"
            )
        if now >= certificate.not_after:
            return f"the certificate has expired on {moment(certificate.not_after)}: {_again(node)}"
        if certificate.not_before <= self._revoked.get(node, -1.0):
            advice = "its authority must make a new one, whose validity begins later"
            return (
                f"node {node} was revoked on {moment(self._revoked[node])}, and the certificate is "
                f"from before that: {_again(node) if certificate.is_ours else advice}"
            )
        if certificate.is_ours:
            return self._lack_of_ours(node, certificate, now)
        self._seen[node] = certificate.not_after
        return None

    def _lack_of_ours(self, node: str, certificate: PeerCertificate, now: float) -> str | None:
        enrolment = self._valid(node, Kind.CERTIFICATE, now)
        if enrolment is None:
            return f"node {node} has no enrolment with a certificate that holds: {_again(node)}"
        if enrolment.serial != certificate.serial:
            return f"a newer enrolment of node {node} has replaced the certificate: use that one"
        return None

    def token_key(self, node: str, now: float) -> bytes | None:
        """Return the key of a node's token, ``None`` if no token admits its agent."""
        enrolment = self._valid(node, Kind.TOKEN, now)
        return enrolment.key if enrolment is not None and enrolment.key else None

    def _valid(self, node: str, kind: Kind, now: float) -> Enrolment | None:
        """Return the enrolment of a node if it is of this kind and holds."""
        found = self._by_node.get(node)
        if self.fault is not None or found is None or found.kind is not kind:
            return None
        is_revoked = found.created <= self._revoked.get(node, -1.0)
        return None if is_revoked or now >= found.expires else found


def urn(node: str) -> str:
    """Return the URI by which a certificate of ours names a node."""
    return f"{URN}{node}"


def names_in(
    uris: Iterable[str], dns_names: Iterable[str], common_names: Iterable[str], *, is_ours: bool
) -> frozenset[str]:
    """Return the nodes that a certificate may speak for, by the names in it.

    The URI of our kind decides alone; two of them are none. One of our own authority needs it.
    Without it, all DNS names and common names count, as they are written: a wildcard is no name.
    """
    ours = [uri for uri in uris if uri.lower().startswith(URN)]
    if ours or is_ours:
        found = [uri.removeprefix(URN) for uri in ours if uri.startswith(URN)]
        return frozenset(filter(_is_name, found)) if len(ours) == 1 else frozenset()
    return frozenset(filter(_is_name, (*dns_names, *common_names)))


def _again(node: str) -> str:
    return f"'cortexctl agent enroll {node}' on the gateway makes a new one"


def _names(names: frozenset[str]) -> str:
    """Return a certificate's names in words, at most three of them."""
    if not names:
        return "it names no node"
    shown = sorted(names)
    return f"it names {', '.join(shown[:3])}{', ...' if len(shown) > 3 else ''}"


def _shown(node: str) -> str:
    """Return a node's name as a peer has sent it, harmless in a line."""
    return node if _is_name(node) else repr(node[:64])
