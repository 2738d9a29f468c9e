"""A gateway that goes, and one that comes after it, while agents keep the engines."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.engine.processes import engine_arguments, write_tiny_models
from tests.live.agent.fleets import ask, has_agent, loaded
from tests.live.agent.machines import LINK_PORT, loopback_address, running_machine, spelt
from tests.live.daemons import KILLED, eventually, running_daemon

MODEL = "tiny/alpha"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write the tiny models."""
    return write_tiny_models(tmp_path_factory.mktemp("models"))


def test_an_engine_outlives_the_gateway(tmp_path: Path, models: dict[str, Path]) -> None:
    """A killed gateway changes nothing for it; its agent restarts it, and reports to the next."""
    agents = loopback_address(LINK_PORT)
    extra = f'[agents]\nlisten = "{spelt(agents)}"'
    with running_machine(tmp_path, "a", agents, engine_arguments(models)) as machine:
        urls = {"a": machine.endpoint}
        with running_daemon(tmp_path, urls, extra=extra) as first:
            eventually(lambda: has_agent(first, "a"), "the greeting of the agent")
            first.signal(signal.SIGKILL)
            first.expected_status = first.end()
            assert KILLED == first.expected_status
        assert 1 == len(machine.boots())
        killed = machine.kill_engine()
        eventually(lambda: machine.engine_since(killed), "the engine's return")
        with running_daemon(tmp_path, urls, extra=extra) as second:
            eventually(lambda: has_agent(second, "a"), "the return of the agent")
            assert sorted(models) == loaded(second, "a")
            assert 200 == ask(second, MODEL).status_code
        assert 2 == len(machine.boots())
