import os
import sys
from io import StringIO

from twisted.application.service import IService
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agents.enrolling import Enroller
from cortexd.agents.powering import Powering
from cortexd.agents.repairing import Repairing
from cortexd.bulk.translator import Translator
from cortexd.config import reading
from cortexd.config.addresses import BACKLOG
from cortexd.config.paths import NoHomeError
from cortexd.config.reading import ConfigError
from cortexd.config.settings import Config
from cortexd.downstream.gate import Gate
from cortexd.downstream.http_server import GatewaySite
from cortexd.metering.keeper import UsageKeeper
from cortexd.service.daemon import Daemon, daemon
from cortexd.service.entrance import Entrance
from cortexd.service.heartbeat import Heartbeat
from cortexd.service.log_lines import LogLines
from cortexd.service.stages import Ending, SignalService
from cortexd.service.succession import Accession, Retirement
from cortexd.service.systemd import SystemdService
from cortexd.service.watching import Watch
from cortexd.store.catalogue_keeper import CatalogueKeeper
from cortexd.store.journal import Store
from cortexd.store.recorder import Recorder
from cortexd.store.responses import ResponseStore
from cortexd.upstream.lifecycle import Lifecycle
from cortexd.upstream.poller import Poller
from cortexd.upstream.prober import Prober
from tests.support.stores import free_path

NODE = '[[nodes]]\nname = "a"\nendpoint = "http://10.0.0.1:8080"\nvram_mb = 1000\n'
PLACES = 'control_socket = "/run/cortex/control.sock"\nstate_dir = "/var/lib/cortex"'
STARTED_AT = 1_790_000_000.5


def settings_of(gateway: str = "") -> Config:
    return reading.parse(f"[gateway]\n{PLACES}\n{gateway}\n{NODE}", "test")


class DaemonTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()

    def make(self, given: Config) -> Daemon:
        return daemon(given, self.reactor, {}, lambda: STARTED_AT)

    def test_the_stages_are_the_drain_plan(self) -> None:
        """The last stops first: systemd hears of it, no new clients, the drain, then the rest."""
        made = self.make(settings_of())

        log, heartbeat, connections, accession, gate, metrics, *rest = made.service
        recorder, keeper, usage_keeper, enroller, responses, translator, control, *rest = rest
        lifecycle, repairing, powering, poller, prober, links, agents, drain, *rest = rest
        listener, http_listener, watch, reloader, signals, retirement, systemd = rest
        workers = (lifecycle, repairing, powering, poller, prober)
        # The old process gives up the listeners before this one opens them.
        assert isinstance(accession, Accession)
        assert isinstance(gate, Gate)
        assert isinstance(retirement, Retirement)
        assert [
            Recorder,
            CatalogueKeeper,
            UsageKeeper,
            Enroller,
            ResponseStore,
            Translator,
            Lifecycle,
            Repairing,
            Powering,
            Poller,
            Prober,
        ] == [
            type(service)
            for service in (
                *(recorder, keeper, usage_keeper, enroller, responses, translator),
                *workers,
            )
        ]
        assert [LogLines, Ending, Ending, Ending, SignalService, SystemdService] == [
            type(service) for service in (log, connections, links, drain, signals, systemd)
        ]
        assert agents is made.agents_listener
        assert isinstance(heartbeat, Heartbeat)
        assert metrics is made.metrics_listener
        assert listener is made.listener
        assert http_listener is made.http_listener
        assert isinstance(watch, Watch)
        assert reloader is made.reloader
        # The control socket opens after the recorder, and so never shows a fleet without its pins.
        assert IService.providedBy(control)

    def test_both_sides_listen_where_the_configuration_says(self) -> None:
        """Clients connect to one port, Prometheus to the other; no other port is open."""
        made = self.make(settings_of('listen = "127.0.0.1:8001"\nmetrics_listen = "10.1.1.1:9101"'))

        for listener in (made.listener, made.metrics_listener):
            listener.privilegedStartService()

        (clients, metrics) = self.reactor.tcpServers
        assert (8001, "127.0.0.1") == (clients[0], clients[3])
        assert (9101, "10.1.1.1") == (metrics[0], metrics[3])
        assert clients[2] == metrics[2] == BACKLOG
        assert isinstance(clients[1], Entrance)
        assert isinstance(clients[1].site, GatewaySite)
        assert 32 * 1024 * 1024 == clients[1].site.max_body_bytes

    def test_nothing_happens_before_the_start(self) -> None:
        """Making the daemon opens no port, makes no connection and sets no timer."""
        self.make(settings_of())

        assert [] == self.reactor.tcpServers
        assert [] == self.reactor.tcpClients
        assert [] == self.reactor.unixServers
        assert [] == self.reactor.getDelayedCalls()

    def test_an_address_that_cannot_be_used_names_its_key(self) -> None:
        """A mistake that only shows when the endpoint is made is one in the configuration too."""
        for key in ("listen", "metrics_listen"):
            given = settings_of(f'{key} = "systemd:domain=INET:name=http"')
            raised = self.assertRaises(ConfigError, self.make, given)
            assert str(raised).startswith(f"gateway.{key}: 'systemd:")
            assert "cannot listen: systemd has not passed this socket" in str(raised)

    def test_a_mistake_in_a_secure_address_names_its_key(self) -> None:
        """A certificate that is missing or broken ends the start in one line as well."""
        for key_file in ("/nowhere/key.pem", __file__):
            given = settings_of(f'listen = "ssl:8443:privateKey={key_file}"')
            raised = self.assertRaises(ConfigError, self.make, given)
            assert str(raised).startswith("gateway.listen: 'ssl:8443:")
            assert "cannot listen: " in str(raised)

    def test_socket_and_state_need_a_directory(self) -> None:
        """A user without a home must name the control socket and the state directory."""
        self.patch(os, "getuid", lambda: 1000)

        for places in ("", *PLACES.split("\n")):
            given = reading.parse(f"[gateway]\n{places}\n{NODE}", "test")
            self.assertRaises(NoHomeError, self.make, given)
        assert self.make(settings_of()).service is not None

    def test_it_does_not_start_beside_a_daemon_with_the_same_state(self) -> None:
        """The process ends with one line, and status 1."""
        folder = free_path(self)
        given = reading.parse(
            f'[gateway]\ncontrol_socket = "/run/cortex/control.sock"\n'
            f'state_dir = "{folder}"\n{NODE}',
            "test",
        )
        first = Store(folder, STARTED_AT)
        self.addCleanup(first.close)
        made = self.make(given)
        complaints = StringIO()
        self.patch(sys, "__stderr__", complaints)
        ended = self.assertRaises(SystemExit, made.service.startService)
        assert 1 == ended.code
        assert 1 == complaints.getvalue().count("\n")
        assert "set gateway.state_dir of one of the two" in complaints.getvalue()
