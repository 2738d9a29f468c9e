import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from twisted.trial.unittest import SynchronousTestCase

from cortexd.config.node_tls import LONGEST_FILE, NO_FILES, tls_of
from cortexd.config.reading import ConfigError
from cortexd.config.settings import NodeSettings
from tests.doubles.authorities import CLIENT, Authority


class NodeTLSTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.ca, self.certificate, self.key = (
            self.folder / name for name in ("ca", "certificate", "key")
        )
        self.home = Authority("Home CA")
        self.below = Authority("Below", under=self.home)
        self.shown = self.below.issue("us", purpose=CLIENT)
        self.ca.write_bytes(self.home.pem)
        self.certificate.write_bytes(self.shown.chain_pem)
        self.key.write_bytes(self.shown.key_pem)

    def node(self) -> NodeSettings:
        return NodeSettings(
            name="a",
            endpoint="https://a",
            ca_file=str(self.ca),
            client_certificate=str(self.certificate),
            client_key=str(self.key),
        )

    def refusal(self) -> str:
        with self.assertRaises(ConfigError) as caught:
            tls_of(self.node())
        return str(caught.exception).replace(f"{self.folder}/", "")

    def test_no_files(self) -> None:
        """A node without files has the authorities of the system, and is shown nothing."""
        assert NO_FILES == tls_of(NodeSettings(name="a", endpoint="https://a"))

    def test_content(self) -> None:
        """What counts is what the certificates are: equal ones are equal in any wrapping."""
        first = tls_of(self.node())
        assert (1, 2) == (len(first.authorities), len(first.chain))
        self.ca.write_bytes(b"Home\n\n" + self.home.pem.replace(b"\n", b"\r\n"))
        assert first == tls_of(self.node())
        assert hash(first) == hash(tls_of(self.node()))
        self.ca.write_bytes(self.home.pem + self.below.pem)
        assert 2 == len(tls_of(self.node()).authorities)
        assert "key" not in repr(first)

    def test_no_file(self) -> None:
        """A file that is not there, or is none, is named with its key."""
        for path, key in (
            (self.ca, "ca_file"),
            (self.certificate, "client_certificate"),
            (self.key, "client_key"),
        ):
            content = path.read_bytes()
            path.unlink()
            words = f"nodes (a).{key}: {path.name} cannot be read (No such file or directory)"
            assert words == self.refusal()
            path.mkdir()
            assert f"nodes (a).{key}: {path.name} cannot be read (Is a dir" in self.refusal()
            path.rmdir()
            path.write_bytes(content)

    def test_other_content(self) -> None:
        """A file of another kind is refused without being shown."""
        for content in (b"", b"no PEM", self.shown.key_pem, self.home.pem[:200]):
            self.ca.write_bytes(content)
            assert "nodes (a).ca_file: ca: expected certificates in PEM" == self.refusal()
        self.ca.write_bytes(b"\n" * (LONGEST_FILE + 1))
        assert "nodes (a).ca_file: ca: found more than 4 MiB" == self.refusal()
        self.ca.write_bytes(self.home.pem)
        for content in (b"", self.home.pem, self.shown.key_pem[:100]):
            self.key.write_bytes(content)
            assert "nodes (a).client_key: key: expected a private key in PEM" == self.refusal()

    def test_what_does_not_fit(self) -> None:
        """A key needs its certificate, in the first place, and no passphrase."""
        locked = self.shown.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        )
        self.key.write_bytes(locked)
        words = "nodes (a).client_key: key: expected a private key without a passphrase"
        assert words == self.refusal()
        for chain in (self.below.pem + self.shown.chain_pem, self.home.pem):
            self.key.write_bytes(self.shown.key_pem)
            self.certificate.write_bytes(chain)
            words = (
                "nodes (a).client_key: key: found another key, expected the private key of the "
                "first certificate in client_certificate"
            )
            assert words == self.refusal()

    def test_what_openssl_refuses(self) -> None:
        """A key that is too weak stops the start, and not the first request."""
        weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - it is to be refused
        shown = self.home.issue("us", purpose=CLIENT, key=weak)
        self.certificate.write_bytes(shown.chain_pem)
        self.key.write_bytes(weak.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        words = "nodes (a).client_certificate: certificate: OpenSSL refuses the certificate ("
        assert self.refusal().startswith(words)
