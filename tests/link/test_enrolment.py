"""The file with all that an agent needs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from cortexd.config.tables import ConfigError
from cortexd.link.certificates import (
    DAY,
    GATEWAY_NAME,
    Authority,
    Pair,
    agent_pair,
    authority_of,
    gateway_pair,
    loaded,
    new_authority,
)
from cortexd.link.enrolment import MOST_BYTES, AgentEnrolment, exposure, load, read, text_of
from cortexd.link.proofs import new_token

NOW = 1_800_000_000.0
AUTHORITY: Authority = authority_of(new_authority(NOW))
PAIR: Pair = agent_pair(AUTHORITY, "gpu1", NOW, NOW + DAY)
TOKEN = new_token()

BY_CERTIFICATE = AgentEnrolment(
    node="gpu1",
    gateway="gateway.example.com:8700",
    server_name=GATEWAY_NAME,
    ca=AUTHORITY.pem,
    certificate=PAIR.certificate,
    key=PAIR.key,
)
BY_TOKEN = replace(BY_CERTIFICATE, certificate=None, key=None, token=TOKEN)


def fault(text: str) -> str:
    """Return the error of a text."""
    try:
        read(text, "e.toml")
    except ConfigError as error:
        return str(error).removeprefix("e.toml: ")
    return ""


class EnrolmentTests(SynchronousTestCase):
    def test_what_is_written_is_read(self) -> None:
        """Either kind comes back as it was, but for the blanks around PEM."""
        for enrolment in (BY_CERTIFICATE, BY_TOKEN, replace(BY_TOKEN, ca=None)):
            text = text_of(enrolment)

            assert text_of(read(text, "e.toml")) == text
            assert read(text, "e.toml").tls == enrolment.tls

    def test_what_tls_gets(self) -> None:
        """The certificates come as bytes, the agent's own with its key."""
        tls = BY_CERTIFICATE.tls
        own, _ = loaded(PAIR)

        assert tls.chain == (own.public_bytes(Encoding.DER),)
        assert tls.authorities == (AUTHORITY.certificate.public_bytes(Encoding.DER),)
        assert tls.key
        assert (BY_TOKEN.tls.chain, BY_TOKEN.tls.key) == ((), b"")
        assert replace(BY_TOKEN, ca=None).tls.authorities == ()

    def test_when_it_ends(self) -> None:
        """A certificate says so by itself; only the gateway knows when a token ends."""
        assert BY_CERTIFICATE.validity == (NOW, NOW + DAY)
        assert BY_TOKEN.validity is None

    def test_faults(self) -> None:
        """Each error has the key and what to do, and none shows a secret."""
        text, other = text_of(BY_CERTIFICATE), agent_pair(AUTHORITY, "gpu2", NOW, NOW + DAY)
        by_token = text_of(BY_TOKEN)
        cut = PAIR.key.strip().replace("\n", "")[:90]
        for found, words in (
            ("", "node: missing, expected"),
            (text.replace('"gpu1"', '"gpu 1"'), 'node: found "gpu 1", expected'),
            (text.replace(":8700", ""), "gateway: found"),
            (text.replace("server_name", "server"), "unknown key server; did you mean"),
            (text_of(replace(BY_CERTIFICATE, key=None)), "key: missing, expected it, or a token"),
            (text_of(replace(BY_CERTIFICATE, certificate=None)), "certificate: missing"),
            (by_token.replace("token =", "# token ="), "certificate: missing, expected it, or a"),
            (text + f'token = "{TOKEN}"', "certificate: found another value, expected no such key"),
            (by_token.replace(TOKEN, TOKEN[:-1]), "token: found another value, expected the token"),
            (by_token.replace("token =", TOKEN + " ="), "unknown key (removed); "),
            (text_of(replace(BY_CERTIFICATE, key=other.key)), "key: the private key is that of"),
            (
                text_of(
                    replace(BY_CERTIFICATE, key="-----BEGIN PRIVATE KEY-----\n" + PAIR.key[40:90])
                ),
                "key: the private key is damaged",
            ),
            (text.replace(PAIR.key.strip(), cut), "key: the private key is damaged"),
            (
                text.replace(PAIR.certificate.strip(), "-----BEGIN CERTIFICATE-----"),
                "certificate: found damaged text",
            ),
            (
                text_of(replace(BY_CERTIFICATE, certificate=other.certificate, key=other.key)),
                "certificate: found that of urn:cortexd:agent:gpu2, expected that of",
            ),
            ("[", "line 1: not valid TOML"),
        ):
            assert fault(found).startswith(words), fault(found)
            for secret in (TOKEN, PAIR.key[60:80], other.key[60:80]):
                assert secret not in fault(found)
            assert "\n" not in fault(found)

    def test_a_certificate_without_our_uri(self) -> None:
        """Another authority names the node in its own way: the gateway decides about it."""
        pair = gateway_pair(AUTHORITY, ["gpu1"], NOW)
        other = replace(BY_CERTIFICATE, certificate=pair.certificate, key=pair.key)

        assert fault(text_of(other)) == ""

    def test_nothing_secret_is_shown(self) -> None:
        """The representation may reach a log."""
        for enrolment in (BY_CERTIFICATE, BY_TOKEN):
            assert "BEGIN" not in repr(enrolment)
            assert TOKEN not in repr(enrolment)
            assert "gpu1" in repr(enrolment)

    @settings(max_examples=60, deadline=None)
    @given(st.text(max_size=60), st.integers(0, 900))
    def test_no_text_is_a_crash(self, junk: str, place: int) -> None:
        """Any text is an enrolment, or a ConfigError on one line."""
        text = text_of(BY_CERTIFICATE)
        for found in (junk, text[:place] + junk + text[place:]):
            assert "\n" not in fault(found)


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "agent.enrolment")

    def test_a_file(self) -> None:
        """It is read as its text is."""
        self.path.write_text(text_of(BY_TOKEN))

        assert load(self.path).token == TOKEN

    def test_files_that_cannot_be_read(self) -> None:
        """None of them stops the agent for ever, or fills its memory."""
        for make, words in (
            (lambda: None, "cannot be read (No such file or directory), expected the file that"),
            (lambda: self.path.write_bytes(b"\xff"), "found byte 0xff"),
            (lambda: self.path.write_bytes(b"#" * (MOST_BYTES + 1)), "found more than 256 KiB"),
            (self._become_a_pipe, "it is no regular file"),
        ):
            make()
            with self.assertRaises(ConfigError) as caught:
                load(self.path)
            assert words in str(caught.exception)
        with self.assertRaises(ConfigError):
            load("a\0b")

    def _become_a_pipe(self) -> None:
        self.path.unlink()
        os.mkfifo(self.path)

    def test_a_file_that_others_may_read(self) -> None:
        """The warning says what to do about it; one that does not exist has none."""
        assert exposure(self.path) is None
        self.path.touch(0o600)
        assert exposure(self.path) is None
        for mode in (0o604, 0o602):
            self.path.chmod(mode)
            assert "chmod 600" in (exposure(self.path) or "")
