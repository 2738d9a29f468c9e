import dataclasses
import errno
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.store.replacing import FOREIGN, NEW_FILE_MODE, read_original, replace


class ReplacingTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.file = self.folder / "file"
        self.file.write_bytes(b"before")

    def failing(self, number: int) -> Any:
        """Return a function that fails as the system does."""

        def fail(*given: object) -> None:
            raise OSError(number, os.strerror(number))

        return fail

    def names(self) -> list[str]:
        return [each.name for each in self.folder.iterdir()]

    def test_the_mode_and_the_owner_stay(self) -> None:
        """The new file has those of the old one, which it gives to its owner before it is there."""
        self.file.chmod(0o641)
        given: list[tuple[int, int]] = []
        self.patch(os, "fchown", lambda descriptor, *owner: given.append(owner))
        original = dataclasses.replace(read_original(str(self.file)), owner=(12, 34))

        assert replace(original, b"after")
        assert [(12, 34)] == given
        assert (b"after", 0o641) == (self.file.read_bytes(), self.file.stat().st_mode & 0o777)
        assert ["file"] == self.names()

    def test_a_new_file(self) -> None:
        """It is for the daemon's user alone, and does not replace one that came meanwhile."""
        self.file.unlink()
        original = read_original(str(self.file))
        assert replace(original, b"after")
        assert NEW_FILE_MODE == self.file.stat().st_mode & 0o777
        assert not replace(original, b"again")
        assert b"after" == self.file.read_bytes()

    def test_what_fails_leaves_the_old_file(self) -> None:
        """A full disk, a folder that is read-only, and an owner whom we cannot make one."""
        original = dataclasses.replace(read_original(str(self.file)), owner=(12, 34))
        for name, number, words in (
            ("fchown", errno.EPERM, FOREIGN),
            ("fsync", errno.ENOSPC, "No space left on device"),
            ("open", errno.EROFS, "Read-only file system"),
        ):
            with self.subTest(name):
                if name != "fchown":
                    self.patch(os, "fchown", lambda *given: None)
                patched = self.patch(os, name, self.failing(number))
                with self.assertRaises(OSError) as caught:
                    replace(original, b"after")
                patched.restore()
                assert (number, words) == (caught.exception.errno, caught.exception.strerror)
                assert b"before" == self.file.read_bytes()
                assert ["file"] == self.names()

    def test_a_name_that_is_taken(self) -> None:
        """The draft opens no file of others, even one that was laid there."""
        self.patch(secrets, "token_hex", lambda count: "x")
        (self.folder / ".file.x").symlink_to(self.file)
        self.assertRaises(FileExistsError, replace, read_original(str(self.file)), b"after")
        assert b"before" == self.file.read_bytes()
