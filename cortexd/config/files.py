"""Reads files that a configuration names."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO, Final

NOT_REGULAR: Final = "it is no regular file"


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading.

    Raises OSError, also for a pipe or a device: to open or to read one might never end, and would
    stop all that waits for it. Raises ValueError for a NUL in the path.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, NOT_REGULAR)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
