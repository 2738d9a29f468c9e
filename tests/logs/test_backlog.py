"""The lines that wait: in order, whole, and bounded."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.logs.backlog import Backlog


def notice(lines: int) -> bytes:
    return b"dropped %d\n" % lines


def written(backlog: Backlog, most: int) -> bytes:
    """Write up to ``most`` bytes at a time until nothing waits; return all of them."""
    output = b""
    while backlog:
        piece = backlog.first()[:most]
        backlog.note_written(len(piece))
        output += piece
    return output


class BacklogTests(SynchronousTestCase):
    def test_a_gap_is_told_in_its_place(self) -> None:
        """Lines before and after it stay in order, and the notice counts what is missing."""
        backlog = Backlog(8, notice)
        for line in (b"one\n", b"two\n", b"three\n", b"four\n"):
            backlog.add(line)
        backlog.note_written(4)
        backlog.add(b"5\n")

        assert b"two\ndropped 3\n" == written(backlog, 100)
        backlog.add(b"6\n")
        assert (b"6\n", 3) == (written(backlog, 1), backlog.dropped)

    def test_a_gap_is_told_without_another_line(self) -> None:
        """The notice follows as soon as all that waited is written."""
        backlog = Backlog(4, notice)
        backlog.add(b"one\n")
        backlog.add(b"two\n")

        assert b"one\ndropped 1\n" == written(backlog, 3)

    def test_the_rest_of_a_line_is_never_dropped(self) -> None:
        """A line that was begun is ended, however long it is."""
        backlog = Backlog(4, notice)
        backlog.add(b"a long line\n", 7)

        assert b"line\n" == written(backlog, 2)

    @given(
        st.lists(st.binary(max_size=12).map(lambda line: line.hex().encode()) | st.integers(1, 9)),
        st.integers(0, 60),
    )
    def test_nothing_is_reordered_or_lost_silently(
        self, steps: list[bytes | int], limit: int
    ) -> None:
        """Whatever is added and written: lines and notices together are all that was added."""
        backlog, output, added = Backlog(limit, notice), b"", list[bytes]()
        for step in steps:
            if isinstance(step, bytes):
                added.append(step + b"\n")
                backlog.add(added[-1])
            elif backlog:
                piece = backlog.first()[:step]
                backlog.note_written(len(piece))
                output += piece
        if backlog:
            output += written(backlog, 5)
        missing = 0
        for line in output.splitlines(keepends=True):
            if line.startswith(b"dropped "):
                count = int(line.split()[1])
                missing += count
                del added[:count]
            else:
                assert line == added.pop(0)
        assert ([], missing) == (added, backlog.dropped)
