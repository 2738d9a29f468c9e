from collections.abc import Callable
from functools import partial

from hypothesis import given, settings
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.json_values import (
    JsonObject,
    decode,
    encode,
    integer,
    read_flag,
    read_model,
    read_object,
    type_name,
)
from cortexd.errors import BadRequest
from tests.dialects.bodies import ANY_ANSWER


def refusal(read: Callable[[], object]) -> tuple[str, str | None]:
    """Return the words and the field of a refusal."""
    try:
        found = read()
    except BadRequest as error:
        return error.message, error.param
    raise AssertionError(f"read {found!r}")


class ReadObjectTests(SynchronousTestCase):
    def test_object(self) -> None:
        """An object is read whatever white space is around it; the last of equal keys counts."""
        assert {"a": 2, "b": [None]} == read_object(b' \n{"a": 1, "a": 2, "b": [null]}\r\n')

    def test_refusals(self) -> None:
        """What is no JSON object is refused in words that say what was found instead."""
        for body, words in (
            (b"", "no body"),
            (b" \r\n", "no body"),
            (b"model=x&stream=1", "not valid JSON"),
            (b'{"model": "x"', "not valid JSON"),
            (b'{"a": NaN}', "not valid JSON"),
            (b'{"a": Infinity}', "not valid JSON"),
            (b'{"a": 1e999}', "not valid JSON"),
            (b'{"a": ' + b"9" * 5_000 + b"}", "not valid JSON"),
            (b'{"a": "\\ud8"}', "not valid JSON"),
            (b'{"a": "\\ud83d" x}', "not valid JSON"),
            (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
            (b'{"a": "\xff"}', "not UTF-8"),
            (b'{"\xff": 1}', "not UTF-8"),
            (b"\x1f\x8b\x08\x00", "not UTF-8"),
            (b'{"a":' * 5_000, "nested too deeply"),
            (b"[" * 100_000, "nested too deeply"),
            (b"[]", "is an array; a JSON object is expected"),
            (b'"x"', "is a string; a JSON object is expected"),
            (b"null", "is null; a JSON object is expected"),
        ):
            found, param = refusal(partial(read_object, body))
            assert words in found, (body[:30], found)
            assert None is param

    def test_half_of_a_surrogate_pair(self) -> None:
        """A text that was cut in an emoji is read; pairs, and backslashes before them, stay."""
        for text, found in (
            (r"ok \ud83d", "ok \ufffd"),
            (r"\uDE00\ud83d!", "\ufffd\ufffd!"),
            (r"\ud83d\ud83d\ude00\ude00", "\ufffd\U0001f600\ufffd"),
            (r"\\ud83d \\\ud83d", "\\ud83d \\\ufffd"),
        ):
            assert {"a": found} == read_object(b'{"a": "%b"}' % text.encode()), text

    def test_no_content_in_the_words(self) -> None:
        """The words of a refusal hold nothing of the body: it goes to logs and other eyes."""
        for body in (b'{"a": "secret" oops}', b'{"a": "secret\xff"}', b'"secret"'):
            words, _ = refusal(partial(read_object, body))
            assert "secret" not in words
            assert "xff" not in words

    @settings(max_examples=150)
    @given(ANY_ANSWER)
    def test_anything(self, body: bytes) -> None:
        """Any bytes are an object that can be encoded again, or are refused."""
        try:
            value = read_object(body)
        except BadRequest:
            return
        assert value == decode(encode(value))


class FieldTests(SynchronousTestCase):
    def test_type_names(self) -> None:
        """Types have JSON's names, not Python's."""
        values: list[object] = [None, True, 1, 1.5, "", [], {}]

        assert [
            "null",
            "a boolean",
            "a number",
            "a number",
            "a string",
            "an array",
            "an object",
        ] == [type_name(value) for value in values]

    def test_model(self) -> None:
        """A model is named by a string that is not empty; the refusal says what was found.

        Without a name it is the default one.
        """
        assert ["m", "default", "default"] == [
            read_model(body) for body in ({"model": "m"}, {}, {"model": None})
        ]
        bodies: list[tuple[JsonObject, str]] = [
            ({"model": ""}, "found an empty string"),
            ({"model": ["m"]}, "found an array"),
            ({"model": False}, "found a boolean"),
        ]
        for body, ending in bodies:
            words, param = refusal(partial(read_model, body))
            assert words.endswith(ending), words
            assert "model" == param

    def test_flag(self) -> None:
        """A flag is a boolean, false when absent or null; anything else is refused by its path."""
        assert [True, False, False, False] == [
            read_flag(body, "stream")
            for body in ({"stream": True}, {"stream": False}, {"stream": None}, {})
        ]
        assert ("'stream' must be true or false; found a string", "stream") == refusal(
            lambda: read_flag({"stream": "true"}, "stream")
        )
        assert ("'options.usage' must be true or false; found a number", "options.usage") == (
            refusal(lambda: read_flag({"usage": 1}, "usage", within="options"))
        )

    def test_integer(self) -> None:
        """Only a count is a count."""
        values: list[object] = [3, -3, True, None, "3", 3.0]

        assert [3, 0, 0, 0, 0, 0] == [integer(value) for value in values]
