"""What systemd and pid files say of an engine's process."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.supervising.finding import UnitState, read_pid, read_unit, show_command

UNIT = "mistralrs.service"
LOADED = "LoadState=loaded\n"


class UnitTests(SynchronousTestCase):
    def test_the_unit_is_no_option(self) -> None:
        """The command names the unit after the options."""
        command = show_command(["/usr/bin/systemctl"], UNIT)
        assert ["/usr/bin/systemctl", "show", "-p", "LoadState"] == command[:4]
        assert ["--", UNIT] == command[-2:]

    def test_a_unit_that_runs(self) -> None:
        """The main process and the control group are known."""
        text = f"{LOADED}ActiveState=active\nMainPID=42\nControlGroup=/system.slice/{UNIT}\n"
        assert UnitState(42, f"/system.slice/{UNIT}") == read_unit(text, UNIT)

    def test_a_unit_whose_process_has_ended(self) -> None:
        """The words say how, and what systemd does about it."""
        killed = (
            "ActiveState=activating\nMainPID=0\nResult=signal\nExecMainCode=2\nExecMainStatus=9"
        )
        state = read_unit(LOADED + killed, UNIT)
        assert f"{UNIT}: the process was ended by SIGKILL; the unit is activating" == state.ending
        assert not state.is_given_up

        failed = "MainPID=0\nResult=start-limit-hit\nExecMainCode=1\nExecMainStatus=1"
        state = read_unit(f"{LOADED}ActiveState=failed\n{failed}", UNIT)
        assert state.is_given_up
        assert "ended with status 1; the unit is failed (start-limit-hit)" in state.ending

    def test_a_unit_that_systemd_does_not_know(self) -> None:
        """Nothing can be seen then, and the words say so."""
        state = read_unit("LoadState=not-found\nMainPID=0\n", UNIT)
        assert not state.is_known
        assert f"systemd says of {UNIT}: not-found" == state.ending

    @given(st.text(max_size=100))
    def test_any_text_is_read(self, text: str) -> None:
        """Whatever systemctl prints, it is a state."""
        assert read_unit(text, UNIT).main_pid >= 0
        assert read_unit(LOADED + text, UNIT).main_pid >= 0


class PidFileTests(SynchronousTestCase):
    def test_numbers(self) -> None:
        """The first word of a pid file is the number; anything else is none."""
        assert [42, 42, None, None, None, None] == [
            read_pid(text) for text in ("42\n", " 42 x", "", "x", "0", "-1")
        ]
