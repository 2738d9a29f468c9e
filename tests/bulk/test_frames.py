"""Values on their way between the daemon and the process that translates large bodies."""

import os
import threading
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.bulk.frames import APART_BYTES, Channel, Parcel, memory_file, pack, unpack

LARGE = b"a" * (APART_BYTES + 1)


class PackTests(SynchronousTestCase):
    def test_large_texts_are_apart_from_the_pickle_and_each_once(self) -> None:
        """Equal texts of two kinds of node, for example, cross over once."""
        value = {"a": [LARGE, b"small"], "b": bytes(bytearray(LARGE)), "c": LARGE + b"b"}

        pickled, apart = pack(value)

        assert len(pickled) < 200
        assert [LARGE, LARGE + b"b"] == apart
        assert value == unpack(pickled, apart)

    def test_a_parcel_is_taken_once(self) -> None:
        """After that it holds no text."""
        parcel = Parcel(LARGE)

        assert (LARGE, b"") == (parcel.take(), parcel.take())


class ChannelTests(SynchronousTestCase):
    def channels(self) -> tuple[Channel, Channel, list[int]]:
        """Return both ends, and the descriptors of the first end's pipe out and of its files."""
        there, back = os.pipe(), os.pipe()
        files = memory_file(), memory_file()
        for descriptor in (*there, *back, *files):
            self.addCleanup(self._close, descriptor)
        ours = Channel(back[0], there[1], files[0], files[1])
        theirs = Channel(there[0], back[1], files[1], files[0])
        return ours, theirs, [there[1], *files]

    @staticmethod
    def _close(descriptor: int) -> None:
        try:
            os.close(descriptor)
        except OSError:
            return

    def test_values_cross_over_and_leave_nothing_in_the_files(self) -> None:
        """One after the other, with large texts and without."""
        ours, theirs, descriptors = self.channels()
        got: list[Any] = []
        values = [("job", [LARGE, 1]), "small", [LARGE + b"b", LARGE]]
        for value in values:
            sending = threading.Thread(target=ours.send, args=(value,))
            sending.start()
            got.append(theirs.receive())
            sending.join()

        assert values == got
        assert [0, 0] == [os.fstat(file).st_size for file in descriptors[1:]]

    def test_the_end_of_the_other_side_is_an_error(self) -> None:
        """Also in the middle of a value."""
        _, theirs, descriptors = self.channels()
        os.write(descriptors[0], b"\0\0")
        os.close(descriptors[0])

        with self.assertRaises(EOFError):
            theirs.receive()
