"""An agent that is killed, and one that comes after it."""

from __future__ import annotations

from pathlib import Path

from tests.engine.processes import engine_arguments, write_tiny_models
from tests.live.agent.fleets import ask, has_agent, loaded
from tests.live.agent.machines import (
    LINK_PORT,
    kill_agent,
    loopback_address,
    running_agent,
    running_machine,
    spelt,
)
from tests.live.daemons import eventually, running_daemon
from tests.live.streams import OpenStream

MODEL = "tiny/alpha"


def test_an_engine_outlives_its_agent(tmp_path: Path) -> None:
    """Its streams go on, polls show what it has, and the next agent takes charge of it."""
    agents = loopback_address(LINK_PORT)
    arguments = engine_arguments(write_tiny_models(tmp_path / "models"))
    with (
        running_machine(tmp_path, "a", agents, arguments) as machine,
        running_daemon(
            tmp_path, {"a": machine.endpoint}, extra=f'[agents]\nlisten = "{spelt(agents)}"'
        ) as daemon,
    ):
        eventually(lambda: has_agent(daemon, "a"), "the greeting of the agent")
        models = loaded(daemon, "a")
        with machine.answers_held(), OpenStream(daemon, MODEL, tokens=5) as stream:
            stream.read_until_content()
            kill_agent(machine)
            eventually(lambda: not has_agent(daemon, "a"), "the end of the link")
            assert models == loaded(daemon, "a")
            (machine.hold_folder / "answers").unlink()
            stream.read_to_end()
            assert stream.is_whole
        with running_agent(machine.folder / "agent.toml"):
            eventually(lambda: has_agent(daemon, "a"), "the greeting of the next agent")
            killed = machine.kill_engine()
            eventually(lambda: machine.engine_since(killed), "the engine's return")
            eventually(lambda: loaded(daemon, "a") == models, "the models' return")
            assert 200 == ask(daemon, MODEL).status_code
        assert 2 == len(machine.boots())
