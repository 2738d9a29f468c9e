"""The daemon's process is stopped for longer than its timeouts, and goes on."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.engine.processes import RunningNode
from tests.live.daemons import eventually, importing_first, running_daemon
from tests.live.streams import OpenStream

HOUR = 3600.0
STOPS = 20
A_FEW = 3
# More tokens than the slow node makes during a test, at 50 a second.
TOKENS = 4000

# Python imports a module of this name at its start. A process that is stopped and one whose steady
# clock jumps see the same, but the jump needs no time.
JUMPING_CLOCK = '''"""A steady clock that is ahead by the seconds in a file."""

import time
from pathlib import Path

ahead, monotonic = Path({ahead!r}), time.monotonic
time.monotonic = lambda: monotonic() + float(ahead.read_text())
'''


@pytest.fixture
def ahead(tmp_path: Path) -> Path:
    """Return the file with the seconds by which the daemon's steady clock is ahead."""
    folder = tmp_path / "machine"
    folder.mkdir()
    path = folder / "ahead"
    path.write_text("0")
    (folder / "sitecustomize.py").write_text(JUMPING_CLOCK.format(ahead=str(path)))
    return path


def test_many_long_stops(tmp_path: Path, slow_node: RunningNode, ahead: Path) -> None:
    """Whatever is in progress, nothing times out: no poll, and no stream."""
    with (
        running_daemon(
            tmp_path,
            {"node": slow_node.base_url},
            polling="interval = 0.01\ntimeout = 10.0\ndown_after = 1",
            environment=importing_first(ahead.parent),
        ) as daemon,
        OpenStream(daemon, "acme/thinker", TOKENS) as stream,
    ):
        for stop in range(1, STOPS + 1):
            stream.read_until_content(stop * A_FEW)
            written = ahead.with_suffix(".new")
            written.write_text(str(stop * HOUR))
            written.replace(ahead)
        stream.read_until_content((STOPS + 1) * A_FEW)

        assert [] == daemon.lines("node_down")
        eventually(lambda: daemon.lines("reactor_stalled"), "the line about a stall")


def test_a_stopped_process(tmp_path: Path, slow_node: RunningNode) -> None:
    """The same of a process that SIGSTOP really stops."""
    with (
        running_daemon(
            tmp_path,
            {"node": slow_node.base_url},
            polling="interval = 0.01\ntimeout = 4.0\ndown_after = 1",
        ) as daemon,
        OpenStream(daemon, "acme/thinker", TOKENS) as stream,
    ):
        stream.read_until_content(A_FEW)
        daemon.process.send_signal(signal.SIGSTOP)
        time.sleep(5.0)  # the stop has to be longer than the timeout
        daemon.process.send_signal(signal.SIGCONT)
        # More than the kernel has kept of the stream during the stop.
        stream.read_until_content(400)

        assert [] == daemon.lines("node_down")
        eventually(lambda: daemon.lines("reactor_stalled"), "the line about a stall")
