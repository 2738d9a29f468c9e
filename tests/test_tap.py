import os
import sys
import tempfile
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.plugin import IPlugin, getPlugins
from twisted.trial.unittest import SynchronousTestCase

from cortexd import __version__, config
from cortexd.config import Config, ConfigError
from cortexd.http_server import GatewaySite
from cortexd.paths import NoHomeError
from cortexd.poller import Poller
from cortexd.services import Ending, ListeningService, SignalService
from cortexd.systemd import SystemdService
from cortexd.tap import Daemon, Options, daemon

NODE = '[[nodes]]\nname = "a"\nendpoint = "http://10.0.0.1:8080"\nvram_mb = 1000\n'


class OptionsTests(SynchronousTestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.config = self.folder / "cortex.toml"
        self.config.write_text('[gateway]\nlisten = "127.0.0.1:8001"\n' + NODE)
        self.output, self.complaints = StringIO(), StringIO()
        self.patch(sys, "stdout", self.output)
        self.patch(sys, "stderr", self.complaints)
        self.patch(os, "environ", {"HOME": str(self.folder)})

    def parse(self, *arguments: str) -> Options:
        options = Options()
        options.parseOptions(arguments)
        return options

    def gateway(self, *arguments: str) -> config.GatewaySettings:
        settings = self.parse(*arguments).config
        assert settings is not None
        return settings.gateway

    def exit_of(self, arguments: Sequence[str]) -> tuple[object, str, str]:
        """Return status, output and complaints of options that end the process."""
        ended = self.assertRaises(SystemExit, self.parse, *arguments)
        return ended.code, self.output.getvalue(), self.complaints.getvalue()

    def test_the_file_is_read(self) -> None:
        """The option, long or short, names the file."""
        for arguments in (("--config", str(self.config)), ("-c", str(self.config))):
            assert "127.0.0.1:8001" == self.gateway(*arguments).listen

    def test_options_come_before_the_file(self) -> None:
        """Each may be spelt like the file's key or in the way of options."""
        for dash in "-_":
            gateway = self.gateway(
                f"--config={self.config}",
                "--listen=127.0.0.1:1",
                f"--metrics{dash}listen=127.0.0.1:2",
                f"--control{dash}socket",
                "/run/own_socket.sock",
            )
            assert ("127.0.0.1:1", "127.0.0.1:2", "/run/own_socket.sock") == (
                gateway.listen,
                gateway.metrics_listen,
                gateway.control_socket,
            )

    def test_a_value_keeps_its_underscores(self) -> None:
        """Only names of options are respelt, not what they are given."""
        gateway = self.gateway(f"--config={self.config}", "--control_socket=/run/my_own/a_b.sock")

        assert "/run/my_own/a_b.sock" == gateway.control_socket

    def test_the_demo_needs_no_file(self) -> None:
        """It keeps the overrides for the demo's own configuration."""
        options = self.parse("--demo", "--listen=127.0.0.1:1")

        assert options.config is None
        assert {"listen": "127.0.0.1:1"} == options.overrides

    def test_the_demo_takes_no_file(self) -> None:
        """Nor anything to check: one line and status 1."""
        for arguments in (["--demo", f"--config={self.config}"], ["--demo", "--check"]):
            status, _, complaints = self.exit_of(arguments)
            assert 1 == status
            assert complaints.endswith("leave --config and --check out\n")

    def test_a_check_ends_with_what_it_found(self) -> None:
        """Status 0 and the number of nodes; nothing goes to standard error."""
        assert (0, f"{self.config}: good, 1 nodes\n", "") == self.exit_of(
            ["--check", "--config", str(self.config)]
        )

    def test_a_mistake_is_one_line(self) -> None:
        """Status 1, with the file and the key."""
        self.config.write_text("[gateway]\nlisten = 7\n" + NODE)

        status, output, complaints = self.exit_of(["--config", str(self.config)])

        assert (1, "") == (status, output)
        assert complaints.startswith(f"{self.config}: gateway.listen: ")
        assert 1 == complaints.count("\n")

    def test_a_mistake_on_the_command_line_is_told_apart(self) -> None:
        """What the command line gave is named, for the file may be innocent."""
        _, _, complaints = self.exit_of([f"--config={self.config}", "--metrics_listen=7"])

        assert "gateway.metrics_listen" in complaints
        assert complaints.endswith("(the command line gives --metrics-listen)\n")

    def test_without_any_file_it_says_where_it_looked(self) -> None:
        """The places are those of cortexd.paths."""
        self.patch(os, "getuid", lambda: 1000)

        status, _, complaints = self.exit_of([])

        assert 1 == status
        assert f"{self.folder}/.config/cortex/cortex.toml or /etc/cortex" in complaints
        assert "--config FILE or --demo" in complaints

    def test_the_users_own_file_is_found(self) -> None:
        """The first candidate that exists is read."""
        self.patch(os, "getuid", lambda: 1000)
        own = self.folder / ".config" / "cortex"
        own.mkdir(parents=True)
        (own / "cortex.toml").write_text('[gateway]\nlisten = "127.0.0.1:8002"\n' + NODE)

        assert "127.0.0.1:8002" == self.gateway().listen

    def test_it_tells_its_version(self) -> None:
        """Ours; Twisted's own comes from twistd."""
        assert (0, f"cortexd {__version__}\n", "") == self.exit_of(["--version"])


class PluginTests(SynchronousTestCase):
    def test_twistd_finds_it(self) -> None:
        """One record by the name of cortex leads to this module."""
        records: list[Any] = [
            plugin for plugin in getPlugins(IPlugin) if getattr(plugin, "tapname", "") == "cortex"
        ]

        (record,) = records
        assert "cortexd.tap" == record.module
        assert record.options is Options


def settings(gateway: str = "", extra: str = "") -> Config:
    return config.parse(
        f'[gateway]\ncontrol_socket = "/run/cortex/control.sock"\n{gateway}\n{extra}\n{NODE}',
        "test",
    )


class AssemblyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()

    def assemble(self, given: Config) -> Daemon:
        return daemon(given, self.reactor, {})

    def test_the_stages_are_the_drain_plan(self) -> None:
        """Stopped from the last: systemd hears of it, no new clients, the drain, then the rest."""
        assembled = self.assemble(settings())

        kinds = [type(service) for service in assembled.service]
        connections, metrics, _, *rest = assembled.service
        assert [Poller, Ending, ListeningService, SignalService, SystemdService] == kinds[3:]
        assert [Ending, ListeningService] == kinds[:2]
        assert metrics is assembled.metrics_listener
        assert rest[2] is assembled.listener
        assert connections is not rest[1]

    def test_both_sides_listen_where_they_were_told(self) -> None:
        """Clients on one port, Prometheus on the other, and nowhere else."""
        assembled = self.assemble(
            settings('listen = "127.0.0.1:8001"\nmetrics_listen = "10.1.1.1:9101"')
        )

        for listener in (assembled.listener, assembled.metrics_listener):
            listener.privilegedStartService()

        (clients, metrics) = self.reactor.tcpServers
        assert (8001, "127.0.0.1") == (clients[0], clients[3])
        assert (9101, "10.1.1.1") == (metrics[0], metrics[3])
        assert isinstance(clients[1], GatewaySite)
        assert 50 * 1024 * 1024 == clients[1].max_body_bytes

    def test_the_fleet_is_the_configurations(self) -> None:
        """Every node is there, with its endpoint, before any of them was asked."""
        extra = '[[nodes]]\nname = "b"\nendpoint = "http://b:1"\nvram_mb = 5\n'
        assembled = self.assemble(settings(extra=extra))

        assert {"a", "b"} == set(assembled.fleet.node_names)
        assert "http://b:1" == assembled.fleet.node("b").endpoint
        assert () == assembled.fleet.models

    def test_nothing_happens_before_the_start(self) -> None:
        """Assembling opens no port, makes no connection and sets no timer."""
        self.assemble(settings())

        assert [] == self.reactor.tcpServers
        assert [] == self.reactor.tcpClients
        assert [] == self.reactor.unixServers
        assert [] == self.reactor.getDelayedCalls()

    def test_an_address_that_cannot_be_used_names_its_key(self) -> None:
        """What only shows when the endpoint is made is a mistake in the configuration too."""
        for key in ("listen", "metrics_listen"):
            given = settings(f'{key} = "systemd:domain=INET:name=http"')
            raised = self.assertRaises(ConfigError, self.assemble, given)
            assert str(raised).startswith(f"gateway.{key}: 'systemd:")

    def test_without_a_place_for_the_socket_it_says_so(self) -> None:
        """A user without a home must name the control socket."""
        self.patch(os, "getuid", lambda: 1000)
        given = config.parse(NODE, "test")

        self.assertRaises(NoHomeError, self.assemble, given)
        assert self.assemble(settings()).service is not None
