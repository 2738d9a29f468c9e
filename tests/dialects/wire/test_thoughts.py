import base64
import zlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.thoughts import (
    MAX_BYTES,
    SIGNATURE,
    is_ours,
    signature_of,
    thinking_in,
)


class SignatureTests(SynchronousTestCase):
    @given(st.text(st.characters(exclude_categories=["Cs"])))
    def test_a_signature_carries_any_thinking(self, thinking: str) -> None:
        """The text of withheld thinking comes back whole from its signature."""
        signature = signature_of(thinking)

        assert (True, thinking) == (is_ours(signature), thinking_in(signature))

    @given(st.text() | st.integers() | st.none() | st.text().map(lambda rest: f"cortex.{rest}"))
    def test_no_signature_of_others_carries_anything(self, signature: object) -> None:
        """A signature of another server, or a damaged one, carries no thinking."""
        assert "" == thinking_in(signature)

    def test_thinking_that_was_not_withheld_needs_no_more_than_a_mark(self) -> None:
        """The signature of an empty text is the short one."""
        assert SIGNATURE == signature_of("")

    def test_a_small_signature_cannot_unpack_to_gigabytes(self) -> None:
        """A text over the limit is not unpacked."""
        packed = zlib.compress(b"a" * (MAX_BYTES + 1))
        signature = "cortex." + base64.urlsafe_b64encode(packed).decode("ascii")

        assert "" == thinking_in(signature)
