"""The output of an engine as lines."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.supervising.engine_lines import (
    KEPT_BYTES,
    KEPT_LINES,
    LONGEST_BYTES,
    LineCutter,
    Ring,
    level_of,
    shown,
)


class LineCutterTests(SynchronousTestCase):
    @given(
        text=st.binary(max_size=200).map(lambda data: data.replace(b"x", b"\n")),
        cuts=st.lists(st.integers(0, 200), max_size=5),
    )
    def test_pieces_do_not_matter(self, text: bytes, cuts: list[int]) -> None:
        """Output comes in any pieces and makes the same lines, the last one at the end."""
        cutter, lines, start = LineCutter(), [], 0
        for cut in [*sorted(cuts), len(text)]:
            lines += cutter.feed(text[start:cut])
            start = max(start, cut)
        lines += cutter.end()

        wanted = text.split(b"\n")
        assert lines == (wanted if wanted[-1] else wanted[:-1])

    def test_a_long_line_is_cut_and_counted(self) -> None:
        """However it comes, a line keeps its beginning, and says how much is missing."""
        for piece in (100, 5000, 50_000):
            cutter, lines = LineCutter(), []
            for start in range(0, 50_000, piece):
                lines += cutter.feed(b"a" * min(piece, 50_000 - start))
            lines += cutter.feed(b"\nnext\n")
            long, after = lines
            assert len(long) <= LONGEST_BYTES
            assert long.endswith(b"a... [45944 bytes more]"), long[-40:]
            assert b"next" == after


class ShownTests(SynchronousTestCase):
    def test_what_steers_a_terminal_is_gone(self) -> None:
        """Colours go, other control characters are escaped, bytes that are no text are replaced."""
        assert "INFO up \\x07" == shown(b"\x1b[32mINFO\x1b[0m up \x07\r")
        assert "100 %" == shown(b" 50 %\r100 %")
        assert "\ufffd" == shown(b"\xff")

    def test_keys_are_removed(self) -> None:
        """No key that can be recognised leaves the agent."""
        assert "token hf_" not in shown(b"token hf_abcdefghijklmnop")

    @given(st.binary(max_size=2 * LONGEST_BYTES))
    def test_any_bytes_make_one_bounded_line(self, line: bytes) -> None:
        """Whatever an engine writes, a line is printable and bounded."""
        text = shown(line)
        assert text.isprintable()
        assert len(text.encode()) <= LONGEST_BYTES

    def test_levels(self) -> None:
        """A line's own severity counts, in the form of systemd or of a Rust program."""
        assert ("error", "no memory") == level_of("<3>no memory")
        assert ("debug", "x") == level_of("<7>x")
        assert "warning" == level_of("2026-11-30T20:00:00Z  WARN mistralrs_core: slow")[0]
        assert "error" == level_of("ERROR failed")[0]
        assert "info" == level_of("the WARNING of a text")[0]


class RingTests(SynchronousTestCase):
    def test_the_latest_lines_stay(self) -> None:
        """The ring is bounded by lines and by bytes."""
        ring = Ring()
        ring.add([b"%d" % number for number in range(KEPT_LINES + 10)])
        assert [f"{KEPT_LINES + 8}", f"{KEPT_LINES + 9}"] == ring.last(2)
        assert KEPT_LINES == len(ring.last(10 * KEPT_LINES))
        assert [] == ring.last(0)

        ring.add([b"x" * LONGEST_BYTES] * KEPT_LINES)
        assert KEPT_BYTES // LONGEST_BYTES == len(ring.last(KEPT_LINES))
