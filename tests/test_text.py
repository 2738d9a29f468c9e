from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.text import (
    LONGEST_LOGGED,
    LONGEST_SHOWN,
    counted,
    one_line,
    printable,
    scrubbed,
    without_keys,
)


class TextTests(SynchronousTestCase):
    def test_a_count(self) -> None:
        """The noun, which is the first word, is singular for one."""
        assert "1 request per minute" == counted(1, "requests per minute")
        assert "0 keys" == counted(0, "keys")
        assert ("1 key", "1000 nodes") == (counted(1, "keys"), counted(1000, "nodes"))

    @given(st.text())
    def test_one_line(self, text: str) -> None:
        """Any text becomes one printable line, and one that is that already stays as it is."""
        line = one_line(text)

        assert line.isprintable()
        assert line == one_line(line)
        assert not text.isprintable() or line == text

    def test_a_long_text_is_cut(self) -> None:
        """A long text is cut to the longest that a message shows, and ends in three dots."""
        assert "a" * LONGEST_SHOWN == printable("a" * LONGEST_SHOWN)
        assert "a" * (LONGEST_SHOWN - 3) + "..." == printable("a" * (LONGEST_SHOWN + 1))


SECRETS = st.text(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=12, max_size=48
)
PROMPTS = st.lists(st.text("abcdefgh", min_size=3, max_size=9), min_size=2, max_size=30).map(
    " ".join
)
SHAPES_WITH_A_KEY = (
    "Incorrect API key provided: sk-{0}. You can find it at https://example.com",
    "invalid key sk-proj-{0}",
    "Authorization: Bearer {0} was rejected",
    "bad header authorization: 'Bearer {0}'",
    'x-api-key "{0}"',
    "api_key={0}&model=x",
    "password: {0}",
    "hf_{0} cannot read this repository",
    "token eyJhbGciOi{0}.{0}.{0} has expired",
)
SHAPES_WITH_A_PROMPT = (
    'the input "{0}" is too long for the cache',
    "cannot tokenize '{0}' with this tokenizer",
    "cannot tokenize `{0}`: channel closed",
    'an error in "{0}',
    '{{"loc":["body","messages"],"input":"{0}"}}',
    '[{{"type":"value_error","input":"{0}"}}]',
)


class ScrubbedTests(SynchronousTestCase):
    @settings(max_examples=60)
    @given(st.sampled_from(SHAPES_WITH_A_KEY), SECRETS)
    def test_keys(self, shape: str, secret: str) -> None:
        """A key goes from any message that says that it is one, for clients and in logs."""
        assume(secret not in shape)  # such as a part of "authorization"
        words = shape.format(secret)
        for kept in (without_keys(words), scrubbed(words)):
            assert secret not in kept.replace("rejected", "")

    @settings(max_examples=60)
    @given(st.sampled_from(SHAPES_WITH_A_PROMPT), PROMPTS)
    def test_prompts(self, shape: str, prompt: str) -> None:
        """What a message quotes of a request is not in the log; clients get it, as it is theirs."""
        words = shape.format(prompt)
        assert prompt not in scrubbed(words)
        assert prompt in without_keys(words)

    def test_useful_words_stay(self) -> None:
        """Messages of nodes without quotes are logged as they are, names in quotes too."""
        for words in (
            "CUDA_ERROR_ILLEGAL_ADDRESS",
            "model `acme/base-7b` is being reloaded",
            "Requested model 'acme/chat' is not available. Available models: a, b.",
            "node gpu-1: the connection was closed before the answer was complete",
            "shape mismatch in matmul, lhs: [1, 8], rhs: [9, 8]",
            "the model's context has 4096 tokens, the prompt 5000",
        ):
            assert words == scrubbed(words) == without_keys(words)
        assert 'DriverError(CUDA_ERROR_NO_DEVICE, "...")' == scrubbed(
            'DriverError(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected")'
        )

    @settings(max_examples=60)
    @given(st.text(max_size=600))
    def test_any_words(self, words: str) -> None:
        """Whatever a node says becomes one printable line of a bounded length."""
        line = scrubbed(words)
        assert line.isprintable()
        assert len(line) <= LONGEST_LOGGED
