"""Proofs that an agent has its node's token."""

import hashlib
import hmac

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.link.proofs import (
    EXPORTER_BYTES,
    NONCE_BYTES,
    PROOF_BYTES,
    is_proof,
    is_token,
    key_of,
    new_nonce,
    new_token,
    proof,
)
from cortexd.text import without_keys

NONCE = bytes(NONCE_BYTES)
EXPORTER = bytes(EXPORTER_BYTES)

PARTS = st.tuples(
    st.sampled_from([b"k" * 32, b"l" * 32]),
    st.binary(min_size=1, max_size=4),
    st.text("ab", max_size=3),
    st.sampled_from([bytes(32), b"\1" * 32]),
)


class ProofTests(SynchronousTestCase):
    def test_a_proof_holds_for_its_connection(self) -> None:
        """Both sides derive the key from the token, and the proof from the key."""
        key = key_of(new_token(), "gpu1")
        nonce = new_nonce()
        found = proof(key, nonce, "gpu1", EXPORTER)

        assert len(found) == PROOF_BYTES
        assert is_proof(found, key, nonce, "gpu1", EXPORTER)

    def test_a_known_proof(self) -> None:
        """A change of the derivation would part agents and gateways of two versions."""
        token = "sk-cortex-agent-" + "a" * 43
        key = key_of(token, "gpu1")
        framed = (
            b"\0\0\0\x13cortexd agent proof\0\0\0\x20"
            + NONCE
            + b"\0\0\0\4gpu1\0\0\0\x20"
            + EXPORTER
        )

        assert key == hmac.digest(
            token.encode(), b"\0\0\0\x11cortexd agent key\0\0\0\4gpu1", hashlib.sha256
        )
        assert proof(key, NONCE, "gpu1", EXPORTER) == hmac.digest(key, framed, hashlib.sha256)

    @settings(max_examples=60, deadline=None)
    @given(PARTS, PARTS)
    def test_a_proof_holds_nowhere_else(
        self, one: tuple[bytes, bytes, str, bytes], other: tuple[bytes, bytes, str, bytes]
    ) -> None:
        """Another key, nonce, node or connection needs another proof."""
        assert is_proof(proof(*one), *other) == (one == other)

    def test_a_token_of_one_node_is_none_of_another(self) -> None:
        """A token that two files share by mistake gives each node a key of its own."""
        token = new_token()

        assert key_of(token, "gpu1") != key_of(token, "gpu2")

    def test_without_a_key_no_proof_holds(self) -> None:
        """A node without a token is refused as one with another token is."""
        assert not is_proof(proof(b"", NONCE, "gpu1", EXPORTER), None, NONCE, "gpu1", EXPORTER)
        assert not is_proof(b"", None, NONCE, "gpu1", EXPORTER)

    def test_a_proof_needs_a_nonce_and_a_connection(self) -> None:
        """Without them it could be used again, or passed on."""
        for nonce, exporter in ((b"", EXPORTER), (NONCE, b""), (NONCE, EXPORTER[1:])):
            with self.assertRaises(ValueError):
                proof(b"key", nonce, "gpu1", exporter)

    def test_a_token_is_known_by_its_form(self) -> None:
        """Its beginning lets logs and messages remove it."""
        token = new_token()

        assert is_token(token)
        assert not any(map(is_token, ("", token[:-1], token + "a", token + "\n", "sk-cortex-a")))
        assert token not in without_keys(f"found {token} in a message")
