import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.probing.answers import Reading, read_answer


def refused(words: str, status: int = 500) -> Reading:
    return read_answer(status, json.dumps({"message": words}).encode())


class ReadAnswerTests(SynchronousTestCase):
    def test_count(self) -> None:
        """An answer says the tokens of its prompt and its one token, with the field of it."""
        message = {"role": "assistant", "content": None, "reasoning_content": "Well"}
        body = {"choices": [{"message": message}], "usage": {"prompt_tokens": 31}}
        found = read_answer(200, json.dumps(body).encode())

        assert (31, False) == (found.tokens, found.raised)
        assert found.said != read_answer(200, b'{"choices": [{"message": {}}]}').said

    def test_words_of_a_template(self) -> None:
        """Only the words of a template, an effort or a blind model teach; others say nothing."""
        assert refused("invalid operation: no system (in chat_template:31)\n 0: main").raised
        assert refused("invalid operation: no system (in chat_template:31)", 422).knows_no_effort
        assert refused("Tools were provided but this chat template does not handle tool usage")
        assert not refused("invalid reasoning effort `xhigh`; expected one of: off").raised
        assert refused("invalid reasoning effort `xhigh`; expected one of: off").knows_no_effort
        assert refused("Received a request incompatible for this model's category.").is_blind
        for words in ("", "engine state lock is poisoned", "CUDA out of memory", "chat_template"):
            assert Reading() == refused(words), words

    def test_answers_of_another_shape(self) -> None:
        """An answer that is no chat says nothing, whatever its status."""
        for body in (b"OK", b"[]", b'{"usage": 7, "choices": []}', b'{"choices": [7]}'):
            found = read_answer(200, body)
            assert (0, "") == (found.tokens, found.said)

    @given(st.integers(0, 599), st.binary(max_size=60))
    def test_any_body(self, status: int, body: bytes) -> None:
        """Any body is read without an error, and bytes that say nothing give no count."""
        assert 0 == read_answer(status, body).tokens
