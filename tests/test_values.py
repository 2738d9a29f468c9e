"""Values: small dataclasses that nothing changes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from cortexd.values import value


@value
class Point:
    """A place."""

    x: int
    y: int = 0


class ValueTests(SynchronousTestCase):
    def test_values_compare_and_hash_by_their_fields(self) -> None:
        """Equal fields make equal values, which are one member of a set."""
        assert {Point(1), Point(1, 0), Point(1, 2)} == {Point(1, 2), Point(1)}

    def test_a_value_has_no_other_fields(self) -> None:
        """A field that is not declared cannot be set."""
        assert not hasattr(Point(1), "__dict__")
