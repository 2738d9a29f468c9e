"""A gateway that is restarted as a unit, while its agents are connected."""

from __future__ import annotations

from pathlib import Path

import httpx2

from bench.supervisors.double import SystemdDouble
from bench.supervisors.unit import Unit, make_unit
from tests.engine.processes import engine_arguments, write_tiny_models
from tests.live.agent.fleets import ask
from tests.live.agent.machines import LINK_PORT, loopback_address, running_machine, spelt
from tests.live.daemons import ANSWER_SECONDS, Daemon, eventually
from tests.live.streams import OpenStream

MODEL = "tiny/alpha"


def daemon_of(unit: Unit, http: httpx2.Client) -> Daemon:
    """Return a unit as a daemon of which only the addresses are asked."""
    urls = {name: f"http://{spelt(address)}" for name, address in unit.addresses.items()}
    http.base_url = urls["http"]
    return Daemon(
        None,  # type: ignore[arg-type] # it has no process of its own
        unit.folder,
        unit.control_socket,
        http,
        urls["http"],
        urls["metrics"],
    )


def test_the_agent_goes_to_the_new_process(tmp_path: Path) -> None:
    """Streams end in the old process, the agent reports to the new one, and the engine stays."""
    agents = loopback_address(LINK_PORT)
    arguments = engine_arguments(write_tiny_models(tmp_path / "models"))
    unit = make_unit(tmp_path)
    with (
        running_machine(tmp_path, "a", agents, arguments) as machine,
        httpx2.Client(timeout=ANSWER_SECONDS) as http,
        SystemdDouble(unit) as systemd,
    ):
        unit.write_config({"a": machine.endpoint}, extra=f'[agents]\nlisten = "{spelt(agents)}"')
        assert 0 == systemd.start(), unit.output()
        daemon = daemon_of(unit, http)
        eventually(lambda: unit.events("agent_joined"), "the greeting of the agent")
        with machine.answers_held(), OpenStream(daemon, MODEL, tokens=5) as stream:
            stream.read_until_content()
            assert 0 == systemd.restart()
            assert 1 == len(unit.events("took_over")), unit.output()
            eventually(lambda: len(unit.events("agent_joined")) == 2, "the greeting at the next")
            assert 200 == http.get("/v1/models").status_code
            (machine.hold_folder / "answers").unlink()
            stream.read_to_end()
            assert stream.is_whole
        eventually(lambda: unit.events("predecessor_ended"), "the end of the old process")
        assert 2 == len(unit.events("agent_joined"))
        assert 200 == ask(daemon, MODEL).status_code
        assert 1 == len(machine.boots())
        assert [] == systemd.complaints
        assert "traceback" not in unit.output()
