"""The lines about a wait at the beginning of an answer's thinking."""

from hypothesis import given, settings
from hypothesis import strategies as st

from cortexd.dialects.fitting.waiting_words import waiting_line, without_waiting_lines
from cortexd.dialects.wire.profile import MISTRALRS
from cortexd.scheduling.estimating.expectation import Phase
from tests.dialects.fitting.fitted import fitted

LINES = st.lists(
    st.builds(waiting_line, st.sampled_from(Phase), st.integers(0, 999), st.floats(0, 1e6)),
    max_size=3,
)


def test_what_a_line_says() -> None:
    """The phase, the place behind others, and the rest in whole seconds."""
    assert "[cortexd] loading the model, place 2 in the queue, about 20 s left\n" == waiting_line(
        "loading", 2, 20.2
    )
    assert "[cortexd] waiting for a turn, about 1 s left\n" == waiting_line("queued", 1, 0.0)


@settings(max_examples=50)
@given(LINES, st.text(max_size=40))
def test_the_lines_leave_the_thinking(lines: list[str], thinking: str) -> None:
    """Whatever thinking follows them; without such lines nothing changes."""
    assert thinking == without_waiting_lines("".join(lines) + thinking) or thinking.startswith(
        "[cortexd] "
    )
    assert thinking == without_waiting_lines(thinking) or thinking.startswith("[cortexd] ")


def test_no_model_gets_them() -> None:
    """A client may send them back with the thinking, or alone."""
    for thought, left in (("hm", "hm"), ("", None)):
        said = waiting_line("loading", 1, 9.0) + thought
        turns = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "so", "reasoning_content": said},
            {"role": "user", "content": "and?"},
        ]
        assert left == fitted(turns, MISTRALRS)[1].get("reasoning_content")
