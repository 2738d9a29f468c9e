"""When queues are looked at next."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.scheduling.dues import Dues


def taken(dues: Dues) -> list[str]:
    """Take all queues that are due."""
    found = []
    while (model := dues.next()) is not None:
        found.append(model)
    return found


class DuesTests(SynchronousTestCase):
    def test_changed(self) -> None:
        """A queue that has changed is due at once, and only once."""
        dues = Dues()
        dues.begin({"a": None, "b": None}, 1.0)

        assert ["a", "b"] == taken(dues)
        assert not dues.goes_on

    def test_in_time(self) -> None:
        """A queue is due at its time, or at the earlier one of two."""
        dues = Dues()
        dues.add("a", 30.0)
        dues.add("b", 20.0)
        dues.add("a", 10.0)
        dues.add("a", 40.0)
        dues.begin({}, 9.0)
        assert [] == taken(dues)
        dues.begin({}, 20.0)

        assert ["a", "b"] == taken(dues)

    def test_left_over(self) -> None:
        """What a tick has not come to is due in its next part, and in the next tick."""
        dues = Dues()
        dues.begin({"a": None, "b": None}, 1.0)
        assert "a" == dues.next()
        assert dues.goes_on
        dues.begin({"b": None, "c": None}, 2.0)

        assert ["b", "c"] == taken(dues)

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=12))
    def test_the_earliest_of_each(self, added: list[tuple[str, int]]) -> None:
        """Each queue is due once, at the earliest time that it was given."""
        dues = Dues()
        for model, at in added:
            dues.add(model, float(at))
        earliest = {model: min(at for name, at in added if name == model) for model, _ in added}
        due_at = {}
        for now in range(10):
            dues.begin({}, float(now))
            due_at.update(dict.fromkeys(taken(dues), now))

        assert earliest == due_at
