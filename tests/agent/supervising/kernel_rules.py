"""What holds for the processes of Linux and for their double alike."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from cortexd.agent.supervising.kernel import Kernel, ProcessId

MARK = "/run/of-a-test"


class KernelRules:
    """Tests of a kernel; a subclass has the kernel, and ways to start and to wait."""

    kernel: Kernel

    def start(self, mark: str = "", *, ignores: bool = False) -> int:
        """Start a process in a session of its own; it may ignore SIGTERM. Return its number."""
        raise NotImplementedError

    def wait(self, condition: Callable[[], Any]) -> None:
        """Wait until a condition holds."""
        raise NotImplementedError

    def started(self, mark: str = "", *, ignores: bool = False) -> ProcessId:
        """Start a process, and find it."""
        process = self.kernel.find(self.start(mark, ignores=ignores))
        assert process is not None
        return process

    def test_a_process_ends(self) -> None:
        """It is found until then, and whoever watches it is called once, and never at once."""
        process = self.started()
        assert process == self.kernel.find(process.pid)
        ended: list[int] = []
        self.kernel.watch(process, lambda: ended.append(1))
        stop = self.kernel.watch(process, lambda: ended.append(2))
        stop()
        stop()
        self.kernel.kill([process], signal.SIGTERM)
        assert [] == ended
        self.wait(lambda: ended)
        assert [1] == ended
        assert self.kernel.find(process.pid) is None

    def test_watching_a_process_that_has_ended(self) -> None:
        """The end is told then too, and not at once."""
        process = self.started()
        self.kernel.kill([process], signal.SIGKILL)
        self.wait(lambda: self.kernel.find(process.pid) is None)
        ended: list[int] = []
        self.kernel.watch(process, lambda: ended.append(1))
        assert [] == ended
        self.wait(lambda: ended)

    def test_a_number_that_another_process_has(self) -> None:
        """No signal goes there."""
        process = self.started()
        self.kernel.kill([ProcessId(process.pid, process.ticks - 1)], signal.SIGKILL)
        assert process == self.kernel.find(process.pid)

    def test_a_family(self) -> None:
        """It is the session, and every process with the mark."""
        first, second, other = self.started(), self.started(MARK), self.started()
        self.wait(lambda: len(self.kernel.family(first.pid, MARK)) == 2)
        assert {first, second} == set(self.kernel.family(first.pid, MARK))
        assert [second] == self.kernel.family(0, MARK)
        self.kernel.kill([first, second], signal.SIGKILL)
        self.wait(lambda: not self.kernel.family(first.pid, MARK))
        assert other == self.kernel.find(other.pid)

    def test_a_process_that_ignores_sigterm(self) -> None:
        """SIGKILL ends it."""
        process = self.started(ignores=True)
        self.kernel.kill([process], signal.SIGTERM)
        assert process == self.kernel.find(process.pid)
        self.kernel.kill([process], signal.SIGKILL)
        self.wait(lambda: self.kernel.find(process.pid) is None)

    def test_the_start_of_a_process(self) -> None:
        """A later process has a later start, in unix seconds."""
        first, second = self.started(), self.started()
        times = [self.kernel.started_at(each) for each in (first, second)]
        assert times[0] is not None
        assert times[1] is not None
        assert 0 < times[0] <= times[1]
