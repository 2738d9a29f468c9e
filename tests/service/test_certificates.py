"""Files that make a certificate, and one clear line for those that do not."""

import os
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from cortexd.config.listening import Files
from cortexd.service.certificates import CertificateError, read_certificate
from tests.doubles.certificates import make_certificate

BEGIN = "-----BEGIN CERTIFICATE"


class CertificateTests(SynchronousTestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.key, self.certificate = self.pair()
        self.other_key, self.other = self.pair()

    def pair(self) -> tuple[str, str]:
        """Return a new key and its certificate, in PEM."""
        content = make_certificate().decode("ascii")
        at = content.index(BEGIN)
        return content[:at], content[at:]

    def write(self, name: str, content: str) -> str:
        path = self.folder / name
        path.write_text(content, "ascii")
        return str(path)

    def files(self, certificate: str, key: str) -> Files:
        return Files(self.write("c.pem", certificate), self.write("k.pem", key))

    def complaint(self, files: Files) -> tuple[str, bool]:
        error = self.assertRaises(CertificateError, read_certificate, files)
        words = str(error)
        assert "\n" not in words
        return words.replace(str(self.folder), ""), error.is_key

    def test_a_chain(self) -> None:
        """It follows the certificate in its file, or has a file of its own."""
        together = read_certificate(self.files(self.certificate + self.other, self.key))
        apart = read_certificate(
            Files(
                self.write("own.pem", self.certificate),
                self.write("k.pem", self.key),
                self.write("chain.pem", self.other),
            )
        )

        assert 2 == len(together.digests)
        assert together.digests == apart.digests

    def test_one_file(self) -> None:
        """Key and certificate may be in the same file."""
        path = self.write("both.pem", self.key + self.certificate)
        assert 1 == len(read_certificate(Files(path, path)).digests)

    def test_old_versions_and_ciphers(self) -> None:
        """TLS 1.2 and later, with forward secrecy, and no second negotiation."""
        context = read_certificate(self.files(self.certificate, self.key)).context
        options = context.set_options(0)
        for off in (SSL.OP_NO_SSLv3, SSL.OP_NO_TLSv1, SSL.OP_NO_TLSv1_1, SSL.OP_NO_RENEGOTIATION):
            assert options & off
        assert not options & (SSL.OP_NO_TLSv1_2 | SSL.OP_NO_TLSv1_3)
        for cipher in SSL.Connection(context, None).get_cipher_list():
            assert cipher.startswith(("TLS_", "ECDHE-", "DHE-")), cipher

    def test_files_that_cannot_be_read(self) -> None:
        """The line names the file and the system's reason."""
        good = self.files(self.certificate, self.key)
        reason = "/nowhere: cannot be read (No such file or directory)"
        assert (reason, False) == self.complaint(good._replace(certificate="/nowhere"))
        assert (reason, True) == self.complaint(good._replace(key="/nowhere"))
        folder = good._replace(certificate=str(self.folder))
        assert (": cannot be read (Is a directory)", False) == self.complaint(folder)

    def test_a_file_that_has_no_end(self) -> None:
        """A pipe or a device is refused at once: to read it would stop the daemon."""
        good = self.files(self.certificate, self.key)
        pipe = self.folder / "pipe"
        os.mkfifo(pipe)
        words = "cannot be read (it is no regular file)"
        assert (f"/pipe: {words}", True) == self.complaint(good._replace(key=str(pipe)))
        device = self.complaint(good._replace(certificate="/dev/zero"))
        assert (f"/dev/zero: {words}", False) == device

    def test_wrong_contents(self) -> None:
        """The line says what the file should have."""
        damaged = f"{BEGIN}-----\nAAAA\n-----END CERTIFICATE-----\n"
        broken = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
        for certificate, key, words, is_key in (
            (self.key, self.key, "/c.pem: found no certificate, expected", False),
            (damaged, self.key, "/c.pem: found a certificate that is damaged", False),
            (self.certificate, self.certificate, "/k.pem: found no private key, expected", True),
            (self.certificate, broken, "/k.pem: found a private key that is damaged", True),
            (self.certificate, self.other_key, "/k.pem: does not fit the certificate in ", True),
            (self.other + self.certificate, self.key, "/c.pem: its key fits a later", False),
        ):
            found = self.complaint(self.files(certificate, key))
            assert found[0].startswith(words), found
            assert is_key is found[1]

    def test_a_key_with_a_passphrase(self) -> None:
        """Nobody is there to enter it; the old and the new form are known."""
        key = serialization.load_pem_private_key(self.key.encode(), None)
        forms = serialization.PrivateFormat
        for form in (forms.PKCS8, forms.TraditionalOpenSSL):
            encrypted = key.private_bytes(
                serialization.Encoding.PEM,
                form,
                serialization.BestAvailableEncryption(b"secret"),
            ).decode()
            words, is_key = self.complaint(self.files(self.certificate, encrypted))
            assert "/k.pem: found a key with a passphrase, expected one without" == words
            assert is_key
