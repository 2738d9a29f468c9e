"""What the agent's file says about the engine's process."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.supervising.terms import process_terms, run_directory
from cortexd.config.agent_settings import EngineSettings, PowerSettings


class TermsTests(SynchronousTestCase):
    def test_the_file_s_keys_arrive(self) -> None:
        """Each one at its place, and the log's command by the unit."""
        engine = EngineSettings(
            endpoint="http://127.0.0.1:4321",
            restart_command=("systemctl", "restart", "m.service"),
            unit="m.service",
            start_seconds=1200.0,
        )
        sleep = PowerSettings(suspend_command=("systemctl", "suspend"))
        terms = process_terms(engine, sleep, "gpu", {"RUNTIME_DIRECTORY": "/run/a:/run/b"})
        assert (4321, "m.service", 1200.0) == (terms.port, terms.unit, terms.start_seconds)
        assert ("systemctl", "restart", "m.service") == terms.restart_command
        assert ("systemctl", "suspend") == terms.suspend_command
        assert "journalctl" == terms.log_command[0]
        assert Path("/run/a") == terms.run_directory
        assert () == terms.command

    def test_ports_of_endpoints(self) -> None:
        """An endpoint without one has that of its scheme."""
        engine = EngineSettings(endpoint="http://127.0.0.1", command=("engine",))
        assert 80 == process_terms(engine, PowerSettings(), "gpu", {}).port

    def test_run_directories(self) -> None:
        """Without systemd it is the user's own, and another one for each node."""
        assert Path("/run/user/7/cortex-agent-gpu") == run_directory(
            "gpu", {"XDG_RUNTIME_DIR": "/run/user/7"}
        )
        assert run_directory("a", {}) != run_directory("b", {})
