"""What agents need to know of the certificates that an operator brings instead of ours: pure."""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cortexd.config.node_tls import NodeTLS
from cortexd.errors import OperationRefused

NO_NAME: Final = (
    "the certificate in [agents] certificate has no DNS name and no address for which agents could "
    "look: let its authority sign one with a subject alternative name"
)


def server_name(files: NodeTLS) -> str:
    """Return the name in the gateway's certificate for which agents look.

    Raises OperationRefused for a certificate without one.
    """
    try:
        names = (
            x509.load_der_x509_certificate(files.chain[0])
            .extensions.get_extension_for_class(x509.SubjectAlternativeName)
            .value
        )
    except (ValueError, x509.ExtensionNotFound):
        raise OperationRefused(NO_NAME) from None
    dns = [each for each in names.get_values_for_type(x509.DNSName) if "*" not in each]
    found = [*dns, *map(str, names.get_values_for_type(x509.IPAddress))]
    if not found:
        raise OperationRefused(NO_NAME)
    return found[0]


def trusted_text(files: NodeTLS) -> str | None:
    """Return in PEM the authorities of agents, if they have signed the gateway's certificate too.

    ``None`` means that agents trust the authorities of their system.
    """
    authorities = [x509.load_der_x509_certificate(each) for each in files.authorities]
    chain = [x509.load_der_x509_certificate(each) for each in files.chain]
    if not any(_has_signed(each, found) for found in chain for each in authorities):
        return None
    return "".join(each.public_bytes(Encoding.PEM).decode() for each in authorities)


def _has_signed(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    if authority == certificate:
        return True
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # InvalidSignature and others, which all say the same
        return False
    return True
