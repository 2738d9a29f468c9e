import gc
import os
import sys
import tempfile
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from treq.testing import StubTreq
from twisted.application.service import IService
from twisted.internet.testing import MemoryReactorClock
from twisted.plugin import IPlugin, getPlugins
from twisted.trial.unittest import SynchronousTestCase

from cortexd import __version__
from cortexd.assembly import Daemon, daemon, make_scheduler
from cortexd.config import reading
from cortexd.config.paths import NoHomeError
from cortexd.config.reading import ConfigError
from cortexd.config.settings import Config, GatewaySettings
from cortexd.downstream.http_server import GatewaySite
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Replica
from cortexd.fleet.states import NodeHealth, Observation, PollFailure, ReplicaState
from cortexd.scheduling.allocator import SchedulingTerms
from cortexd.scheduling.placement import EvictionTerms
from cortexd.service.stages import Ending, SignalService
from cortexd.service.systemd import SystemdService
from cortexd.store.recorder import Recorder
from cortexd.tap import YOUNG_OBJECTS, Options, settle_collector
from cortexd.upstream.lifecycle import Lifecycle
from cortexd.upstream.poller import Poller
from tests.testing.client import Exchange

NODE = '[[nodes]]\nname = "a"\nendpoint = "http://10.0.0.1:8080"\nvram_mb = 1000\n'
PLACES = 'control_socket = "/run/cortex/control.sock"\nstate_dir = "/var/lib/cortex"'


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

    def gateway(self, *arguments: str) -> GatewaySettings:
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
        assert (0, f"{self.config}: good, 1 node\n", "") == self.exit_of(
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
    return reading.parse(f"[gateway]\n{PLACES}\n{gateway}\n{extra}\n{NODE}", "test")


class CollectorTests(SynchronousTestCase):
    def test_what_is_there_is_left_alone(self) -> None:
        """From then on it is not looked through, and what is new is so less often."""
        before = gc.get_threshold()
        self.addCleanup(gc.set_threshold, *before)
        self.addCleanup(gc.unfreeze)

        settle_collector()

        assert gc.get_freeze_count() > 10_000
        assert (YOUNG_OBJECTS, *before[1:]) == gc.get_threshold()


class AssemblyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()

    def assemble(self, given: Config) -> Daemon:
        return daemon(given, self.reactor, {})

    def test_the_stages_are_the_drain_plan(self) -> None:
        """Stopped from the last: systemd hears of it, no new clients, the drain, then the rest."""
        assembled = self.assemble(settings())

        connections, metrics, recorder, control, *rest = assembled.service
        lifecycle, poller, drain, listener, signals, systemd = rest
        assert [Ending, Recorder, Lifecycle, Poller, Ending, SignalService, SystemdService] == [
            type(service)
            for service in (connections, recorder, lifecycle, poller, drain, signals, systemd)
        ]
        assert metrics is assembled.metrics_listener
        assert listener is assembled.listener
        # What the control socket shows and changes is there before it and after it.
        assert IService.providedBy(control)

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

        assert {"a", "b"} == set(assembled.fleet.nodes)
        assert "http://b:1" == assembled.fleet.nodes["b"].endpoint
        assert () == assembled.fleet.models

    def test_the_fleet_is_in_the_metrics(self) -> None:
        """From the first scrape on, though no node was asked yet."""
        assembled = self.assemble(settings())
        assembled.metrics_listener.privilegedStartService()
        site: Any = self.reactor.tcpServers[0][1]
        treq: Any = StubTreq(site.resource)
        exchange = Exchange()
        exchange.begin(treq.request("GET", "http://cortex/metrics"))
        treq.flush()
        assert {("a", "budget", 1000.0 * 2**20)} == {
            (sample.labels["node"], sample.labels["kind"], sample.value)
            for family in text_string_to_metric_families(exchange.text())
            for sample in family.samples
            if sample.name == "cortex_node_booked_bytes" and sample.value
        }

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
            assert "cannot be listened on: systemd has not handed over this socket" in str(raised)

    def test_what_is_wrong_with_a_secure_address_names_its_key(self) -> None:
        """A certificate that is missing or broken ends the start in one line as well."""
        for key_file in ("/nowhere/key.pem", __file__, f"{__file__}:sslmethod=SSLv9_METHOD"):
            given = settings(f'listen = "ssl:8443:privateKey={key_file}"')
            raised = self.assertRaises(ConfigError, self.assemble, given)
            assert str(raised).startswith("gateway.listen: 'ssl:8443:")
            assert "cannot be listened on: " in str(raised)

    def test_without_a_place_for_its_things_it_says_so(self) -> None:
        """A user without a home must name the control socket and the state directory."""
        self.patch(os, "getuid", lambda: 1000)

        for places in ("", *PLACES.split("\n")):
            given = reading.parse(f"[gateway]\n{places}\n{NODE}", "test")
            self.assertRaises(NoHomeError, self.assemble, given)
        assert self.assemble(settings()).service is not None

    def test_without_a_place_to_write_it_does_not_start(self) -> None:
        """The process ends with one line, and status 1."""
        with tempfile.NamedTemporaryFile() as blocked:
            given = reading.parse(
                f'[gateway]\ncontrol_socket = "/run/cortex/control.sock"\n'
                f'state_dir = "{blocked.name}/state"\n{NODE}',
                "test",
            )
            assembled = self.assemble(given)
            complaints = StringIO()
            self.patch(sys, "__stderr__", complaints)
            ended = self.assertRaises(SystemExit, assembled.service.startService)
        assert 1 == ended.code
        assert 1 == complaints.getvalue().count("\n")
        assert "set gateway.state_dir to another place" in complaints.getvalue()


class SchedulerTests(SynchronousTestCase):
    """What the configuration says is what the scheduler decides by."""

    def fleet(self, text: str) -> Fleet:
        return make_scheduler(reading.parse(text, "test"), 0.0).fleet

    def replica(self, fleet: Fleet, model: str) -> Replica:
        fleet.observe("a", Observation(1, {model: ReplicaState.UNLOADED}), 0.0)
        replica = fleet.replica("a", model)
        assert replica is not None
        return replica

    def test_nodes(self) -> None:
        """Their budget is what the reserve leaves; pins are those of nodes and of models."""
        node = (
            NODE + 'reserve_mb = 100\nmax_resident = 3\npinned = ["x"]\n'
            '[[models]]\nid = "y"\npinned_on = ["a"]\n'
        )
        made = self.fleet(node).nodes["a"]
        assert (900, 3, ["x", "y"]) == (made.budget_mb, made.max_resident, list(made.pins))

    def test_models(self) -> None:
        """Those that are named have their own terms; all others the defaults."""
        fleet = self.fleet(
            "[eviction]\nidle_ttl = 60\n" + NODE + '[[models]]\nid = "x"\nmax_concurrency = 2\n'
            'priority = 7\nttl = 5\n[[models]]\nid = "never"\nttl = 0\n'
        )
        assert [(2, 7, 5.0), (32, 0, 0.0), (32, 0, 60.0)] == [
            (replica.terms.capacity, replica.terms.priority, replica.terms.ttl)
            for replica in (self.replica(fleet, model) for model in ("x", "never", "other"))
        ]

    def test_footprints(self) -> None:
        """A node's own count before the model's; of what is not named nothing is known."""
        fleet = self.fleet(
            NODE + "models = { x = 300 }\n"
            '[[models]]\nid = "x"\nvram_mb = 400\n[[models]]\nid = "y"\nvram_mb = 500\n'
        )
        assert [300, 500, None] == [fleet.footprints.known_mb("a", model) for model in "xyz"]

    def test_terms(self) -> None:
        """Queue, waits, strategy and repair."""
        text = (
            '[eviction]\nstrategy = "priority"\ndefrag_after_cycles = 9\n'
            "[scheduling]\nmax_queue = 1\nqueue_timeout = 2\nmax_wait = 3\nmin_residency = 4\n"
        )
        assert (
            SchedulingTerms(
                max_queue=1,
                queue_timeout=2.0,
                max_wait=3.0,
                defrag_after_cycles=9,
                eviction=EvictionTerms("priority", 4.0),
            )
            == make_scheduler(reading.parse(text + NODE, "test"), 0.0).terms
        )

    def test_patience_with_nodes(self) -> None:
        """When a node is down, and how long a load excuses its silence."""
        fleet = self.fleet("[polling]\ndown_after = 3\n[scheduling]\nload_timeout = 100\n" + NODE)
        healths = []
        for _ in range(3):
            fleet.fail("a", PollFailure("refused", silent=False), 0.0)
            healths.append(fleet.nodes["a"].health)
        assert [NodeHealth.UNKNOWN, NodeHealth.UNKNOWN, NodeHealth.DOWN] == healths
        fleet.observe("a", Observation(1, {"x": ReplicaState.LOADING}), 0.0)
        (replica,) = fleet.replicas("x")
        assert (True, False) == (fleet.loads(replica, 100.0), fleet.loads(replica, 100.1))
