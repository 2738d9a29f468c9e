"""How long a client will wait, as the text of a header or of a query."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortexd.errors import BadRequest
from cortexd.gateway.waits.wanted import wanted_wait


def test_seconds() -> None:
    """Whole or with a fraction, in either place; spaces around it are those of a header."""
    assert (0.0, 2.5, 30.0) == tuple(wanted_wait(text, None) for text in ("0", "2.5", " 30 "))
    assert 7.0 == wanted_wait(None, "7")


def test_the_header_counts_before_the_query() -> None:
    """Even if the query says less."""
    assert 10.0 == wanted_wait("10", "0")


def test_a_client_that_says_nothing() -> None:
    """It waits as long as the queue lets it."""
    assert None is wanted_wait(None, None)


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1e3", "5s", "0x1", "1.", "٣", "1,5"])
def test_a_value_that_is_no_number_of_seconds(text: str) -> None:
    """It is refused, with the place where it stands."""
    for place, values in {"X-Cortex-Wait": (text, "5"), "wait": (None, text)}.items():
        with pytest.raises(BadRequest) as refused:
            wanted_wait(*values)
        assert place == refused.value.param


@settings(max_examples=50)
@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    """It is a number of seconds to count with, or it is refused in few words."""
    try:
        wait = wanted_wait(text, None)
    except BadRequest as error:
        wait, words = None, error.message
    else:
        words = ""
    assert (wait is None) is bool(words)
    assert len(words) < 300
    assert 0.0 <= (wait or 0.0) < 1e9
