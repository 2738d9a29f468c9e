"""Certificates that expire and open listeners: the log, the status, the metrics and a check."""

from __future__ import annotations

import tempfile
from pathlib import Path

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.config import reading
from cortexd.config.expiry import OF_AN_AGENT, OF_THE_LINK, Shown, Validity
from cortexd.config.reading import ConfigError
from cortexd.config.settings import Config
from cortexd.service.daemon import Daemon, daemon
from cortexd.service.watching import MOST_NODES, Watch, findings
from tests.doubles.certificates import write_certificate
from tests.logs.noting import lines_of
from tests.test_reassembly import TEXT

DAY = 86_400.0
HOUR = 3_600.0
WARNINGS = ("certificate_expires", "open_without_keys")


class WatchTestCase(SynchronousTestCase):
    """A daemon in memory whose clients speak TLS with a certificate for 30 days."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.pem = Path(temporary.name, "gateway.pem")
        write_certificate(self.pem, (-1, 30))
        self.tls = f'tls_certificate = "{self.pem}"\ntls_key = "{self.pem}"'
        self.reactor = MemoryReactorClock()
        self.now = 0.0
        self.lines = lines_of(self, *WARNINGS)

    def config(self, gateway: str) -> Config:
        return reading.parse(TEXT.replace("[gateway]", f"[gateway]\n{gateway}"), "test")

    def start(self, gateway: str) -> Daemon:
        """Start the watch of a daemon, at the beginning of the certificate's last 30 days."""
        made = daemon(self.config(gateway), self.reactor, {}, lambda: self.now)
        (watch,) = [each for each in made.service if isinstance(each, Watch)]
        (*_, self.end) = [0.0, *watch.expiries.values()]
        self.now = self.end - 30 * DAY
        watch.startService()
        self.addCleanup(watch.stopService)
        return made

    def wait(self, seconds: float) -> None:
        """Let time pass, hour by hour."""
        for _ in range(int(seconds // HOUR)):
            self.now += HOUR
            self.reactor.advance(HOUR)

    def notices(self, made: Daemon) -> list[str]:
        return made.parts.control_factory.notices()


class ExpiryTests(WatchTestCase):
    def test_two_weeks_before_the_end(self) -> None:
        """The log warns once a day from then on, and the status all the time."""
        made = self.start(self.tls)
        self.wait(15 * DAY)
        assert ([], []) == (self.lines, self.notices(made))
        self.wait(3 * DAY)
        assert 3 == len(self.lines)
        words = "the certificate of gateway.listen expires in 12 days, on "
        assert self.notices(made)[0].startswith(words)

    def test_the_end(self) -> None:
        """It is said clearly."""
        made = self.start(self.tls)
        self.now = self.end + 2 * HOUR
        self.wait(HOUR)
        assert "has expired 3 hours ago" in self.lines[0]["warning"]
        assert "clients refuse it; renew it and reload" in self.notices(made)[0]

    def test_a_description(self) -> None:
        """The certificate of `ssl:` is watched like that of the keys, at each listener."""
        own = f"ssl:9443:interface=127.0.0.1:privateKey={self.pem}"
        made = self.start(f'metrics_listen = "{own}"')
        self.now = self.end - DAY
        assert "gateway.metrics_listen expires in 24 hours" in self.notices(made)[0]

    def test_the_metric(self) -> None:
        """It is the end of each certificate in unix seconds."""
        made = self.start(self.tls)
        name = "cortex_tls_certificate_not_after_seconds"
        registry = made.parts.metrics.registry
        assert self.end == registry.get_sample_value(name, {"listener": "listen"})
        assert 0.0 == registry.get_sample_value("cortex_open_without_keys")


class NodeTests(WatchTestCase):
    """The certificates that nodes show, as far as they are known."""

    def watch(self, expiries: dict[str, float]) -> Watch:
        """Start a watch of nodes alone."""
        made = Watch(self.config(""), {}, self.reactor, lambda: self.now, lambda: expiries)
        made.startService()
        self.addCleanup(made.stopService)
        return made

    def test_two_weeks_before_the_end(self) -> None:
        """The log warns once a day from then on, and the status all the time; both say where."""
        expiries: dict[str, float] = {}
        watch = self.watch(expiries)
        expiries["gpu-1"] = 15 * DAY  # once it was polled
        self.wait(HOUR)
        assert ([], []) == (self.lines, watch.notices())
        self.wait(3 * DAY)
        assert 3 == len(self.lines)
        begins = "the certificate of node gpu-1 expires in "
        assert self.lines[0]["warning"].startswith(begins + "14 days, on ")
        assert watch.notices()[0].startswith(begins + "11 days, on ")
        assert watch.notices()[0].endswith(
            "; renew it on the node, which is down for us after that"
        )

        expiries["gpu-1"] = 99 * DAY
        assert [] == watch.notices()

    def test_the_end(self) -> None:
        """What follows is said."""
        watch = self.watch({"gpu-1": 0.0})
        self.now += 3 * HOUR
        (notice,) = watch.notices()
        assert "node gpu-1 has expired 3 hours ago" in notice
        assert "no new connection to the node succeeds; renew it on the node" in notice

    def test_the_daemon(self) -> None:
        """It watches the certificates that its connections have seen."""
        made = daemon(self.config(""), self.reactor, {}, lambda: self.now)
        pool, (name, client) = made.parts.pool, next(iter(made.parts.clients.items()))
        seen = pool._connections_to(client.endpoint, client.files)
        assert seen is not None
        pool._not_after[seen] = DAY
        assert any(f"node {name} expires in 24 hours" in line for line in self.notices(made))

    def test_very_many_nodes(self) -> None:
        """The status shows the most urgent ones, and counts the rest."""
        watch = self.watch({f"gpu-{number}": (9 - number) * DAY for number in range(9)})
        *shown, rest = watch.notices()
        assert MOST_NODES == len(shown)
        assert "node gpu-8 expires in 24 hours" in shown[0]
        assert "4 more nodes" in rest


class AgentTests(WatchTestCase):
    """What expires of the agents' links."""

    def watch(self, *shown: Shown) -> Watch:
        """Start a watch of agents alone."""
        made = Watch(self.config(""), {}, self.reactor, lambda: self.now, of_agents=lambda: shown)
        made.startService()
        self.addCleanup(made.stopService)
        return made

    def test_a_month_before_the_end(self) -> None:
        """Somebody must go to the agent's machine: the warnings begin earlier than others."""
        watch = self.watch(Shown("the enrolment of node gpu-1", Validity(0, 31 * DAY), OF_AN_AGENT))
        assert ([], []) == (self.lines, watch.notices())
        self.wait(2 * DAY)
        assert self.lines[0]["warning"].startswith(
            "the enrolment of node gpu-1 expires in 30 days, on 1970-02-01 00:00 UTC; its agent is "
            "not admitted after that"
        )
        assert "expires in 29 days" in watch.notices()[0]

    def test_the_gateway_s_certificate_for_agents(self) -> None:
        """The metric of listeners has it too, but no enrolment."""
        of_a_node = Shown("the enrolment of node a", Validity(0, DAY), OF_AN_AGENT)
        watch = self.watch(Shown("the certificate", Validity(0, 9.0), OF_THE_LINK), of_a_node)
        assert {"agents": 9.0} == watch.expiries

    def test_very_many_agents(self) -> None:
        """The status shows the first ones, and counts the rest."""
        watch = self.watch(*[Shown(f"{n}", Validity(0, DAY), OF_AN_AGENT) for n in range(9)])
        *shown, rest = watch.notices()
        assert MOST_NODES == len(shown)
        assert "4 more agents" in rest


class OpenTests(WatchTestCase):
    def test_it_is_logged_at_the_start(self) -> None:
        """And stays in the status."""
        made = self.start('listen = "0.0.0.0:8000"')
        assert [self.lines[0]["warning"]] == self.notices(made)
        assert 1 == len(self.lines)


class CheckTests(WatchTestCase):
    def test_certificates(self) -> None:
        """It shows when each expires, and warns as the daemon would."""
        write_certificate(self.pem, (-1, 30))
        config = self.config(self.tls)
        made = daemon(config, self.reactor, {}, lambda: 0.0)
        (watch,) = [each for each in made.service if isinstance(each, Watch)]
        end = watch.expiries["listen"]
        (fine,) = findings(config, end - 29 * DAY)
        (ending,) = findings(config, end - 5 * DAY)
        (late,) = findings(config, end + DAY)

        assert fine.startswith("gateway.listen: certificate valid until 20")
        assert fine.endswith("(29 days)")
        assert ending.startswith("warning: the certificate of gateway.listen expires in 5 days")
        assert late.startswith("warning: the certificate of gateway.listen has expired 24 hours")

    def test_broken_files(self) -> None:
        """They are the error of the check, with the key."""
        self.pem.unlink()
        error = self.assertRaises(ConfigError, findings, self.config(self.tls), 0.0)
        assert str(error).startswith("gateway.tls_certificate: ")

    def test_open_listeners(self) -> None:
        """They are a warning, and a socket of systemd shows that only the start can tell."""
        (warning,) = findings(self.config('listen = "0.0.0.0:8000"'), 0.0)
        assert warning.startswith("warning: open: gateway.listen = ")
        (note,) = findings(self.config('listen = "systemd:domain=INET:name=http"'), 0.0)
        assert "only the start can tell" in note
