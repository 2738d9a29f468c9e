"""`cortexctl reload` and `cortexctl plan reload`."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from cortexd.config.changes import ConfigChange
from cortexd.control.contract import Refused
from cortexd.ctl.commands import SUBCOMMANDS
from cortexd.ctl.main import make_parser
from cortexd.ctl.progress import Done
from tests.control.test_reloading import Scripted
from tests.ctl.test_commands import CommandTestCase

CHANGES = [
    ConfigChange("gateway.hold_seconds", "5.0 -> 1.0"),
    ConfigChange("gateway.state_dir", 'not set -> "/a\x1b"', True),
]


class ReloadTests(CommandTestCase):
    def test_what_changes(self) -> None:
        """Both commands print each change on a line of its own, without control characters."""
        self.factory.reloading = Scripted(CHANGES)
        for line, title in (("reload", "reloaded"), ("plan reload", "a reload would change")):
            done: Done = self.answer(line)
            assert (
                f"{title}:\n"
                "  gateway.hold_seconds: 5.0 -> 1.0\n"
                '  gateway.state_dir: not set -> "/a\\x1b"; takes effect at the next restart\n'
            ) == SUBCOMMANDS[line.split(maxsplit=1)[0]].text(done, 0.0)
            assert ["gateway.hold_seconds", "gateway.state_dir"] == [
                each["key"] for each in done.data["changes"]
            ]

    def test_no_change(self) -> None:
        """It is said in words."""
        self.factory.reloading = Scripted([])
        assert "nothing differs" in self.answer("reload").text

    def test_all_pages(self) -> None:
        """However many changes there are, all are printed once."""
        changes = [ConfigChange(f"models ({number})", "x" * 200) for number in range(1000)]
        self.factory.reloading = Scripted(changes)
        begun: Deferred[Done] = self.begin("reload")
        for pump in self.pumps:
            pump.flush()
        assert 1001 == len(self.successResultOf(begun).text.splitlines())

    def test_a_refusal(self) -> None:
        """The reason is the daemon's."""
        self.factory.reloading = Scripted(None)
        self.failureResultOf(self.begin("reload"), Refused)


class PlanOptionsTests(CommandTestCase):
    def test_wrong_usage(self) -> None:
        """A load needs a model, which may be called "reload"; a reload takes none."""
        problem = SUBCOMMANDS["plan"].problem
        for line, is_wrong in (
            ("plan load", True),
            ("plan reload x", True),
            ("plan reload --node large", True),
            ("plan reload", False),
            ("plan load reload", False),
        ):
            found = problem(make_parser().parse_args(line.split()))
            assert is_wrong == (found is not None), line
