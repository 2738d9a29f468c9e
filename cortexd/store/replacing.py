"""Replaces a file of other people at once, or not at all, and keeps its mode and its owner."""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cortexd.config.files import open_regular

NEW_FILE_MODE: Final = 0o600
FOREIGN: Final = "it belongs to another user, and would not after the change"


@dataclass(frozen=True, slots=True)
class Original:
    """A file as it was read from ``path``, where links have been followed.

    ``was`` tells it from later files there; it is ``None`` for a file that did not exist.
    """

    path: Path
    content: bytes
    mode: int
    owner: tuple[int, int]
    was: tuple[int, ...] | None


def read_original(path: str) -> Original:
    """Return a file as it is now; it need not exist. Raises OSError."""
    found = Path(os.path.realpath(path))
    try:
        with open_regular(found) as file:
            content, status = file.read(), os.fstat(file.fileno())
    except FileNotFoundError:
        return Original(found, b"", NEW_FILE_MODE, (os.geteuid(), os.getegid()), None)
    owner = status.st_uid, status.st_gid
    return Original(found, content, stat.S_IMODE(status.st_mode), owner, _identity(status))


def replace(original: Original, content: bytes) -> bool:
    """Replace a file by another with this content; return False if it has changed meanwhile.

    After a crash there is either the old file or the new one. Raises OSError; then the old one is
    still there.
    """
    path = original.path
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, NEW_FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            status = os.fstat(descriptor)
            if original.owner != (status.st_uid, status.st_gid):
                _give(descriptor, original)
            os.fchmod(descriptor, original.mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if _identity_of(path) != original.was:
            draft.unlink()
            return False
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync(path.parent)
    return True


def _give(descriptor: int, original: Original) -> None:
    """Give a file to the owner of another one. A file that did not exist has no owner to keep."""
    if original.was is None:
        return
    try:
        os.fchown(descriptor, *original.owner)
    except PermissionError as error:
        raise PermissionError(error.errno, FOREIGN) from None


def _identity_of(path: Path) -> tuple[int, ...] | None:
    try:
        return _identity(path.stat())
    except FileNotFoundError:
        return None


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _sync(folder: Path) -> None:
    """Let the new name in a folder outlive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
