from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.fields import (
    quoted,
    read_dict,
    read_integer,
    read_list,
    read_name,
    read_number,
    read_optional_string,
    read_string,
)
from cortexd.errors import BadRequest


def refusal(read: Callable[..., object], *given: object) -> str:
    """Return the words of a refusal, which name the path and are about it."""
    value, *rest = given
    try:
        found = read(value, "a[0].b", *rest)
    except BadRequest as error:
        param, words = error.param, error.message
    else:
        raise AssertionError(f"read {found!r}")
    assert "a[0].b" == param
    return words


class FieldTests(SynchronousTestCase):
    def test_types(self) -> None:
        """A value of the right type is read as it is; another is refused with what was found."""
        cases: list[tuple[Callable[..., Any], object, object, str]] = [
            (read_string, "", 7, "a[0].b must be a string; found a number"),
            (read_name, "x", None, "a[0].b must be a string; found null"),
            (read_name, "x", "", "a[0].b must not be empty"),
            (read_optional_string, "x", [], "a[0].b must be a string; found an array"),
            (read_list, [1], {}, "a[0].b must be an array; found an object"),
            (read_dict, {"c": 1}, "{}", "a[0].b must be an object; found a string"),
        ]
        for read, good, wrong, words in cases:
            assert good == read(good, "a[0].b")
            assert words == refusal(read, wrong)
        assert "" == read_optional_string(None, "a[0].b")

    def test_numbers(self) -> None:
        """A number within its bounds is read as it is; the refusal tells them."""
        assert 1 == read_integer(1, "a[0].b", 1)
        integers: list[tuple[object, str]]
        integers = [(0, "0"), (1.5, "1.5"), ("1", "a string"), (True, "a boolean")]
        for wrong, found in integers:
            assert f"a[0].b must be an integer, 1 or more; found {found}" == (
                refusal(read_integer, wrong, 1)
            )
        assert [0, 0.5, 1] == [read_number(value, "a[0].b", 1.0) for value in (0, 0.5, 1)]
        numbers: list[tuple[object, str]]
        numbers = [(-1, "-1"), (1.25, "1.25"), (None, "null"), (False, "a boolean")]
        for wrong, found in numbers:
            assert f"a[0].b must be a number from 0 to 1; found {found}" == (
                refusal(read_number, wrong, 1.0)
            )

    def test_long_values(self) -> None:
        """Of a long value only its beginning is told."""
        assert "'" + "x" * 64 + "'" == quoted("x" * 64)
        assert "'" + "x" * 64 + "…'" == quoted("x" * 65)
        assert len(refusal(read_integer, -(10**4_000), 1)) < 150
