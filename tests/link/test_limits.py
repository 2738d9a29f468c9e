"""The limits of a link."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.link.backoff import FIRST_SECONDS, LONGEST_SECONDS, STEADY_SECONDS, Backoff
from cortexd.link.limits import (
    BOXES_PER_SECOND,
    BURST,
    MAX_LINE,
    MAX_LINES_BYTES,
    MAX_WORDS,
    Allowance,
    batches,
    last_lines,
    line_of,
    words_of,
)

LINES = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.integers(1, 3 * MAX_LINE).map(lambda n: "x" * n),
        st.integers(1, MAX_LINE).map(lambda n: "\0\ud800" * n),
    ),
    max_size=40,
)


class AllowanceTests(SynchronousTestCase):
    def test_a_burst_is_free(self) -> None:
        """As many boxes as come with a new link are read at once; the next one waits."""
        allowance = Allowance(0.0)

        assert {0.0} == {allowance.take(0.0) for _ in range(int(BURST))}
        assert allowance.take(0.0) > 0

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.floats(0, 0.05), min_size=300, max_size=600))
    def test_the_long_run(self, gaps: list[float]) -> None:
        """A sender that is held as long as it should be has no more than its rate and the burst."""
        allowance, now = Allowance(0.0), 0.0
        for gap in gaps:
            now += gap
            now += allowance.take(now)

        assert len(gaps) <= BURST + now * BOXES_PER_SECOND + 1


class BackoffTests(SynchronousTestCase):
    def test_waits_grow(self) -> None:
        """Each wait is between half of its length and the whole, and none is longer than 60 s."""
        longest, shortest = Backoff(lambda: 1.0), Backoff(lambda: 0.0)
        waits = [longest.next() for _ in range(9)]

        assert [FIRST_SECONDS, 2.0, 4.0, 8.0, 16.0, 32.0, LONGEST_SECONDS] == waits[:7]
        assert {LONGEST_SECONDS} == set(waits[6:])
        assert [wait / 2 for wait in waits] == [shortest.next() for _ in range(9)]

    def test_a_good_link_begins_anew(self) -> None:
        """After a link that has lasted, the first wait is short; after a short one it is not."""
        backoff = Backoff(lambda: 1.0)
        for _ in range(5):
            backoff.next()
        backoff.note_link(STEADY_SECONDS - 1)
        before = backoff.next()
        backoff.note_link(STEADY_SECONDS)

        assert (32.0, FIRST_SECONDS) == (before, backoff.next())


class WordsTests(SynchronousTestCase):
    @settings(max_examples=60, deadline=None)
    @given(LINES)
    def test_lines_fit(self, lines: list[str]) -> None:
        """Lines go over the link in boxes of a limited size, in order, each one cut at most."""
        found = list(batches(lines))
        flat = [line for batch in found for line in batch]

        assert len(lines) == len(flat)
        assert all(len(line) <= MAX_LINE for line in flat)
        assert all(len(msgspec.json.encode(batch)) < MAX_LINES_BYTES + 30_000 for batch in found)
        last = last_lines(lines)
        assert last == flat[len(flat) - len(last) :]
        assert len(msgspec.json.encode(last)) <= MAX_LINES_BYTES + 2

    @settings(max_examples=60, deadline=None)
    @given(st.text(max_size=2 * MAX_WORDS))
    def test_words_of_others(self, text: str) -> None:
        """What the other side says becomes one printable line, which is not too long."""
        assert words_of(text).isprintable()
        assert len(words_of(text)) <= MAX_WORDS
        assert line_of(text).replace("\t", "").isprintable()


class LastLinesTests(SynchronousTestCase):
    @given(st.lists(st.text(max_size=30), max_size=20), st.integers(2, 400))
    def test_the_last_lines_fit(self, lines: list[str], limit: int) -> None:
        """The answer has as many of the last lines as the limit allows."""
        kept = last_lines(lines, limit - 2)
        assert kept == lines[len(lines) - len(kept) :]
        assert len(msgspec.json.encode(kept)) <= limit
        if len(kept) < len(lines):
            one_more = lines[len(lines) - len(kept) - 1 :]
            assert len(msgspec.json.encode(one_more)) + 1 > limit
