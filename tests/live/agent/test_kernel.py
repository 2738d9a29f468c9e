"""The processes of this machine, as the agent's supervision sees them."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Callable
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.supervising import kernel
from cortexd.agent.supervising.kernel import LinuxKernel
from tests.agent.supervising.kernel_rules import KernelRules
from tests.live.daemons import eventually


class LinuxKernelTests(KernelRules, SynchronousTestCase):
    def setUp(self) -> None:
        """Use the kernel with a reactor that turns when the test waits."""
        self.reactor = MemoryReactorClock()
        self.kernel = LinuxKernel(self.reactor)

    def start(self, mark: str = "", *, ignores: bool = False) -> int:
        """Start a process, and wait until it does what it should."""
        text = f"{'trap : TERM; ' if ignores else ''}echo; while :; do read nothing; done"
        process = subprocess.Popen(  # noqa: S603 - a fixed script
            ["/bin/sh", "-c", text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **({kernel.MARK: mark} if mark else {})},
            start_new_session=True,
        )

        def end() -> None:
            process.kill()
            process.communicate()

        self.addCleanup(end)
        assert process.stdout is not None
        process.stdout.readline()
        return process.pid

    def wait(self, condition: Callable[[], Any]) -> None:
        """Turn the reactor until a condition holds."""

        def turned() -> Any:
            for reader in list(self.reactor.getReaders()):
                if select.select([reader.fileno()], [], [], 0)[0]:
                    reader.doRead()
            self.reactor.advance(1.0)
            return condition()

        eventually(turned, "what the test waits for")


class OldKernelTests(LinuxKernelTests):
    """The same where the kernel has no pidfd_open: processes are looked at now and then."""

    def setUp(self) -> None:
        """Take pidfd_open away."""
        super().setUp()

        def unknown(pid: int) -> int:
            raise OSError(38, "Function not implemented")

        self.patch(os, "pidfd_open", unknown)
