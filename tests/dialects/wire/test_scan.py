"""The size of a JSON text before it is decoded."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire import scan
from cortexd.dialects.wire.json_values import read_object
from cortexd.dialects.wire.scan import (
    LIGHT_BYTES,
    LIGHT_VALUES,
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_PARTS,
    MAX_TOOLS,
    MAX_VALUES,
    bounds,
    check_size,
    is_light,
    measure,
)
from cortexd.errors import BadRequest, BodyTooLarge

TEXTS = st.text(alphabet='a",\\[]{}:é\n', max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=30,
)


def size_of(value: Any) -> tuple[int, int]:
    """Return values and depth as ``measure`` defines them: an empty container counts twice."""
    if not isinstance(value, (list, dict)):
        return 1, 0
    inner = [size_of(each) for each in (value.values() if isinstance(value, dict) else value)]
    count = sum(values for values, _ in inner) if inner else 1
    return 1 + count, 1 + max((depth for _, depth in inner), default=0)


def body_of(**fields: object) -> bytes:
    return json.dumps(fields).encode()


class MeasureTests(SynchronousTestCase):
    @given(VALUES, st.sampled_from((*range(2, 10), 1_000_000)), st.booleans())
    def test_the_exact_size_is_within_the_bounds(
        self, value: Any, size: int, is_ascii: bool
    ) -> None:
        """Whatever the strings contain, and wherever the slices end."""
        text = json.dumps(value, ensure_ascii=is_ascii).encode()
        self.patch(scan, "_SLICE", size)

        measured, most = measure(text), bounds(text)

        assert size_of(value) == measured
        assert measured.values <= most.values
        assert measured.depth <= most.depth

    def test_the_scan_ends_with_the_limit(self) -> None:
        """The rest of a text that is too large is not read."""
        found = measure(b"[" + b"1," * 2_000_000 + b"1]")

        assert MAX_VALUES < found.values < 2 * MAX_VALUES

    def test_bytes_that_are_no_json_have_a_size_too(self) -> None:
        """Their decoding then says what is wrong with them."""
        for text in (b"", b'"', b"\\", b"\\\\\\", b"]]}", b'{"a', b"\xff\xfe[", b'"\\"'):
            assert measure(text).values < 3


class LimitTests(SynchronousTestCase):
    def test_depth_has_a_limit_of_our_own(self) -> None:
        """And brackets in strings have none."""
        check_size(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
        check_size(body_of(text="[" * 100_000))
        too_deep = b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1)
        for check in (check_size, is_light):
            with self.assertRaises(BadRequest) as raised:
                check(too_deep)
            assert f"at most {MAX_DEPTH} levels" in raised.exception.message

    def test_values_have_a_limit_for_all_texts_of_a_request(self) -> None:
        """The conversation that a request continues counts with it."""
        half = b"[" + b",".join([b"1"] * (MAX_VALUES // 2)) + b"]"
        check_size(half)
        check_size(body_of(text="," * MAX_VALUES))
        with self.assertRaises(BodyTooLarge) as raised:
            check_size(half, half)
        assert f"more than {MAX_VALUES} JSON values" in raised.exception.message

    def test_a_request_is_light_by_its_bytes_and_values(self) -> None:
        """All its texts together; commas in strings do not count."""
        some = b"[" + b"1," * (LIGHT_VALUES // 2) + b"1]"

        assert is_light(body_of(text="," * (LIGHT_BYTES // 2)))
        assert is_light(some)
        assert not is_light(some, some)
        assert not is_light(body_of(text="a" * LIGHT_BYTES))

    def test_lists_have_limits_by_their_meaning(self) -> None:
        """The error names the list, the number of its elements and the limit."""
        part = {"type": "text", "text": "a"}
        bodies = {
            f"'messages' has {MAX_ITEMS + 1} elements; at most {MAX_ITEMS}": body_of(
                messages=[1] * (MAX_ITEMS + 1)
            ),
            f"'input' has {MAX_ITEMS + 1} elements; at most {MAX_ITEMS}": body_of(
                input=["a"] * (MAX_ITEMS + 1)
            ),
            f"'tools' has {MAX_TOOLS + 1} elements; at most {MAX_TOOLS}": body_of(
                tools=[1] * (MAX_TOOLS + 1)
            ),
            f"'messages[1].content' has {MAX_PARTS + 1} parts; at most {MAX_PARTS}": body_of(
                messages=[1, {"role": "user", "content": [part] * (MAX_PARTS + 1)}]
            ),
        }
        for words, body in bodies.items():
            with self.assertRaises(BodyTooLarge) as raised:
                read_object(body)
            assert raised.exception.message.startswith(words)

        read_object(body_of(messages=[{"content": [part] * MAX_PARTS}], tools=[1] * MAX_TOOLS))
