"""What the units of the agent and of the engine promise to each other and to the agent."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from cortexd.config.agent_settings import EngineSettings

UNITS = Path(__file__).parents[2] / "contrib" / "systemd"


def read(name: str) -> configparser.RawConfigParser:
    """Read a unit as systemd does: case matters, a key may come twice."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # documented way
    assert parser.read(UNITS / name, encoding="utf-8")
    return parser


class AgentUnitTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Read the unit."""
        self.text = (UNITS / "cortex-agent.service").read_text(encoding="utf-8")
        self.service = read("cortex-agent.service")["Service"]

    def test_the_agent_knows_its_unit(self) -> None:
        """By this name it asks whether it is restarted, and it reports to systemd itself."""
        assert "Environment=CORTEX_UNIT=%n" in self.text
        assert ("notify", "main") == (self.service["Type"], self.service["NotifyAccess"])
        assert int(self.service["WatchdogSec"]) > 0
        assert "cortex-agent --config /etc/cortex/agent.toml" in self.service["ExecStart"]

    def test_the_run_directory_outlives_a_restart(self) -> None:
        """The next agent finds the engine there, and nobody else may write to it."""
        assert "cortex-agent" == self.service["RuntimeDirectory"]
        assert "0700" == self.service["RuntimeDirectoryMode"]
        assert "restart" == self.service["RuntimeDirectoryPreserve"]

    def test_the_engine_can_be_seen(self) -> None:
        """Another user's process, the tables of sockets, and the devices of accelerators."""
        for key in ("ProtectProc", "ProcSubset", "PrivateDevices", "PrivateUsers"):
            assert key not in self.service, key
        assert "DeviceAllow=char-nvidia* rw" in self.text

    def test_the_rule_lets_the_unit_s_user_restart_the_engine(self) -> None:
        """It names the user of the agent's unit and the unit of the example, and no others."""
        rule = (UNITS / "50-cortex-agent.rules").read_text(encoding="utf-8")
        assert [self.service["User"]] == re.findall(r'user !== "([^"]+)"', rule)
        assert ["mistralrs.service"] == re.findall(r'"unit"\) === "([^"]+)"', rule)
        assert (UNITS / "mistralrs.service").exists()

    def test_an_engine_that_the_agent_runs(self) -> None:
        """With the drop-in it outlives the agent, and has time to end before systemd's patience."""
        service = read("cortex-agent.service.d/supervised.conf")["Service"]
        assert "process" == service["KillMode"]
        assert "continue" == service["OOMPolicy"]
        assert ("no", "no") == (service["PrivateTmp"], service["RemoveIPC"])
        assert int(service["TimeoutStopSec"]) >= EngineSettings().stop_seconds + 15
