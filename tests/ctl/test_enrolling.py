"""``cortexctl agent``: enrolments, in a file or on standard output, and their list."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from cortexd.agents.enrolling import Enroller, EnrolmentTerms
from cortexd.control.contract import Refused, UnknownNode
from cortexd.control.enrolment_commands import EnrolmentSummary
from cortexd.control.server import ControlFactory
from cortexd.ctl.enrolling import enrolments_text
from cortexd.ctl.progress import Done
from cortexd.link.admission import Enrolments
from cortexd.link.certificates import DAY
from cortexd.link.enrolment import AgentEnrolment, load, read
from tests.ctl.test_commands import CommandTestCase
from tests.doubles.scripted_agent import ScriptedAgent

ADDRESS = "gateway.example.com:8700"
NOW = 4_000_000_000.0


def at_once(call: Callable[[], Any]) -> Deferred[Any]:
    """Call in this thread."""
    return maybeDeferred(call)


class AgentCommandTestCase(CommandTestCase):
    terms = EnrolmentTerms(address=ADDRESS)

    def make_factory(self) -> ControlFactory:
        """Return a factory with an empty state directory and a folder for files."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.file = self.folder / "agent.enrolment"
        self.enroller = Enroller(
            self.folder / "agents",
            Enrolments(),
            self.terms,
            at_once,
            lambda: NOW,
            self.clock,
        )
        self.enroller.startService()
        self.addCleanup(self.enroller.stopService)
        factory = super().make_factory()
        factory.enroller = self.enroller
        return factory

    def run_line(self, line: str) -> Done:
        """Return what a command line comes to."""
        done: Done = self.answer(line.replace("FILE", str(self.file)))
        return done

    def refused(self, line: str, kind: type[Refused] = Refused) -> str:
        """Return why a command line is refused."""
        failure = self.failureResultOf(self.begin(line.replace("FILE", str(self.file))), kind)
        return str(failure.value).replace(str(self.file), "FILE")

    def names(self) -> list[str]:
        """Return the names of all files."""
        return sorted(each.name for each in self.folder.iterdir())

    def shown(self, line: str) -> AgentEnrolment:
        """Return what a command line prints for an agent."""
        return read(self.run_line(line).text, "stdout")


