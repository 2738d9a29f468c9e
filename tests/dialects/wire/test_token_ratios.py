from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.token_ratios import (
    LEAST,
    MAX_MODELS,
    MEMORY,
    MOST,
    START,
    WEIGHT_OF_THE_START,
    TokenRatios,
)

_NUMBERS = st.integers(-5, 10**9)


class TokenRatiosTests(SynchronousTestCase):
    def test_a_guess_at_first(self) -> None:
        """Of a model that nobody has asked the ratio is the guess."""
        assert START == TokenRatios().of("m")

    def test_learned(self) -> None:
        """What nodes count draws the ratio to it, the more the more was counted."""
        ratios = TokenRatios()
        ratios.note("m", 2 * WEIGHT_OF_THE_START, WEIGHT_OF_THE_START)
        assert (START + 2) / 2 == ratios.of("m")
        for _ in range(200):
            ratios.note("m", 2 * WEIGHT_OF_THE_START, WEIGHT_OF_THE_START)

        assert 2.0 < ratios.of("m") < 2.02
        assert START == ratios.of("another")

    def test_unlearned(self) -> None:
        """Long use does not outweigh what comes now: a ratio follows its model's use."""
        ratios = TokenRatios()
        for _ in range(1_000):
            ratios.note("m", 2 * MEMORY // 10, MEMORY // 10)
        for _ in range(50):
            ratios.note("m", 4 * MEMORY // 10, MEMORY // 10)

        assert 3.9 < ratios.of("m") <= 4.0

    def test_nothing_to_learn(self) -> None:
        """A node that counted nothing, and a prompt of nothing, teach nothing."""
        ratios = TokenRatios()
        for prompt_bytes, prompt_tokens in ((100, 0), (0, 100), (100, -1), (-1, 100)):
            ratios.note("m", prompt_bytes, prompt_tokens)

        assert START == ratios.of("m")

    def test_models_are_forgotten(self) -> None:
        """Beyond the bound the model is forgotten that was asked least lately."""
        ratios = TokenRatios()
        for number in range(MAX_MODELS):
            ratios.note(f"m{number}", 2_000, 1_000)
        ratios.note("m0", 2_000, 1_000)
        ratios.note("another", 2_000, 1_000)

        assert START == ratios.of("m1")
        assert START != ratios.of("m0")
        assert START != ratios.of("another")

    @given(st.lists(st.tuples(_NUMBERS, _NUMBERS), max_size=20))
    def test_any_counts(self, counts: list[tuple[int, int]]) -> None:
        """Whatever nodes count the ratio is one that a tokenizer could have."""
        ratios = TokenRatios()
        for prompt_bytes, prompt_tokens in counts:
            ratios.note("m", prompt_bytes, prompt_tokens)

        assert LEAST <= ratios.of("m") <= MOST
