"""Which process can have written a pidfile."""

import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.service.processes import CLOCK_SLACK_SECONDS, is_of_twistd
from tests.support.stores import free_path

BOOTED_AT = 1_790_000_000
TICKS = os.sysconf("SC_CLK_TCK")


class ProcessTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.proc = free_path(self)
        (self.proc / "7").mkdir(parents=True)
        (self.proc / "stat").write_text(f"cpu 1 2 3\nbtime {BOOTED_AT}\nprocesses 9\n")

    def process(self, name: str, command: bytes, ticks: int) -> None:
        """Let process 7 be this program, started so long after the machine."""
        fields = " ".join(["S", *map(str, range(4, 22)), str(ticks), "0 0"])
        (self.proc / "7" / "stat").write_text(f"7 ({name}) {fields}\n")
        (self.proc / "7" / "cmdline").write_bytes(command)

    def test_daemon(self) -> None:
        """A twistd that was started before its pidfile was written may be the daemon."""
        self.process("twistd", b"python\0/usr/bin/twistd\0cortex\0", 100 * TICKS)
        assert is_of_twistd(7, BOOTED_AT + 101.0, self.proc)
        assert is_of_twistd(7, BOOTED_AT + 100.0 - CLOCK_SLACK_SECONDS, self.proc)

    def test_started_later(self) -> None:
        """A twistd that was started after that is another one, as after a reboot."""
        self.process("twistd", b"python\0/usr/bin/twistd\0web\0", 100 * TICKS)
        assert not is_of_twistd(7, BOOTED_AT + 50.0, self.proc)

    def test_other_program(self) -> None:
        """Any other program has the id by chance, also one with an odd name."""
        self.process("a) R (b", b"sleep\0600\0", 100 * TICKS)
        assert not is_of_twistd(7, BOOTED_AT + 101.0, self.proc)

    def test_unknown(self) -> None:
        """Without a view of the process it may be the daemon; this very process is not."""
        assert is_of_twistd(8, BOOTED_AT, self.proc)
        assert not is_of_twistd(os.getpid(), BOOTED_AT + 1e9, self.proc)

    @given(st.text(max_size=40), st.text(max_size=40))
    def test_any_text(self, process: str, machine: str) -> None:
        """A /proc that has another form is as good as none."""
        (self.proc / "7" / "cmdline").write_bytes(b"twistd")
        (self.proc / "7" / "stat").write_text(process, encoding="utf-8")
        (self.proc / "stat").write_text(machine, encoding="utf-8")
        is_of_twistd(7, BOOTED_AT, self.proc)