class EnrollTests(AgentCommandTestCase):
    def test_a_file(self) -> None:
        """It is for its owner alone, whatever the umask, and no line shows a secret."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        done = self.run_line("agent enroll large -o FILE")
        found = load(self.file)

        assert self.file.stat().st_mode & 0o777 == 0o600
        assert [self.file.name, "agents"] == self.names()
        assert (found.node, found.gateway) == ("large", ADDRESS)
        assert done.text == (
            f"{self.file} has what the agent of large needs, until 2098-10-02T07:06:40Z\n"
        )
        assert found.key is not None
        assert found.key[40:60] not in repr(done)
        assert {"agent", "file"} == done.data.keys()
        assert "enrolment of [agent] in agent.toml" in done.note

    def test_standard_output(self) -> None:
        """It has the file and nothing else; programs get it as one text."""
        done = self.run_line("agent enroll large --token -o - --days 1 --gateway [::1]:8700")
        found = read(done.text, "stdout")

        assert found.token is not None
        assert found.gateway == "[::1]:8700"
        assert done.data["enrolment"] == done.text
        assert done.data["agent"]["expires"] == NOW + DAY

    def test_a_file_that_exists(self) -> None:
        """It is replaced only by order, and otherwise nothing is enrolled."""
        self.file.write_text("mine")
        assert "FILE exists: choose another" in self.refused("agent enroll large -o FILE")
        assert self.file.read_text() == "mine"
        assert self.enroller.enrolments.by_node == {}

        self.run_line("agent enroll large -o FILE --force")
        assert load(self.file).node == "large"
        assert self.file.stat().st_mode & 0o777 == 0o600

    def test_a_link_in_its_place(self) -> None:
        """What it points to is not touched: somebody else may have put it there."""
        other = self.folder / "other"
        other.write_text("mine")
        self.file.symlink_to(other)
        assert "exists" in self.refused("agent enroll large -o FILE")
        self.run_line("agent enroll large -o FILE --force")

        assert other.read_text() == "mine"
        assert not self.file.is_symlink()

    def test_a_file_that_cannot_be_made(self) -> None:
        """The daemon is not asked then, so that the enrolment before stays."""
        words = self.refused(f"agent enroll large -o {self.folder}/none/file")
        assert "cannot be made (No such file or directory); nothing was changed" in words
        assert self.enroller.enrolments.by_node == {}

    def test_refusals_leave_no_file(self) -> None:
        """Each says what to do."""
        for line, words in (
            ("agent enroll none -o FILE", "no node is called 'none'; the nodes are large, small"),
            ("agent enroll large -o FILE --days 9999", "expected 1 to 3650"),
            ("agent enroll large -o FILE --gateway gw", '--gateway: found "gw", expected'),
        ):
            kind = UnknownNode if "none" in line else Refused
            assert words in self.refused(line, kind)
            assert self.names() in ([], ["agents"])
        self.factory.enroller = None
        assert "enrols no agents" in self.refused("agent enroll large -o FILE")

    def test_without_an_address(self) -> None:
        """The refusal says how to give one."""
        self.enroller.reconfigure(EnrolmentTerms())
        assert "--gateway HOST:PORT" in self.refused("agent enroll large -o FILE")


class ListTests(AgentCommandTestCase):
    def test_the_list(self) -> None:
        """Enrolments, revocations and agents that are connected come by their nodes."""
        assert "agent enroll NODE" in self.run_line("agent list").text
        self.run_line("agent enroll small --token -o FILE")
        self.run_line("agent enroll large -o -")
        self.run_line("agent revoke large")
        self.factory.agents.add(ScriptedAgent("large"))
        text = self.run_line("agent list").text

        assert [line.split() for line in text.splitlines()] == [
            ["NODE", "KIND", "CREATED", "EXPIRES", "CONNECTED", "NOTES"],
            ["large", "-", "-", "-", "yes", "revoked", "2096-10-02T07:06:40Z"],
            ["small", "token", "2096-10-02T07:06:40Z", "2098-10-02T07:06:40Z", "no", "-"],
        ]
        assert "sk-cortex" not in text

        self.run_line("agent enroll large -o -")
        assert "revoked" not in self.run_line("agent list").text

    def test_notes(self) -> None:
        """An enrolment of no use says so."""
        summary = EnrolmentSummary(
            node="old",
            kind="token",
            created=0.0,
            expires=DAY,
            revoked=None,
            connected=False,
            is_configured=False,
        )
        assert "expired, not in the configuration" in enrolments_text([summary], DAY)


class RevokeTests(AgentCommandTestCase):
    def test_it_is_said(self) -> None:
        """The agent is not admitted any more; a second time changes nothing more."""
        self.shown("agent enroll large --token -o -")
        done = self.run_line("agent revoke large")

        assert done.text == "large is revoked: what was made for its agent admits nobody\n"
        assert self.enroller.enrolments.token_key("large", NOW) is None
        self.factory.agents.add(ScriptedAgent("large"))
        assert self.run_line("agent revoke large").text.endswith("; its link has ended\n")

    def test_a_node_that_has_left_the_configuration(self) -> None:
        """Its enrolment can still be revoked; a name that nobody knows is refused."""
        self.successResultOf(
            Deferred.fromCoroutine(self.enroller.enrol("gone", ADDRESS, 1, by_token=True))
        )
        self.run_line("agent revoke gone")
        assert "no node is called 'gone'" in self.refused("agent revoke gone", UnknownNode)

    def test_a_damaged_file(self) -> None:
        """The refusal says where; nobody is admitted meanwhile."""
        self.run_line("agent enroll large --token -o -")
        (self.folder / "agents" / "agents.toml").write_text("[[")
        self.enroller.reconfigure(EnrolmentTerms())
        assert "not valid TOML" in self.refused("agent revoke large")
        assert "not valid TOML" in self.refused("agent list")
