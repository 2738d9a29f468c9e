"""The double of the kernel behaves as Linux does; ``tests/live/agent/test_kernel.py`` has that."""

import signal
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.agent.supervising.kernel_rules import KernelRules
from tests.doubles.process_world import OneProcess, ProcessWorld


class ProcessWorldTests(KernelRules, SynchronousTestCase):
    def setUp(self) -> None:
        """Make a machine without processes."""
        self.kernel = self.world = ProcessWorld()

    def start(self, mark: str = "", *, ignores: bool = False) -> int:
        """Start a process."""
        pid = 1 + max(self.world.processes, default=99)
        ignored = frozenset({signal.SIGTERM}) if ignores else frozenset()
        self.world.processes[pid] = OneProcess(
            pid, pid, pid, mark, ["sleep"], {}, "", frozenset(map(int, ignored))
        )
        return pid

    def wait(self, condition: Callable[[], Any]) -> None:
        """Let some time pass."""
        self.world.run(0.1)
        assert condition()
