"""The enrolment: one file with all that the agent of one node needs to reach its gateway.

``cortexctl agent enroll`` makes it on the gateway, and the agent reads it. It is TOML, with
certificates and keys in PEM. Whoever has it can speak for its node: no error, log or representation
shows its key or its token.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated, Final, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from msgspec import Struct
from msgspec import inspect as types

from cortexd.config.addresses import GatewayAddress, only, secret
from cortexd.config.agent_settings import ServerName
from cortexd.config.expiry import Validity
from cortexd.config.files import open_regular
from cortexd.config.node_tls import NodeTLS
from cortexd.config.tables import ConfigError, decoded, table_of, unreadable
from cortexd.config.tables_text import written
from cortexd.config.values import NodeName
from cortexd.link.admission import urn
from cortexd.link.certificates import AuthorityError, Pair, loaded
from cortexd.link.proofs import is_token
from cortexd.text import one_line, without_keys

MOST_BYTES: Final = 256 * 1024
"""The most bytes that we read of an enrolment; one has some 2 KiB."""

CERTIFICATES: Final = "certificates in PEM"
KEY: Final = "the certificate's private key in PEM, without a passphrase"
TOKEN: Final = "the token that 'cortexctl agent enroll --token' has made"  # noqa: S105 - words
MADE_BY: Final = (
    "the file that 'cortexctl agent enroll NODE' makes at the gateway, readable by the agent's user"
)
DAMAGED: Final = "have the file made anew by 'cortexctl agent enroll'"

Pem = Annotated[str, only(CERTIFICATES, lambda text: "-----BEGIN CERTIFICATE-----" in text)]
Key = Annotated[str, secret(KEY, lambda text: "PRIVATE KEY-----" in text)]
Token = Annotated[str, secret(TOKEN, is_token)]


class AgentEnrolment(Struct, kw_only=True, frozen=True):
    """What admits the agent of ``node`` at ``gateway``, HOST:PORT.

    The gateway's certificate must be for ``server_name``, and signed by ``ca``, or by an authority
    of the system without it. Either ``certificate``, with those above it, and ``key`` admit the
    agent, or ``token`` does.
    """

    node: NodeName
    gateway: GatewayAddress
    server_name: ServerName
    ca: Pem | None = None
    certificate: Pem | None = None
    key: Key | None = None
    token: Token | None = None

    def __repr__(self) -> str:
        kind = "certificate" if self.token is None else "token"
        return f"<AgentEnrolment of {self.node} at {self.gateway}, by its {kind}>"

    @property
    def tls(self) -> NodeTLS:
        """The certificates and the key, as the enrolment has been checked."""
        return tls_of(self.certificate, self.key, self.ca)

    @property
    def validity(self) -> Validity | None:
        """From when on and until when the certificate is valid, ``None`` for a token."""
        if self.certificate is None:
            return None
        own = x509.load_pem_x509_certificates(self.certificate.encode())[0]
        return Validity(own.not_valid_before_utc.timestamp(), own.not_valid_after_utc.timestamp())


ENROLMENT_TYPE: Final = cast(types.StructType, types.type_info(AgentEnrolment))


def load(path: str | os.PathLike[str]) -> AgentEnrolment:
    """Return the enrolment in a file.

    Raises ConfigError as ``read`` does, and for a file that cannot be read.
    """
    source = os.fspath(path)
    try:
        with open_regular(source) as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise unreadable(source, error, MADE_BY) from None
    if len(content) > MOST_BYTES:
        raise ConfigError(
            f"{one_line(source)}: found more than {MOST_BYTES // 1024} KiB, expected an enrolment"
        )
    return read(decoded(content, source), source)


def read(text: str, source: str) -> AgentEnrolment:
    """Return the enrolment of a TOML text; errors call it ``source``, usually a path.

    Raises ConfigError for invalid TOML, for an unknown or a missing key, for certificates and keys
    that cannot be used, and for a certificate of another node.
    """
    try:
        found: AgentEnrolment = table_of(ENROLMENT_TYPE, text, source)
    except ConfigError as error:
        # A token may stand where it does not belong, such as before an equals sign.
        raise ConfigError(without_keys(str(error))) from None
    fault = _fault(found)
    if fault is not None:
        raise ConfigError(f"{one_line(source)}: {fault}")
    return found


def exposure(path: str | os.PathLike[str]) -> str | None:
    """Return a warning for a file that other users may read, in words, or ``None``."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return None
    if not mode & (stat.S_IROTH | stat.S_IWOTH):
        return None
    return (
        f"every user may read or write {one_line(os.fspath(path))}, which lets its owner speak for "
        "the node: run 'chmod 600' on it, and 'cortexctl agent enroll' again if others may have "
        "read it"
    )


def text_of(enrolment: AgentEnrolment) -> str:
    """Return the text of an enrolment, as it stands in a file."""
    lines = [
        f"# What the agent of node {enrolment.node} needs to reach its gateway. Keep it secret:",
        "# whoever has it can speak for the node. On the gateway, 'cortexctl agent revoke",
        f"# {enrolment.node}' takes that right away again.",
    ]
    for field in enrolment.__struct_fields__:
        value = getattr(enrolment, field)
        if value is not None:
            text = f'"""\n{value.strip()}\n"""' if "\n" in value else written(value)
            lines.append(f"{field} = {text}")
    return "\n".join(lines) + "\n"


def _fault(found: AgentEnrolment) -> str | None:
    """Return what is wrong with values that are allowed each, ``None`` if nothing is."""
    if found.token is not None:
        for key in ("certificate", "key"):
            if getattr(found, key) is not None:
                return f"{key}: found another value, expected no such key with a token"
    else:
        for key in ("certificate", "key"):
            if getattr(found, key) is None:
                return f"{key}: missing, expected it, or a token"
    try:
        tls = found.tls
    except AuthorityError as error:
        return f"{error}: {DAMAGED}"
    return _of_another(tls, found.node)


def tls_of(certificate: str | None, key: str | None, ca: str | None) -> NodeTLS:
    """Return certificates and a key in PEM as OpenSSL gets them, those that are missing left out.

    Raises AuthorityError, which begins with the key of the wrong one.
    """
    authorities = () if ca is None else _certificates("ca", ca)
    if certificate is None or key is None:
        return NodeTLS(authorities)
    chain = _certificates("certificate", certificate)
    try:
        _, own = loaded(Pair(certificate, key))
    except AuthorityError as error:
        raise AuthorityError(f"key: {error}") from None
    return NodeTLS(
        authorities, chain, own.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    )


def _certificates(key: str, text: str) -> tuple[bytes, ...]:
    try:
        found = x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        raise AuthorityError(f"{key}: found damaged text, expected {CERTIFICATES}") from None
    return tuple(each.public_bytes(Encoding.DER) for each in found)


def _of_another(tls: NodeTLS, node: str) -> str | None:
    """Return the fault of a certificate that names another node by a URI of our kind."""
    if not tls.chain:
        return None
    try:
        names = (
            x509.load_der_x509_certificate(tls.chain[0])
            .extensions.get_extension_for_class(x509.SubjectAlternativeName)
            .value.get_values_for_type(x509.UniformResourceIdentifier)
        )
    except (ValueError, x509.ExtensionNotFound):
        return None
    others = [each for each in names if each.startswith(urn(""))]
    if not others or others == [urn(node)]:
        return None
    return f"certificate: found that of {one_line(others[0])}, expected that of {urn(node)}"
