"""An engine that is killed in the middle of its answers, under an agent."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.engine.processes import engine_arguments, write_tiny_models
from tests.live.agent.fleets import ask, gauge, has_agent, loaded
from tests.live.agent.machines import LINK_PORT, loopback_address, running_machine, spelt
from tests.live.daemons import eventually, running_daemon
from tests.live.streams import CHAT, MESSAGES, RESPONSES, OpenStream

MODEL = "tiny/alpha"
BACK_SECONDS = 5.0
"""Within so many seconds an agent must have started an engine again that has died."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write the tiny models."""
    return write_tiny_models(tmp_path_factory.mktemp("models"))


def last_event(stream: OpenStream) -> dict[str, Any]:
    """Return the data of a stream's last event."""
    event: dict[str, Any] = stream.events()[-1]
    return event


def test_its_clients_get_errors_and_it_comes_back(tmp_path: Path, models: dict[str, Path]) -> None:
    """Each open stream ends with its dialect's error; engine and models are back, by themselves."""
    agents = loopback_address(LINK_PORT)
    with (
        running_machine(tmp_path, "a", agents, engine_arguments(models)) as machine,
        running_daemon(
            tmp_path, {"a": machine.endpoint}, extra=f'[agents]\nlisten = "{spelt(agents)}"'
        ) as daemon,
    ):
        eventually(lambda: has_agent(daemon, "a"), "the greeting of the agent")
        assert sorted(models) == loaded(daemon, "a")
        with ExitStack() as stack:
            streams = {}
            with machine.answers_held():
                for path in (CHAT, MESSAGES, RESPONSES):
                    stream = OpenStream(daemon, MODEL, tokens=100, path=path)
                    streams[path] = stack.enter_context(stream)
                    streams[path].read_until_content()
                killed_at = time.time()
                killed = machine.kill_engine()
                for stream in streams.values():
                    stream.read_to_end()
        # A failed response is a whole stream: its last event says that it failed.
        assert [False, False, True] == [stream.is_whole for stream in streams.values()]
        assert "bad_gateway" == last_event(streams[CHAT])["error"]["code"]
        assert "error" == last_event(streams[MESSAGES])["type"]
        assert "response.failed" == last_event(streams[RESPONSES])["type"]
        boot = eventually(lambda: machine.engine_since(killed), "the engine's return")
        assert boot.began_at - killed_at < BACK_SECONDS
        eventually(lambda: loaded(daemon, "a") == sorted(models), "the models' return")
        assert 200 == ask(daemon, MODEL).status_code
        assert 2 == len(machine.boots())
        assert 1 == gauge(daemon, "cortex_node_restarts_total", node="a")
