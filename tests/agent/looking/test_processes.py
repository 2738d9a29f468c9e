import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.looking.processes import (
    environment,
    family,
    memory_limit_mb,
    read_machine,
    read_process,
)
from cortexd.fleet.agents import EngineProcess
from tests.doubles.proc import BOOTED_AT, Proc


class ProcessesTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        self.proc = Proc(self.root / "proc")
        self.machine = read_machine(str(self.proc.path))

    def read(self, *pids: int) -> EngineProcess | None:
        return read_process(pids, self.machine, 2, str(self.proc.path))

    def test_one_process(self) -> None:
        """Start, memory and CPU time come from /proc, whatever the program's name is."""
        self.proc.add(7, started=25.0, rss_mb=300, cpu_seconds=4.5)

        assert self.read(7) == EngineProcess(
            pid=7, started_at=BOOTED_AT + 25.0, rss_mb=300, cpu_seconds=4.5, restarts=2
        )

    def test_children(self) -> None:
        """Memory and CPU time are those of all processes; the main one gives pid and start."""
        self.proc.add(7, started=25.0, rss_mb=300, cpu_seconds=4.0)
        self.proc.add(8, started=30.0, rss_mb=50, cpu_seconds=1.0)

        found = self.read(7, 8, 9)

        assert found is not None
        assert (7, BOOTED_AT + 25.0, 350, 5.0) == (
            found.pid,
            found.started_at,
            found.rss_mb,
            found.cpu_seconds,
        )

    def test_ended(self) -> None:
        """A process that is gone, or waits for its parent, runs no more."""
        self.proc.add(7, state="Z")
        self.proc.add(8)

        assert self.read(7) is None
        assert self.read(7, 8) is None
        assert self.read(99) is None
        assert self.read() is None

    def test_damaged(self) -> None:
        """A text that is none of /proc's says nothing."""
        self.proc.add(7)
        for text in ("", "7 (x) S", "7 (x) S a b c"):
            (self.proc.path / "7" / "stat").write_text(text)
            assert self.read(7) is None

    def test_family(self) -> None:
        """Children are found with theirs, each once."""
        for pid in (7, 8, 9):
            self.proc.add(pid)
        self.proc.adopt(7, 8)
        self.proc.adopt(8, 9, 7)

        assert (7, 8, 9) == family(7, str(self.proc.path))
        assert (70,) == family(70, str(self.proc.path))

    def test_environment(self) -> None:
        """Variables are told, none where they may not be read."""
        self.proc.add(7, environ={"CUDA_VISIBLE_DEVICES": "0,1", "A": "b=c"})

        proc = str(self.proc.path)
        assert {"CUDA_VISIBLE_DEVICES": "0,1", "A": "b=c"} == environment(7, proc)
        assert {} == environment(99, proc)

    def test_memory_limit(self) -> None:
        """The limit is the machine's memory, or that of the tightest control group above."""
        groups = self.root / "groups"
        (groups / "system.slice" / "m.service").mkdir(parents=True)
        self.proc.add(7, cgroup="/system.slice/m.service")

        def limit(*pids: int) -> int:
            return memory_limit_mb(pids, str(self.proc.path), str(groups))

        assert 32_000 == limit(7)
        assert 32_000 == limit()
        (groups / "system.slice" / "m.service" / "memory.max").write_text("max\n")
        assert 32_000 == limit(7)
        (groups / "system.slice" / "memory.max").write_text(f"{8_000 * 2**20}\n")
        assert 8_000 == limit(7)
        (groups / "system.slice" / "m.service" / "memory.max").write_text(f"{4_000 * 2**20}\n")
        assert 4_000 == limit(7)
