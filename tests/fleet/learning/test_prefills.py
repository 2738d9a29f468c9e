from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.learning import prefills
from cortexd.fleet.learning.prefills import (
    ASSUMED_ANSWER_SECONDS,
    ASSUMED_FIRST_SECONDS,
    ASSUMED_RATE,
    Paces,
    Reading,
)


class PacesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.paces = Paces()

    def test_nothing_measured(self) -> None:
        """Before any answer the figures are assumed."""
        assert ASSUMED_RATE == self.paces.rate("ada", "m")
        assert ASSUMED_ANSWER_SECONDS == self.paces.answer_seconds("ada", "m")
        assert ASSUMED_FIRST_SECONDS == self.paces.prefill_seconds("ada", "m", 0)

    def test_cached_tokens_are_not_read(self) -> None:
        """Only the tokens that were not cached count as read until the first content."""
        self.paces.learn("ada", "m", Reading(5_000, 1_000, 2.0, 8.0))

        assert 2_000 == self.paces.rate("ada", "m")
        assert 8.0 == self.paces.answer_seconds("ada", "m")
        assert 3.0 == self.paces.prefill_seconds("ada", "m", 6_000)
        assert 2.0 == self.paces.prefill_seconds("ada", "m", 0)

    def test_other_nodes_stand_in(self) -> None:
        """A node without measurements of a model has those of the other nodes."""
        self.paces.learn("ada", "m", Reading(4_000, 0, 2.0, 8.0))

        assert 2_000 == self.paces.rate("bob", "m")
        assert ASSUMED_RATE == self.paces.rate("bob", "n")

    def test_short_prompts(self) -> None:
        """A prompt that was nearly all in the cache says nothing about the rate."""
        self.paces.learn("ada", "m", Reading(5_000, 4_990, 0.5, 8.0))

        assert ASSUMED_RATE == self.paces.rate("ada", "m")

    def test_newest_weighs(self) -> None:
        """Later answers move the mean."""
        for seconds in (1.0, 2.0):
            self.paces.learn("ada", "m", Reading(1_000, 0, seconds, 1.0))

        assert 900 == self.paces.rate("ada", "m")

    def test_whole_answers(self) -> None:
        """The content of a whole answer comes at its end, so it says nothing of the prompt."""
        self.paces.learn("ada", "m", Reading(1_000, 0, 9.0, 0.0, is_whole=True))

        assert ASSUMED_FIRST_SECONDS == self.paces.prefill_seconds("ada", "m", 0)

    def test_bound(self) -> None:
        """The memory has a bound, whatever models come and go."""
        self.patch(prefills, "MOST_REPLICAS", 10)
        for number in range(100):
            self.paces.learn("ada", f"m{number}", Reading(1_000, 0, 1.0, 1.0))

        assert 10 == len(self.paces)
