"""What no log may contain, and values that are no plain data."""

import dataclasses
import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from cortexd import logs
from cortexd.logs import redacted


@dataclasses.dataclass
class Letter:
    """Stands for any typed value that holds what a client wrote."""

    model: str
    prompt: str


class Parcel(msgspec.Struct):
    """The same as a msgspec Struct, which is what requests are decoded into."""

    model: str
    messages: list[str]


class RedactedTests(SynchronousTestCase):
    def test_every_spelling_of_a_key(self) -> None:
        """Case, dashes and bytes in a key make no difference."""
        keys: list[Any] = ["Authorization", b"x-api-key", "API_KEY", "Set-Cookie", "input"]

        self.assertEqual({"[redacted]"}, set(redacted(dict.fromkeys(keys, "sk-1")).values()))

    def test_words_that_only_contain_a_key(self) -> None:
        """Counts such as prompt_tokens are no prompts."""
        counts = {"prompt_tokens": 3, "content_length": 5, "input_tokens": 7}

        self.assertEqual(counts, redacted(counts))

    def test_typed_values(self) -> None:
        """Dataclasses, Structs, header collections and pairs are looked into as dicts are."""
        headers = Headers({b"cookie": [b"sk-1"]})

        self.assertEqual({"model": "m", "prompt": "[redacted]"}, redacted(Letter("m", "hush")))
        self.assertEqual({"model": "m", "messages": "[redacted]"}, redacted(Parcel("m", ["hush"])))
        self.assertEqual({"Cookie": "[redacted]"}, redacted(headers))
        self.assertEqual([["b'X-Api-Key'", "[redacted]"]], redacted([(b"X-Api-Key", b"sk-1")]))
        self.assertEqual([{"model": "m", "prompt": "[redacted]"}], redacted((Letter("m", "hush"),)))

    def test_value_that_holds_itself(self) -> None:
        """A structure without end is cut off at a depth."""
        endless: dict[str, object] = {}
        endless["again"] = endless

        assert "[too deep]" in json.dumps(redacted(endless))

    def test_long_text_is_cut(self) -> None:
        """A client cannot fill the log with one value."""
        text = redacted("x" * 1_000_000)

        assert len(text) < logs.MAX_TEXT_LENGTH + 100
        assert text.endswith("[1000000 characters]")

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(st.text() | st.integers(), inner)
                | st.dictionaries(st.sampled_from(["Prompt", "x-api-key"]), st.just("hush-hush"))
            ),
        )
    )
    def test_any_value_is_safe(self, value: object) -> None:
        """Whatever is logged comes out as JSON that hides the secrets in it."""
        encoded = msgspec.json.encode(redacted(value))

        json.loads(encoded)
        assert b"hush-hush" not in encoded
