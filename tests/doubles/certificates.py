"""Certificates for tests, each with a key of its own."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOST = "127.0.0.1"


def make_certificate(days: tuple[float, float] = (-1, 1)) -> bytes:
    """Return a key, and a certificate for HOST that it has signed itself.

    ``days`` are its validity, counted from now.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "node")])
    today = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today + timedelta(days=days[0]))
        .not_valid_after(today + timedelta(days=days[1]))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]), False)
        .sign(key, hashes.SHA256())
    )
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(pem, pkcs8, serialization.NoEncryption())
    return secret + signed.public_bytes(pem)


def write_certificate(path: Path, days: tuple[float, float] = (-1, 1)) -> str:
    """Write a new key and its certificate to a file; return the certificate."""
    content = make_certificate(days).decode("ascii")
    path.write_text(content, "ascii")
    return content[content.index("-----BEGIN CERTIFICATE") :]
