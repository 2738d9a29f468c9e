from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.by_model import ByModel


class ByModelTests(SynchronousTestCase):
    @given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans())))
    def test_the_ids_are_always_those_of_now(self, changes: list[tuple[str, bool]]) -> None:
        """Whatever comes and goes between two questions."""
        models = ByModel()
        for model, comes in changes:
            if comes:
                models[model] = {}
            elif model in models:
                del models[model]
            assert tuple(sorted(models)) == models.ids

    def test_they_are_sorted_once(self) -> None:
        """Until a model comes or goes; other nodes of a model change nothing."""
        models = ByModel()
        models["a"] = {}
        before = models.ids
        models["a"] = {}
        assert before is models.ids
