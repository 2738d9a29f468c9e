"""Certificates of agents and of our own authority."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto
from twisted.trial.unittest import SynchronousTestCase

from cortexd.link.admission import PeerCertificate, urn
from cortexd.link.certificates import (
    DAY,
    GATEWAY_NAME,
    HOUR,
    Authority,
    AuthorityError,
    Pair,
    agent_pair,
    authority_of,
    gateway_pair,
    loaded,
    must_renew,
    new_authority,
    peer_certificate,
)

NOW = float(int(datetime.now(UTC).timestamp()))
"""OpenSSL compares with the machine's own clock."""

AUTHORITY = authority_of(new_authority(NOW))
OTHER = authority_of(new_authority(NOW))
VERDICTS = {10: "expired", 20: "unknown authority", 26: "wrong purpose", 79: "no authority"}
"""What OpenSSL finds wrong with a certificate, by its number (X509_V_ERR_...)."""

CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH


def made(
    names: Sequence[x509.GeneralName] = (),
    common: Sequence[str] = ("gpu1",),
    usage: Sequence[x509.ObjectIdentifier] | None = (CLIENT,),
) -> x509.Certificate:
    """Return a certificate as another authority might make it."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(key, common)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
    return builder.sign(key, hashes.SHA256())


def _builder(key: ec.EllipticCurvePrivateKey, common: Sequence[str]) -> x509.CertificateBuilder:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each) for each in common])
    since = datetime.fromtimestamp(NOW, UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(5)
    builder = builder.public_key(key.public_key()).not_valid_before(since)
    return builder.not_valid_after(since + timedelta(days=1))


def names(certificate: x509.Certificate, *, is_ours: bool = False) -> set[str]:
    """Return the nodes that a certificate may speak for."""
    return set(peer_certificate(certificate, is_ours=is_ours).names)


def handshake(client: Pair | None, server: Pair, *chain: x509.Certificate) -> str:
    """Let both ends of TLS shake hands in memory; return why they do not, or an empty text.

    The client shows the ``chain`` too.
    """
    faults: list[int] = []
    ends = [_end(server, (), faults), _end(client, chain, faults)]
    ends[0].set_accept_state()
    ends[1].set_connect_state()
    for _ in range(10):
        for one, other in (ends, reversed(ends)):
            try:
                one.do_handshake()
            except SSL.WantReadError:
                pass
            except SSL.Error as error:
                return VERDICTS[faults[0]] if faults else str(error)
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(1 << 16))
    return ""


def _end(pair: Pair | None, chain: Sequence[x509.Certificate], faults: list[int]) -> SSL.Connection:
    def verify(
        connection: SSL.Connection, found: crypto.X509, fault: int, depth: int, holds: int
    ) -> bool:
        if fault:
            faults.append(fault)
        return bool(holds)

    context = SSL.Context(SSL.TLS_METHOD)
    store: Any = context.get_cert_store()
    store.add_cert(crypto.X509.from_cryptography(AUTHORITY.certificate))
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verify)
    if pair is not None:
        certificate, key = loaded(pair)
        context.use_certificate(certificate)
        context.use_privatekey(key)
        for each in chain:
            context.add_extra_chain_cert(each)
    return SSL.Connection(context, None)


class OwnAuthorityTests(SynchronousTestCase):
    def test_an_agent_and_the_gateway_meet(self) -> None:
        """Each takes the other's certificate, and the agent's names its node alone."""
        agent = agent_pair(AUTHORITY, "gpu1", NOW - HOUR, NOW + 730 * DAY)

        assert handshake(agent, gateway_pair(AUTHORITY, [], NOW)) == ""

        certificate, _ = loaded(agent)
        assert peer_certificate(certificate, is_ours=True) == PeerCertificate(
            frozenset({"gpu1"}), certificate.serial_number, NOW - HOUR, NOW + 730 * DAY, True
        )

    def test_neither_serves_for_the_other(self) -> None:
        """An agent's certificate is no gateway's, and the gateway's own admits no agent."""
        agent = agent_pair(AUTHORITY, "gpu1", NOW - HOUR, NOW + DAY)
        gateway = gateway_pair(AUTHORITY, ["gpu1"], NOW)

        assert handshake(agent, agent) == "wrong purpose"
        assert handshake(gateway, gateway) == "wrong purpose"
        assert names(loaded(gateway)[0], is_ours=True) == set()
        assert names(AUTHORITY.certificate, is_ours=True) == set()

    def test_another_authority(self) -> None:
        """Nothing that it signs is taken."""
        agent = agent_pair(OTHER, "gpu1", NOW - HOUR, NOW + DAY)
        gateway = gateway_pair(AUTHORITY, [], NOW)

        assert handshake(agent, gateway) == "unknown authority"
        assert "did not return a certificate" in handshake(None, gateway)

    def test_an_agent_cannot_sign(self) -> None:
        """Its certificate is no authority: what it signs is refused."""
        stolen = authority_of(agent_pair(AUTHORITY, "gpu1", NOW - HOUR, NOW + DAY))
        forged = agent_pair(stolen, "gpu2", NOW - HOUR, NOW + DAY)
        gateway = gateway_pair(AUTHORITY, [], NOW)

        assert handshake(forged, gateway) == "unknown authority"
        assert handshake(forged, gateway, stolen.certificate) == "no authority"

    def test_an_expired_certificate(self) -> None:
        """TLS refuses it before anything of ours sees it."""
        agent = agent_pair(AUTHORITY, "gpu1", NOW - DAY, NOW - HOUR)

        assert handshake(agent, gateway_pair(AUTHORITY, [], NOW)) == "expired"

    def test_the_names_of_the_gateway(self) -> None:
        """Host names and addresses of the configuration stand beside the name of all gateways."""
        certificate, _ = loaded(gateway_pair(AUTHORITY, ["gw.example.com", "10.0.0.2"], NOW))
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

        assert [GATEWAY_NAME, "gw.example.com"] == found.get_values_for_type(x509.DNSName)
        assert ["10.0.0.2"] == list(map(str, found.get_values_for_type(x509.IPAddress)))

    def test_the_gateway_renews_its_certificate(self) -> None:
        """Long before its end, for other names or another authority, or if our clock went back."""
        certificate, _ = loaded(gateway_pair(AUTHORITY, ["gw"], NOW))

        def must(
            names: Sequence[str] = ("gw",), later: float = 0.0, by: Authority = AUTHORITY
        ) -> bool:
            return must_renew(certificate, by, names, NOW + later)

        assert not must()
        assert not must(later=244 * DAY)
        assert must(later=246 * DAY)
        assert must(later=-2 * DAY)
        assert must(["gw", "gw2"])
        assert must(by=OTHER)

    def test_no_certificate_outlives_its_authority(self) -> None:
        """Its end is that of the authority at the latest."""
        agent, _ = loaded(agent_pair(AUTHORITY, "gpu1", NOW, NOW + 40_000 * DAY))

        assert agent.not_valid_after_utc == AUTHORITY.certificate.not_valid_after_utc

    def test_damaged_texts(self) -> None:
        """The error says which one, and shows no key."""
        whole, other = (agent_pair(AUTHORITY, "gpu1", NOW, NOW + DAY) for _ in range(2))
        for pair, words in (
            (Pair("", whole.key), "the certificate is damaged"),
            (Pair(whole.certificate, whole.key[:99]), "the private key is damaged"),
            (Pair(whole.certificate, other.key), "that of another certificate"),
        ):
            with self.assertRaises(AuthorityError) as caught:
                loaded(pair)
            assert words in str(caught.exception)
        assert whole.key not in repr(whole)


