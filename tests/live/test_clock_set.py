"""The machine's clock is set while the daemon runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.engine.processes import RunningNode
from tests.live.daemons import Daemon, eventually, importing_first, running_daemon
from tests.live.streams import OpenStream

HOUR = 3600.0
# At the slow node's 50 tokens a second.
A_FEW = 5

# Python imports a module of this name at its start: here before Twisted takes the clock.
SETTABLE_CLOCK = '''"""A clock that is off by the seconds in a file."""

import time
from pathlib import Path

offset, unix_time = Path({offset!r}), time.time
time.time = lambda: unix_time() + float(offset.read_text())
'''


class Machine:
    """The machine of a daemon, whose clock is off by some seconds."""

    def __init__(self, folder: Path) -> None:
        self._offset = folder / "offset"
        self.set_clock(0.0)
        (folder / "sitecustomize.py").write_text(SETTABLE_CLOCK.format(offset=str(self._offset)))
        self.environment = importing_first(folder)

    def set_clock(self, offset: float) -> None:
        """Set the clock, to so many seconds beside the true time."""
        written = self._offset.with_suffix(".new")
        written.write_text(str(offset))
        written.replace(self._offset)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine whose clock is right."""
    folder = tmp_path / "machine"
    folder.mkdir()
    return Machine(folder)


@pytest.fixture
def daemon(tmp_path: Path, machine: Machine, slow_node: RunningNode) -> Iterator[Daemon]:
    """Run a daemon on that machine, which polls its node twice in a second."""
    nodes = {"node": slow_node.base_url}
    with running_daemon(tmp_path, nodes, environment=machine.environment) as running:
        yield running


def polls(daemon: Daemon) -> float:
    """Return how often the daemon has polled."""
    text = httpx2.get(f"{daemon.metrics_url}/metrics").text
    found = re.search(r'^cortex_polls_total\{.*outcome="ok".*\} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found is not None else 0.0


def test_set_back_it_holds_nothing_up(daemon: Daemon, machine: Machine) -> None:
    """The daemon goes on to poll its nodes at once, and not an hour later."""
    began = eventually(lambda: polls(daemon), "a poll")

    machine.set_clock(-HOUR)

    eventually(lambda: polls(daemon) >= began + 3, "three polls more", seconds=10)


def test_set_ahead_it_ends_nothing(
    daemon: Daemon, machine: Machine, slow_node: RunningNode
) -> None:
    """A stream in which nothing was missing for an hour is whole."""
    with (
        slow_node.answers_held() as let_go,
        OpenStream(daemon, "acme/chat", A_FEW) as stream,
    ):
        stream.read_until_content()
        began = polls(daemon)
        machine.set_clock(HOUR)
        eventually(lambda: polls(daemon) > began + 1, "polls by the other clock", seconds=10)
        let_go()
        stream.read_to_end()

        assert stream.is_whole
    assert not daemon.alarms()
