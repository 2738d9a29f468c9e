"""Why TLS with a node failed, in words for the operator.

``cortexd.upstream.tls`` notes the facts while OpenSSL works; ``words_for`` makes a message of them
and decides nothing. No message contains a certificate or a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509

from cortexd.text import printable

MAX_NAMES: Final = 4
"""How many names of a certificate a message shows; some certificates have a hundred."""

# OpenSSL's results of a verification (x509_vfy.h).
UNKNOWN_ISSUER: Final = frozenset({2, 19, 20, 21})
OTHER_KEY: Final = 7
NOT_YET_VALID: Final = 9
EXPIRED: Final = 10
SELF_SIGNED: Final = 18
NO_AUTHORITY: Final = frozenset({24, 79})
OTHER_PURPOSE: Final = 26
TOO_WEAK: Final = frozenset({66, 67, 68})

UNREADABLE: Final = -1
"""Ours, for a certificate that cryptography does not take."""

# Alerts (RFC 8446 6, RFC 5246 7.2).
HANDSHAKE_FAILURE: Final = 40
OUR_CERTIFICATE: Final = {
    42: "it cannot be read",
    43: "its kind is not supported",
    44: "it was revoked",
    45: "it has expired",
    46: "no reason given",
    48: "its authority is not known there",
    49: "it grants no access there",
    51: "its signature does not fit",
}
PROTOCOL_VERSION: Final = 70
UNKNOWN_NAME: Final = 112
CERTIFICATE_REQUIRED: Final = 116

OLD_PROTOCOL: Final = frozenset({"unsupported protocol", "wrong ssl version"})
"""OpenSSL's words where a node chooses a version below 1.2, which we do not offer."""

TLS_RECORDS: Final = (b"\x14\x03", b"\x15\x03", b"\x16\x03", b"\x17\x03")
"""How all that a TLS server sends begins: the kind of its record and the version."""


@dataclass(slots=True)
class Handshake:
    """What was seen of the handshake with ``host``, a name or an IP address.

    ``has_authorities`` and ``has_certificate``: the node has files of its own for these in the
    configuration. ``fault`` is OpenSSL's number for what is wrong with ``certificate``, which is
    the node's at a ``depth`` of 0, else that of an authority above it. ``is_named`` says that the
    node's certificate is for the host, ``is_misnamed`` that it is not. ``alert`` is the node's last
    alert, and ``first`` are the first bytes that came from it.
    """

    host: str
    has_authorities: bool = False
    has_certificate: bool = False
    fault: int = 0
    certificate: x509.Certificate | None = None
    depth: int = 0
    is_named: bool = False
    is_misnamed: bool = False
    asks_for_certificate: bool = False
    alert: int | None = None
    first: bytes = b""
    is_done: bool = False


def words_for(seen: Handshake, errors: Sequence[str] = ()) -> str:
    """Return why TLS failed, from what was seen and from OpenSSL's words for its ``errors``."""
    if seen.is_misnamed and seen.certificate is not None:
        return _misnamed(seen.certificate, seen.host)
    if seen.fault:
        if seen.certificate is None:
            return "its certificate cannot be read"
        return _distrusted(seen, seen.certificate)
    if seen.first and not seen.first.startswith(TLS_RECORDS):
        if seen.first.startswith(b"HTTP/"):
            return "the node speaks plain HTTP on this port: let its endpoint begin with http://"
        return "the node does not speak TLS on this port"
    if seen.alert == PROTOCOL_VERSION or not OLD_PROTOCOL.isdisjoint(errors):
        return "the node speaks no version of TLS from 1.2 on, and older ones are not safe"
    if seen.asks_for_certificate and (of_ours := _of_our_certificate(seen)):
        return of_ours
    if seen.alert == UNKNOWN_NAME:
        return f"the node has no certificate for {seen.host}"
    if seen.alert == HANDSHAKE_FAILURE:
        return "the node refused the TLS handshake: it may share no cipher with us"
    if errors:
        return f"TLS failed: {', '.join(errors)}"
    if not seen.is_done:
        return (
            "the node closed the connection during the TLS handshake: does it speak TLS on this "
            "port?"
        )
    return "TLS failed: the connection ended"


def _of_our_certificate(seen: Handshake) -> str | None:
    """Return what the node says of our certificate, ``None`` if its alert is about another thing.

    Before TLS 1.3 a node has no alert for a missing certificate, and most send handshake_failure.
    """
    missing = seen.alert in (CERTIFICATE_REQUIRED, HANDSHAKE_FAILURE) or seen.alert in (
        OUR_CERTIFICATE
    )
    if not seen.has_certificate:
        return (
            "the node demands a client certificate: set client_certificate and client_key"
            if missing
            else None
        )
    if seen.alert in OUR_CERTIFICATE:
        return f"the node refuses our client certificate: {OUR_CERTIFICATE[seen.alert]}"
    return "the node refuses our client certificate" if missing else None


def _distrusted(seen: Handshake, certificate: x509.Certificate) -> str:
    if seen.depth == 0:
        its = "its certificate"
    else:
        its = f"the certificate of its authority {_subject(certificate)}"
    if seen.fault == EXPIRED:
        return f"{its} expired on {_date(certificate.not_valid_after_utc)}"
    if seen.fault == NOT_YET_VALID:
        since = _date(certificate.not_valid_before_utc)
        return f"{its} is not valid before {since}: look at the clocks of both machines"
    if seen.fault == SELF_SIGNED:
        if seen.has_authorities:
            return "its certificate is signed by itself, and is not in ca_file"
        return "its certificate is signed by itself: set ca_file to a file that contains it"
    if seen.fault in UNKNOWN_ISSUER or seen.fault == OTHER_KEY:
        if seen.has_authorities:
            return f"{its} is signed by an authority that is not in ca_file"
        return f"{its} is signed by an authority that is not trusted: set ca_file"
    if seen.fault in NO_AUTHORITY:
        return f"{its} signs another one, but is not that of an authority"
    if seen.fault == OTHER_PURPOSE:
        return f"{its} is not for servers (extended key usage)"
    if seen.fault in TOO_WEAK:
        return f"{its} has a key or a signature that is too weak"
    return f"{its} is not valid (OpenSSL's error {seen.fault})"


def _misnamed(certificate: x509.Certificate, host: str) -> str:
    names = names_of(certificate)
    if not names:
        return f"its certificate is for no host (it has no subjectAltName), so not for {host}"
    shown = [printable(name) for name in names[:MAX_NAMES]]
    if len(names) > MAX_NAMES:
        shown.append(f"{len(names) - MAX_NAMES} more")
    return f"its certificate is for {', '.join(shown)}, not for {host}"


def names_of(certificate: x509.Certificate) -> list[str]:
    """Return the host names and IP addresses that a certificate is for."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return []
    names = extension.value
    return [
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    ]


def _subject(certificate: x509.Certificate) -> str:
    try:
        found = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    except ValueError:
        found = []
    return f'"{printable(str(found[0].value))}"' if found else "without a name"


def _date(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
