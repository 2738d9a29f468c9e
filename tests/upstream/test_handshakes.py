"""The words for facts of a handshake; tests of ``tls`` make the facts by real handshakes."""

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.upstream.handshakes import Handshake, names_of, words_for
from tests.doubles.authorities import HOST, Authority

CERTIFICATE = cache(lambda: Authority("A\nCA").issue(HOST, "gpu.example").chain[0])


class WordsTests(SynchronousTestCase):
    def test_names(self) -> None:
        """The names of a certificate are its host names and its addresses."""
        assert ["gpu.example", HOST] == names_of(CERTIFICATE())
        assert [] == names_of(Authority("A").certificate)

    def test_alerts(self) -> None:
        """An alert means a client certificate only where the node has asked for one."""
        for alert, asks, shows, words in (
            (
                40,
                False,
                False,
                "the node refused the TLS handshake: it may share no cipher with us",
            ),
            (40, True, True, "the node refuses our client certificate"),
            (112, False, False, "the node has no certificate for gpu.example"),
            (80, True, True, "TLS failed: internal error"),
        ):
            seen = Handshake(
                "gpu.example", has_certificate=shows, asks_for_certificate=asks, alert=alert
            )
            assert words == words_for(seen, ["internal error"] if alert == 80 else [])

    @settings(max_examples=100)
    @given(
        st.builds(
            Handshake,
            host=st.just("gpu.example"),
            has_authorities=st.booleans(),
            has_certificate=st.booleans(),
            fault=st.integers(-1, 100),
            certificate=st.sampled_from([True, False]).map(
                lambda has: CERTIFICATE() if has else None
            ),
            depth=st.integers(0, 2),
            is_misnamed=st.booleans(),
            asks_for_certificate=st.booleans(),
            alert=st.none() | st.integers(0, 255),
            first=st.binary(max_size=8),
            is_done=st.booleans(),
        ),
        st.lists(st.sampled_from(["unsupported protocol", "wrong version number"])),
    )
    def test_any_facts(self, seen: Handshake, errors: list[str]) -> None:
        """Whatever was seen has words, on one line and without a certificate."""
        words = words_for(seen, errors)
        assert words
        assert words.isprintable()
        assert "BEGIN" not in words