class PeerTests(SynchronousTestCase):
    def test_names_of_another_authority(self) -> None:
        """Its DNS names and common names count, unless it has a URI of our kind."""
        dns, uri = x509.DNSName("gpu2"), x509.UniformResourceIdentifier(urn("gpu3"))

        assert names(made([dns])) == {"gpu1", "gpu2"}
        assert names(made([dns, uri])) == {"gpu3"}
        assert names(made([uri, x509.UniformResourceIdentifier(urn("gpu4"))])) == set()
        assert names(made([x509.DNSName("*.example.com")], ["*"])) == set()

    def test_odd_common_names(self) -> None:
        """A NUL or a line break in it makes no name; two common names are two names."""
        assert names(made(common=["gpu1\0.evil.com"])) == set()
        assert names(made(common=["gpu1\n"])) == set()
        assert names(made(common=["gpu1", "gpu2"])) == {"gpu1", "gpu2"}

    def test_other_purposes(self) -> None:
        """A certificate of servers alone speaks for no node; one without purposes is for all."""
        assert names(made(usage=(SERVER,))) == set()
        assert names(made(usage=(SERVER, CLIENT))) == {"gpu1"}
        assert names(made(usage=None)) == {"gpu1"}
        uri = [x509.UniformResourceIdentifier(urn("gpu1"))]
        assert names(made(uri, usage=None), is_ours=True) == set()
        assert names(made(uri), is_ours=True) == {"gpu1"}

    def test_names_that_cannot_be_read(self) -> None:
        """A certificate with them speaks for no node, and is no fault of ours."""
        broken = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x05junk")
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(key, ["gpu1"])
        builder = builder.add_extension(broken, critical=False)

        assert names(builder.sign(key, hashes.SHA256())) == set()
