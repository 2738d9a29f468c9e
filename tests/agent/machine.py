"""A machine in memory: a simulated engine, a folder for /proc, and an agent's parts beside them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.asking import EngineClient
from cortexd.agent.devices.library import DeviceSeen, DevicesSeen
from cortexd.agent.looking.engine_answers import EngineAnswers
from cortexd.agent.looking.engine_process import ProcessWatch
from cortexd.agent.watching import Watcher
from cortexd.engines.registry import ENGINES
from cortexd.fleet.agents import AgentReport
from cortexd.testing.model import SimulatedModel
from cortexd.testing.node import SimulatedNode
from tests.doubles.proc import Proc
from tests.support.network import Network

T = TypeVar("T")

PORT = 1234
ENGINE = ENGINES["mistralrs"]
INTERVAL = 1.0


class Control:
    """What the agent's file says of the process: here the process 7, while /proc has it."""

    def __init__(self, proc: Proc) -> None:
        self._proc = proc
        self.changed: Callable[[], None] = lambda: None
        self.sees_process = True
        self.restarts = 0
        self.reason = ""
        self.is_given_up = False
        self.notes: tuple[str, ...] = ()
        self.can_restart, self.can_suspend, self.has_log = True, False, True
        self.orders: list[tuple[Any, ...]] = []

    def pids(self) -> tuple[int, ...]:
        return (7,) if (self._proc.path / "7").exists() else ()

    def restart(self, *order: Any) -> str:
        self.orders.append(("restart", *order))
        return "restarting"

    def suspend(self, *order: Any) -> str:
        self.orders.append(("suspend", *order))
        return "suspending"

    def tail(self, *order: Any) -> str:
        self.orders.append(("tail", *order))
        return "tailing"

    def end_log(self, stream: int) -> None:
        self.orders.append(("end_log", stream))

    def end_logs(self) -> None:
        self.orders.append(("end_logs",))


class Devices:
    """The accelerators; ``seen`` is what a look brings, and with ``is_held`` it waits."""

    def __init__(self) -> None:
        self.notes: tuple[str, ...] = ()
        self.seen: DevicesSeen | None = None
        self.is_held = False
        self.held: list[Deferred[DevicesSeen | None]] = []
        self.looks = 0

    def look(self) -> Deferred[DevicesSeen | None]:
        self.looks += 1
        looking: Deferred[DevicesSeen | None] = Deferred()
        if self.is_held:
            self.held.append(looking)
        else:
            looking.callback(self.seen)
        return looking

    def set_card(self, free_mb: int, used: dict[int, int] | None = None) -> None:
        card = DeviceSeen(
            name="RTX", uuid="GPU-1", total_mb=24_576, free_mb=free_mb, used=used or {}
        )
        self.seen = DevicesSeen(source="nvml", devices=(card,))


class MachineTestCase(SynchronousTestCase):
    """A test with an engine that listens, and its process."""

    control: Any
    devices: Any

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.network = Network(Clock())
        self.node = SimulatedNode(self.network, models=[SimulatedModel(id="org/a", size_mb=4_000)])
        self.run_until_done(self.node.listen(self.network, PORT))
        self.proc = Proc(Path(folder.name) / "proc")
        self.proc.add(7)
        self.control = Control(self.proc)
        self.devices = Devices()
        self.client = EngineClient(self.network, f"http://127.0.0.1:{PORT}", {})
        self.answers = EngineAnswers(self.network, ENGINE, self.client)
        self.process = ProcessWatch(
            self.network, self.control, ("127.0.0.1", PORT), str(self.proc.path)
        )
        self.reports: list[AgentReport] = []
        self.watcher = Watcher(
            self.network,
            INTERVAL,
            self.control,
            self.answers,
            self.process,
            self.devices,
            self.reports.append,
        )

    def tearDown(self) -> None:
        self.watcher.stopService()
        self.run_until_done(self.client.close())
        self.run_until_done(self.node.close())
        self.network.advance(1.0)

    def asked(self, path: str) -> int:
        """Return how often the engine's process has answered a path."""
        assert self.node.process is not None
        requests = self.node.process.requests_total.items()
        return sum(count for (_, asked, _, _), count in requests if asked == path)

    def run_until_done(self, work: Deferred[T] | Coroutine[Any, Any, T]) -> T:
        """Let the network work until a result is there."""
        deferred = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        self.network.flush()
        return self.successResultOf(deferred)

    def begin(self) -> AgentReport:
        """Start the watcher, and return its newest report after the first looks."""
        self.watcher.startService()
        self.network.advance(0.5)
        return self.reports[-1]
