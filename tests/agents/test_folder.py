"""The folder with the enrolments and our own authority."""

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.agents.folder import Folder
from cortexd.config.agents_file import AgentsTable, EnrolmentSettings, enrolled
from cortexd.config.tables import ConfigError
from cortexd.errors import OperationRefused
from cortexd.link.certificates import DAY, Pair, agent_pair, gateway_pair, loaded

NOW = 1_800_000_000.0
ENTRY = EnrolmentSettings(
    node="gpu1",
    kind="certificate",
    serial="1",
    created=datetime.fromtimestamp(NOW, UTC),
    expires=datetime.fromtimestamp(NOW + DAY, UTC),
)


def enrol(text: str, table: AgentsTable) -> tuple[str, AgentsTable]:
    """Enrol a node."""
    others = tuple(each for each in table.agents if each.node != ENTRY.node)
    return enrolled(text, ENTRY), AgentsTable(agents=(ENTRY, *others), revoked=table.revoked)


class FolderTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a state directory without the folder."""
        state = tempfile.TemporaryDirectory()
        self.addCleanup(state.cleanup)
        self.path = Path(state.name, "agents")
        self.folder = Folder(self.path)

    def fill_disk(self) -> Any:
        """Let nothing more be written until the returned patch is restored."""

        def fail(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        return self.patch(os, "fsync", fail)

    def modes(self) -> dict[str, int]:
        """Return the modes of the folder's files."""
        return {each.name: each.stat().st_mode & 0o777 for each in self.path.iterdir()}


