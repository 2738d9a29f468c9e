"""An agent of an older cortexd at a gateway whose orders it does not know."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.engine.processes import running_module, simulated_node
from tests.live.agent.fleets import CTL_SECONDS, ask, cortexctl, has_agent, loaded
from tests.live.agent.machines import LINK_PORT, loopback_address, spelt
from tests.live.agent.old_agent import VERSION
from tests.live.daemons import TWISTD, Daemon, eventually, running_daemon

MODEL = "acme/thinker"


def refused(daemon: Daemon, *arguments: str) -> str:
    """Run cortexctl, which must fail, and return its complaint."""
    command = [str(TWISTD.with_name("cortexctl")), "--socket", str(daemon.control_socket)]
    done = subprocess.run(  # noqa: S603 - our own client
        [*command, *arguments], capture_output=True, timeout=CTL_SECONDS, check=False, text=True
    )
    assert done.returncode != 0
    return done.stderr


def test_what_it_does_not_know_is_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    """Memory is read from the node itself; a log and a restart are refused, and nothing is lost."""
    host, port = loopback_address(LINK_PORT)
    extra = f'[agents]\nlisten = "{spelt((host, port))}"'
    with (
        simulated_node(fast=True) as node,
        running_daemon(tmp_path, {"a": node.base_url}, extra=extra) as daemon,
        running_module("tests.live.agent.old_agent", host, str(port), "a") as line,
    ):
        assert "reported" == line
        eventually(lambda: has_agent(daemon, "a"), "the greeting of the agent")
        assert VERSION in cortexctl(daemon, "agents")
        assert VERSION in refused(daemon, "logs", "a")
        cortexctl(daemon, "unload", MODEL, "--node", "a")
        # The order is answered as the unload begins, and a load is refused until it has ended.
        eventually(lambda: daemon.lines("unloaded"), "the unload")
        assert MODEL not in loaded(daemon, "a")
        cortexctl(daemon, "load", MODEL, "--node", "a")
        assert MODEL in loaded(daemon, "a")
        assert VERSION in refused(daemon, "restart", "a")
        eventually(lambda: ask(daemon, MODEL).status_code == 200, "an answer after the refusal")
        assert has_agent(daemon, "a")
        assert [] == [line for line in daemon.alarms() if line.get("traceback")]
