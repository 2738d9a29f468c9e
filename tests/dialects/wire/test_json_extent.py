import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.json_extent import Extent, ObjectExtent

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def extent_of(*pieces: str) -> Extent:
    extent = ObjectExtent()
    for piece in pieces:
        extent.take(piece)
    return extent.extent


class ObjectExtentTests(SynchronousTestCase):
    def test_extents(self) -> None:
        """An object is blank, then inside, then whole, and spoiled by what follows it."""
        for text, expected in (
            ("", Extent.BLANK),
            (" \n\t", Extent.BLANK),
            ("{", Extent.INSIDE),
            ('{"a":[{}', Extent.INSIDE),
            ('{"}', Extent.INSIDE),
            ('{"\\"}', Extent.INSIDE),
            ("{}", Extent.WHOLE),
            (' {"a":{"b":[]}} \n', Extent.WHOLE),
            ('{"}\\\\"}', Extent.WHOLE),
            ("{}}", Extent.SPOILED),
            ("{} x", Extent.SPOILED),
            ("null", Extent.NO_OBJECT),
            ("[]", Extent.NO_OBJECT),
            ('"{}"', Extent.NO_OBJECT),
        ):
            assert expected is extent_of(text), text
            assert expected is extent_of(*text), text

    @given(st.dictionaries(st.text(), _JSON), st.lists(st.integers(0), max_size=4), st.booleans())
    def test_any_object(self, value: dict[str, object], cuts: list[int], is_plain: bool) -> None:
        """Any object is inside until its last character and then whole, however it is cut."""
        text = json.dumps(value, ensure_ascii=is_plain)
        edges = [0, *sorted(cut % len(text) for cut in cuts), len(text) - 1]
        extent = ObjectExtent()
        for start, end in pairwise(edges):
            extent.take(text[start:end])
            assert extent.extent in (Extent.BLANK, Extent.INSIDE)
        extent.take(text[-1])

        assert Extent.WHOLE is extent.extent
