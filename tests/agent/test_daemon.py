import tempfile
from pathlib import Path

from msgspec.structs import replace
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.daemon import SETTLE_SECONDS, AgentDaemon
from cortexd.config import agent_reading
from cortexd.config.agent_settings import AgentConfig
from cortexd.config.tables import ConfigError
from tests.support.network import Network

CONFIG = agent_reading.parse('[agent]\nnode = "gpu"\ngateway = "127.0.0.1:8700"\n', "x")


class AgentDaemonTests(SynchronousTestCase):
    """The parts of an agent that does not run; tests/live/agent runs one."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.environ = {"RUNTIME_DIRECTORY": folder.name}
        self.folder = Path(folder.name)
        self.file = CONFIG
        self.daemon = self.make(CONFIG)

    def make(self, config: AgentConfig) -> AgentDaemon:
        return AgentDaemon(config, Network(Clock()), self.environ, lambda: self.read())

    def read(self) -> AgentConfig:
        return self.file

    def changed(self, **changes: object) -> AgentConfig:
        return replace(CONFIG, agent=replace(CONFIG.agent, **changes))

    def test_parts(self) -> None:
        """The parts have what the file says."""
        assert ("127.0.0.1", 8700) == self.daemon.dialler.address
        assert "gpu" == self.daemon.dialler.identity.node
        assert 1.0 == self.daemon.watcher.interval
        assert not self.daemon.control.can_restart

    def test_missing_credentials(self) -> None:
        """A file that cannot be read prevents the start."""
        engine = replace(CONFIG.engine, api_key_file=str(self.folder / "gone"))
        for config in (
            self.changed(enrolment=str(self.folder / "gone")),
            replace(CONFIG, engine=engine),
        ):
            with self.assertRaises(ConfigError) as caught:
                self.make(config)
            assert "gone" in str(caught.exception)

    def test_memory_is_given_back_again(self) -> None:
        """Memory is given back after the first look, and again and again, until the agent ends."""
        clock, calls = Clock(), list[float]()
        daemon = AgentDaemon(
            CONFIG,
            Network(clock),
            self.environ,
            lambda: self.read(),
            lambda: calls.append(clock.seconds()),
        )
        settling, _ = daemon._ready()
        settling.startService()
        clock.pump([SETTLE_SECONDS] * 2)
        settling.stopService()
        clock.advance(SETTLE_SECONDS)

        assert [0.0, SETTLE_SECONDS, 2 * SETTLE_SECONDS] == calls

    def test_reload(self) -> None:
        """A reload changes the interval, the gateway's address and the identity."""
        self.file = self.changed(gateway="127.0.0.1:8701", interval=0.5, node="other")

        self.daemon.reload()

        assert ("127.0.0.1", 8701) == self.daemon.dialler.address
        assert "other" == self.daemon.dialler.identity.node
        assert 0.5 == self.daemon.watcher.interval

    def test_wrong_reload(self) -> None:
        """A file that cannot be used changes nothing."""
        self.file = self.changed(gateway="127.0.0.1:8701", enrolment="/gone")

        self.daemon.reload()

        assert ("127.0.0.1", 8700) == self.daemon.dialler.address
        assert CONFIG is self.daemon.config