class EnrolmentTests(FolderTestCase):
    def test_a_change(self) -> None:
        """It is in the file, which only its owner may read, as the folder."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)

        assert self.folder.table() == AgentsTable()
        assert self.folder.change(enrol).agents == (ENTRY,)
        assert self.folder.table().agents == (ENTRY,)
        assert self.modes() == {"agents.toml": 0o600}
        assert self.path.stat().st_mode & 0o777 == 0o700

    def test_modes_are_mended(self) -> None:
        """What others could read before is for the owner alone after a change."""
        self.path.mkdir(0o755)
        (self.path / "agents.toml").touch(0o644)
        self.folder.change(enrol)

        assert self.modes() == {"agents.toml": 0o600}
        assert self.path.stat().st_mode & 0o777 == 0o700

    def test_a_damaged_file(self) -> None:
        """It is neither read nor changed, and the error says where the fault is."""
        self.folder.change(enrol)
        file = self.path / "agents.toml"
        file.write_text("[[agents]]\nnode = 'gpu1'\n")

        with self.assertRaises(ConfigError) as caught:
            self.folder.table()
        assert "agents[0].kind: missing" in str(caught.exception)
        with self.assertRaises(OperationRefused) as refused:
            self.folder.change(enrol)
        assert "nothing was changed" in str(refused.exception)
        assert file.read_text() == "[[agents]]\nnode = 'gpu1'\n"

    def test_a_file_that_cannot_be_read(self) -> None:
        """A pipe in its place stops nobody."""
        self.path.mkdir()
        os.mkfifo(self.path / "agents.toml")

        with self.assertRaises(ConfigError):
            self.folder.table()
        with self.assertRaises(OperationRefused):
            self.folder.change(enrol)

    def test_a_form_that_is_not_known(self) -> None:
        """The refusal says how to write the file."""
        self.path.mkdir()
        text = (
            "agents = [{node='gpu1', kind='certificate', serial='2', "
            "created=2026-11-30T17:00:00Z, expires=2026-11-30T17:00:00Z}]\n"
        )
        (self.path / "agents.toml").write_text(text)

        with self.assertRaises(OperationRefused) as refused:
            self.folder.change(enrol)
        assert "write them so; nothing was changed" in str(refused.exception)
        assert (self.path / "agents.toml").read_text() == text

    def test_another_program_changes_the_file(self) -> None:
        """The change is made again on what the other has written, or refused."""
        seen: list[str] = []

        def edit(text: str, table: AgentsTable) -> tuple[str, AgentsTable]:
            seen.append(text)
            if len(seen) < 3:
                (self.path / "agents.toml").write_text(f"# {len(seen)}\n")
            return enrol(text, table)

        self.folder.change(edit)
        assert seen == ["", "# 1\n", "# 2\n"]
        assert (self.path / "agents.toml").read_text().startswith("# 2\n")

        def always(text: str, table: AgentsTable) -> tuple[str, AgentsTable]:
            (self.path / "agents.toml").write_text(text + "#\n")
            return enrol(text, table)

        with self.assertRaises(OperationRefused) as refused:
            self.folder.change(always)
        assert "try again" in str(refused.exception)

    def test_a_folder_that_cannot_be_made(self) -> None:
        """A file in its place is no crash."""
        self.path.touch()

        with self.assertRaises(OperationRefused) as refused:
            self.folder.change(enrol)
        assert "cannot be changed" in str(refused.exception)


class AuthorityTests(FolderTestCase):
    def test_it_is_made_once(self) -> None:
        """The next call finds the same one; its files are for their owner alone."""
        first = self.folder.authority(NOW)

        assert self.folder.authority(NOW).certificate == first.certificate
        assert self.modes() == {"ca.pem": 0o600, "ca-key.pem": 0o600}

    def test_a_crash_before_it_was_whole(self) -> None:
        """A key without its certificate has signed nothing: both are made anew."""
        self.folder.authority(NOW)
        (self.path / "ca.pem").unlink()

        assert self.folder.authority(NOW)

    def test_a_lost_certificate(self) -> None:
        """An authority that may have admitted agents is not replaced in silence."""
        self.folder.authority(NOW)
        self.folder.change(enrol)
        (self.path / "ca.pem").unlink()

        with self.assertRaises(OperationRefused) as refused:
            self.folder.authority(NOW)
        assert "restore ca.pem and ca-key.pem from a backup" in str(refused.exception)

    def test_damaged_files(self) -> None:
        """Each refusal says what to do, and shows no key."""
        self.folder.authority(NOW)
        key = (self.path / "ca-key.pem").read_text()
        other = Folder(self.path.parent / "other")
        other.authority(NOW)
        for content, words in (
            (key[:90], "the private key is damaged"),
            ((other.path / "ca-key.pem").read_text(), "that of another certificate"),
            (None, "ca-key.pem is missing"),
        ):
            if content is None:
                (self.path / "ca-key.pem").unlink()
            else:
                (self.path / "ca-key.pem").write_text(content)
            with self.assertRaises(OperationRefused) as refused:
                self.folder.authority(NOW)
            assert words in str(refused.exception)
            assert "enrol every agent anew" in str(refused.exception)
            assert key[40:60] not in str(refused.exception)

    def test_a_disk_that_cannot_be_written(self) -> None:
        """The refusal says so."""
        self.fill_disk()
        with self.assertRaises(OperationRefused) as refused:
            self.folder.authority(NOW)
        assert "cannot be read or made (No space left on device)" in str(refused.exception)
        assert self.modes() == {}


class GatewayTests(FolderTestCase):
    def test_it_is_made_once(self) -> None:
        """The next call finds the same one, unless the names have changed or its end is near."""
        authority = self.folder.authority(NOW)
        first, words = self.folder.gateway(authority, ["gw"], NOW)

        assert words is None
        assert self.folder.gateway(authority, ["gw"], NOW) == (first, None)
        assert self.modes()["gateway-key.pem"] == self.modes()["gateway.pem"] == 0o600
        assert self.folder.gateway(authority, ["gw2"], NOW)[0] != first
        second, _ = self.folder.gateway(authority, ["gw2"], NOW)
        third, _ = self.folder.gateway(authority, ["gw2"], NOW + 300 * DAY)
        assert third != second

    def test_a_damaged_one_is_made_anew(self) -> None:
        """No agent knows it beforehand."""
        authority = self.folder.authority(NOW)
        first, _ = self.folder.gateway(authority, [], NOW)
        (self.path / "gateway-key.pem").write_text("junk")
        second, words = self.folder.gateway(authority, [], NOW)

        assert words is None
        assert first != second
        assert loaded(second)

    def test_another_s_certificate_in_its_place(self) -> None:
        """One of another authority is replaced: agents would refuse it."""
        authority = self.folder.authority(NOW)
        other = Folder(self.path.parent / "other").authority(NOW)
        for pair in (gateway_pair(other, [], NOW), agent_pair(authority, "gpu1", NOW, NOW + DAY)):
            self._put(pair)
            assert self.folder.gateway(authority, [], NOW)[0] != pair

    def test_a_disk_that_cannot_be_written(self) -> None:
        """The old certificate serves on while it is valid, and then one in memory."""
        authority = self.folder.authority(NOW)
        first, _ = self.folder.gateway(authority, [], NOW)
        for later, is_first in ((300, True), (366, False)):
            disk = self.fill_disk()
            pair, words = self.folder.gateway(authority, [], NOW + later * DAY)
            disk.restore()
            assert "cannot be written (No space left on device)" in (words or "")
            assert (pair == first) == is_first
            assert loaded(pair)
        assert self.folder.gateway(authority, [], NOW) == (first, None)

    def _put(self, pair: Pair) -> None:
        (self.path / "gateway.pem").write_text(pair.certificate)
        (self.path / "gateway-key.pem").write_text(pair.key)
