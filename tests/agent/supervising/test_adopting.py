"""What the next agent finds of the engine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.supervising.adopting import FILE_NAME, RunDirectory, RunDirectoryError
from cortexd.agent.supervising.kernel import ProcessId

COMMAND = ["engine", "--port", "1"]


class RunDirectoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a folder and the identity of a boot."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.path = self.folder / "a" / "run"
        self.boot_id = self.folder / "boot_id"
        self.boot_id.write_text("boot-1\n")

    def directory(self) -> RunDirectory:
        """Return the directory as another agent sees it."""
        directory = RunDirectory(self.path, self.boot_id)
        self.addCleanup(directory.close)
        return directory

    def test_a_process_is_found_again(self) -> None:
        """By the next agent, in the same boot, until it is forgotten."""
        first = self.directory()
        first.open()
        assert first.left() is None
        first.note(ProcessId(10, 99), COMMAND)
        first.close()
        second = self.directory()
        second.open()
        assert (ProcessId(10, 99), COMMAND) == second.left()

        self.boot_id.write_text("boot-2\n")
        assert second.left() is None
        self.boot_id.write_text("boot-1\n")
        second.forget()
        second.forget()
        assert second.left() is None

    def test_a_file_that_is_no_use(self) -> None:
        """It counts as missing."""
        directory = self.directory()
        directory.open()
        for text in ("", "{", '{"pid": "x"}'):
            (self.path / FILE_NAME).write_text(text)
            assert directory.left() is None

    def test_only_the_agent_may_write_there(self) -> None:
        """Another user's file would choose the process that the agent ends."""
        self.path.mkdir(parents=True)
        self.path.chmod(0o777)
        with self.assertRaises(RunDirectoryError) as caught:
            self.directory().open()
        assert "nobody else may write there" in str(caught.exception)

    def test_a_link_of_another_user(self) -> None:
        """It would choose where the agent writes; the agent's own link, or root's, may."""
        real = self.folder / "real"
        real.mkdir(mode=0o700)
        self.path.parent.mkdir()
        self.path.symlink_to(real)
        directory = self.directory()
        directory.open()
        directory.close()
        if os.getuid() == 0:
            os.lchown(self.path, 65534, 65534)
            with self.assertRaises(RunDirectoryError):
                self.directory().open()

    def test_a_directory_that_cannot_be_made(self) -> None:
        """The error names it and the reason."""
        (self.folder / "a").write_text("a file")
        with self.assertRaises(RunDirectoryError) as caught:
            self.directory().open()
        assert f"{self.path}: the run directory cannot be used:" in str(caught.exception)
