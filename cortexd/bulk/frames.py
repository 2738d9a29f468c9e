"""Values between the daemon and the process that translates large bodies.

A value is pickled, except for its large texts: they go through a file in memory, which both sides
read and write without holding Python's lock. The pickle has their places in a list.
"""

from __future__ import annotations

import io
import os
import pickle
import tempfile
from typing import Any, Final

APART_BYTES: Final = 64 * 1024
"""The size above which a text goes through the file."""

_SIZE_BYTES: Final = 8


def pack(value: object) -> tuple[bytes, list[bytes]]:
    """Return a value as a pickle and the large texts in it, each once."""
    written = io.BytesIO()
    pickler = _Pickler(written, protocol=pickle.HIGHEST_PROTOCOL)
    pickler.dump(value)
    return written.getvalue(), pickler.apart


def unpack(pickled: bytes, apart: list[bytes]) -> Any:
    """Return the value. Only a process that this program has started may have pickled it."""
    return _Unpickler(io.BytesIO(pickled), apart).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self.apart: list[bytes] = []

    def persistent_id(self, value: object) -> int | None:
        if type(value) is not bytes or len(value) <= APART_BYTES:
            return None
        for number, text in enumerate(self.apart):  # a hash would take as long as a copy
            if len(text) == len(value) and text == value:
                return number
        self.apart.append(value)
        return len(self.apart) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, apart: list[bytes]) -> None:
        super().__init__(file)
        self._apart = apart

    def persistent_load(self, number: int) -> bytes:
        return self._apart[number]


class Parcel:
    """A text on its way: it is taken once, so that no frame of the way keeps it."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def take(self) -> bytes:
        """Return the text, and let go of it."""
        text, self._text = self._text, b""
        return text


def memory_file() -> int:
    """Return the descriptor of a new file in memory; without Linux, of one without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("cortexd-bodies")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Channel:
    """One end of the way between both processes: values in order, each way through one pipe.

    ``reads`` and ``writes`` are the descriptors of the pipes, ``file_in`` and ``file_out`` those of
    the files with the large texts. Every call waits for the other side, without Python's lock.
    """

    def __init__(self, reads: int, writes: int, file_in: int, file_out: int) -> None:
        self._reads = reads
        self._writes = writes
        self._file_in = file_in
        self._file_out = file_out

    def send(self, value: object) -> None:
        """Send a value. Raises OSError if the other side is gone."""
        pickled, apart = pack(value)
        place = 0
        for text in apart:
            place += _write_all(self._file_out, text, place)
        frame, _ = pack((len(pickled), [len(text) for text in apart]))
        _write_all(self._writes, len(frame).to_bytes(_SIZE_BYTES, "big") + frame + pickled)

    def receive(self) -> Any:
        """Return the next value of the other side. Raises EOFError if that is gone."""
        frame = self._read(int.from_bytes(self._read(_SIZE_BYTES), "big"))
        size, sizes = unpack(frame, [])
        pickled = self._read(size)
        apart, place = [], 0
        for each in sizes:
            apart.append(_read_at(self._file_in, each, place))
            place += each
        if sizes:
            os.ftruncate(self._file_in, 0)
        return unpack(pickled, apart)

    def _read(self, size: int) -> bytes:
        pieces = []
        while size:
            piece = os.read(self._reads, size)
            if not piece:
                raise EOFError
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


def _write_all(descriptor: int, data: bytes, place: int | None = None) -> int:
    view, done = memoryview(data), 0
    while done < len(view):
        if place is None:
            done += os.write(descriptor, view[done:])
        else:
            done += os.pwrite(descriptor, view[done:], place + done)
    return done


def _read_at(descriptor: int, size: int, place: int) -> bytes:
    """Return bytes of a file, by one read as a rule: another one would copy the bytes before."""
    found = os.pread(descriptor, size, place)
    while len(found) < size:
        more = os.pread(descriptor, size - len(found), place + len(found))
        if not more:
            raise EOFError
        found += more
    return found
