"""The course of a reload: what can fail comes first, and one comes after the other."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SynchronousTestCase

from cortexd.config import reading
from cortexd.config.settings import Config
from cortexd.errors import OperationRefused
from cortexd.service.daemon import Daemon, daemon
from cortexd.service.reloading import FORGET_SECONDS, NO_FILE, STOPPING
from tests.doubles.authorities import CLIENT, Authority
from tests.test_reassembly import KEYS, STARTED_AT, TEXT, Reactor

LIMITS = TEXT.replace("[gateway]", "[gateway]\nhold_seconds = 1")
MOVED = TEXT.replace('"b"', '"c"').replace("10.0.0.2", "10.0.0.3")
POLL_SECONDS = 10.0


class ReloaderTestCase(SynchronousTestCase):
    """A daemon over a reactor in memory; ``text`` is what its file says now."""

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.text = TEXT
        self.readings = 0
        self.made = self.start()

    def start(self, *, has_file: bool = True) -> Daemon:
        config = reading.parse(TEXT, "test")
        read = self.read if has_file else None
        made = daemon(config, self.reactor, {}, lambda: STARTED_AT, None, read)
        for listener in (made.listener, made.metrics_listener):
            listener.privilegedStartService()
        made.reloader.startService()
        self.addCleanup(made.reloader.stopService)
        return made

    def read(self) -> Config:
        self.readings += 1
        return reading.parse(self.text, "test")

    def reload(self) -> list[str]:
        """Reload, with time for the first polls of new nodes; return the changes in words."""
        reloading = self.made.reloader.reload()
        self.reactor.advance(POLL_SECONDS)
        return [str(each) for each in self.successResultOf(reloading)]

    def refusal(self, reloading: Deferred[Any]) -> str:
        return str(self.failureResultOf(reloading, OperationRefused).value)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.made.parts.metrics.registry.get_sample_value(name, labels)


class CourseTests(ReloaderTestCase):
    def test_a_reload(self) -> None:
        """It says what has changed, counts, and the next one finds nothing."""
        self.text = LIMITS

        assert ["gateway.hold_seconds: 5.0 -> 1.0"] == self.reload()
        assert [] == self.reload()
        assert 2.0 == self.sample("cortex_config_reloads_total", result="ok")
        assert 1.0 == self.made.reloader.config.gateway.hold_seconds

    def test_a_plan(self) -> None:
        """It says the same, and changes nothing."""
        self.text = MOVED

        planned = self.successResultOf(Deferred.fromCoroutine(self.made.reloader.plan()))

        assert ["nodes (b)", "nodes (c)"] == [each.key for each in planned]
        assert ["a", "b"] == list(self.made.parts.fleet.nodes) == list(self.made.parts.clients)

    def test_a_wrong_file(self) -> None:
        """Reload and plan fail with the words of the error, and nothing changes."""
        self.text = "[gateway]\nhold = 1\n"

        words = self.refusal(self.made.reloader.reload())

        assert "unknown key gateway.hold" in words
        assert words == self.refusal(Deferred.fromCoroutine(self.made.reloader.plan()))
        assert 5.0 == self.made.reloader.config.gateway.hold_seconds
        assert 1.0 == self.sample("cortex_config_reloads_total", result="refused")

    def test_a_mistake_of_ours(self) -> None:
        """It is logged, refused, and the next reload works."""
        self.patch(self, "read", lambda: 1 / 0)
        self.made = self.start()

        assert "see the log" in self.refusal(self.made.reloader.reload())
        assert 1 == len(self.flushLoggedErrors(ZeroDivisionError))
        assert "see the log" in self.refusal(self.made.reloader.reload())
        assert 1 == len(self.flushLoggedErrors(ZeroDivisionError))

    def test_no_file(self) -> None:
        """The demo has none, and says so."""
        self.made = self.start(has_file=False)

        assert NO_FILE == self.refusal(self.made.reloader.reload())

    def test_reloads_during_a_reload(self) -> None:
        """They are one, which begins after it and reads the file as it is then."""
        self.text = MOVED
        first = self.made.reloader.reload()
        self.text = LIMITS
        others = [self.made.reloader.reload() for _ in range(3)]
        for each in (first, *others):
            self.assertNoResult(each)

        self.reactor.advance(POLL_SECONDS)
        self.reactor.advance(POLL_SECONDS)

        assert "nodes (b)" == self.successResultOf(first)[0].key
        found = [self.successResultOf(each) for each in others]
        assert found[0] is found[1] is found[2]
        assert 2 == self.readings
        assert ["a", "b"] == list(self.made.parts.fleet.nodes)

    def test_the_end_of_the_daemon(self) -> None:
        """A reload under way and each later one are refused, and change nothing."""
        self.text = MOVED
        reloading = self.made.reloader.reload()

        self.made.reloader.stopService()

        assert STOPPING == self.refusal(reloading)
        assert STOPPING == self.refusal(self.made.reloader.reload())
        assert ["a", "b"] == list(self.made.parts.fleet.nodes)

    def test_a_hangup(self) -> None:
        """Nobody hears its failure but the log."""
        self.text = "wrong"

        self.made.reloader.hang_up()

        assert 1.0 == self.sample("cortex_config_reloads_total", result="refused")


class KeysTests(ReloaderTestCase):
    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(folder.name, "keys.toml")
        self.text = f'{TEXT}[auth]\nkeys_file = "{self.file}"\n'

    def keys(self) -> list[str]:
        return list(self.made.parts.ring.keys)

    def test_which_keys_come_go_and_change(self) -> None:
        """A plan and a reload name them, with what is another, and show no value."""
        self.file.write_text(KEYS)
        planned = self.successResultOf(Deferred.fromCoroutine(self.made.reloader.plan()))
        assert ["auth.keys_file", "keys (alice)"] == [each.key for each in planned]
        assert not self.made.parts.ring.is_required
        assert "keys (alice): added" in self.reload()
        assert ["alice"] == self.keys()

        before = self.made.parts.ring.keys["alice"]
        other = KEYS.replace("alice", "carol")
        self.file.write_text(f'{KEYS.replace("alice0", "aaaaa0")}models = ["x"]\n{other}')
        assert [
            "keys (alice): changed: the secret, models",
            "keys (carol): added",
        ] == self.reload()
        assert before != self.made.parts.ring.keys["alice"]
        self.file.write_text(other)
        assert ["keys (alice): removed"] == self.reload()
        assert [] == self.reload()

    def test_a_faulty_file(self) -> None:
        """It changes nothing, and the refusal says why; so does the one of a start."""
        self.file.write_text(KEYS)
        self.reload()
        self.file.write_text(KEYS + "weight = 0")

        words = self.refusal(self.made.reloader.reload())
        assert f"{self.file}: keys[0] (alice).weight: found 0" in words
        assert ["alice"] == self.keys()

    def test_a_key_that_is_added_during_a_reload(self) -> None:
        """It stays, although the reload has read the file before."""
        self.file.write_text(KEYS)
        self.reload()
        self.text = self.text.replace('"b"', '"c"').replace("10.0.0.2", "10.0.0.3")
        reloading = self.made.reloader.reload()
        self.assertNoResult(reloading)
        adding = Deferred.fromCoroutine(self.made.parts.key_keeper.add({"name": "bob"}))
        self.successResultOf(adding)
        self.reactor.advance(POLL_SECONDS)

        self.successResultOf(reloading)
        assert ["alice", "bob"] == self.keys()

    def test_a_file_that_every_user_may_read(self) -> None:
        """It is used, with a warning until its mode is another."""
        self.file.write_text(KEYS)
        self.file.chmod(0o644)
        self.reload()
        assert ["alice"] == self.keys()
        notices = self.made.parts.control_factory.notices()
        assert any(f"every user may read {self.file}" in each for each in notices)

        self.file.chmod(0o600)
        self.reload()
        assert not any("every user" in each for each in self.made.parts.control_factory.notices())

    def test_another_file(self) -> None:
        """The ring and the commands follow it."""
        self.file.write_text(KEYS)
        self.reload()
        other = self.file.with_name("other.toml")
        self.text = self.text.replace(str(self.file), str(other))
        self.reload()

        assert [] == self.keys()
        self.successResultOf(
            Deferred.fromCoroutine(self.made.parts.key_keeper.add({"name": "bob"}))
        )
        assert "bob" in other.read_text()
        assert "bob" not in self.file.read_text()


class PartsTests(ReloaderTestCase):
    def test_nodes(self) -> None:
        """They come in the order of the file, also where parts look up their clients."""
        self.text = MOVED
        before = self.made.parts.clients["a"]

        self.reload()

        assert ["a", "c"] == list(self.made.parts.fleet.nodes) == list(self.made.parts.clients)
        assert before is self.made.parts.clients["a"]

    def test_a_key(self) -> None:
        """Its file is read each time; what it contains is in no message."""
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        path = Path(temporary.name, "key")
        path.write_text("first", "ascii")
        key = f'endpoint = "http://10.0.0.1:8080"\napi_key_file = "{path}"'
        self.text = TEXT.replace('endpoint = "http://10.0.0.1:8080"', key)
        self.reload()
        path.write_text("second", "ascii")

        changes = self.reload()

        assert ["nodes (a).api_key_file: its file has another key now"] == changes
        assert "second" in str(self.made.parts.clients["a"].credentials)
        path.unlink()
        assert "cannot be read" in self.refusal(self.made.reloader.reload())

    def test_tls_files_of_a_node(self) -> None:
        """They are read each time; one that is missing or does not fit changes nothing."""
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        folder = Path(temporary.name)
        home = Authority("Home CA")
        ca = home.write(folder / "ca.pem")
        certificate, key = home.issue("us", purpose=CLIENT).write(folder, "us")
        self.text = TEXT.replace(
            'endpoint = "http://10.0.0.1:8080"',
            f'endpoint = "https://10.0.0.1:8080"\nca_file = "{ca}"\n'
            f'client_certificate = "{certificate}"\nclient_key = "{key}"',
        )
        self.reload()
        assert [] == self.reload()
        client = self.made.parts.clients["a"]
        before = client.files
        home.issue("us", purpose=CLIENT).write(folder, "us")
        Authority("Other CA").write(folder / "ca.pem")

        words = "its file has other certificates now, for new connections"
        assert [
            f"nodes (a).ca_file: {words}",
            f"nodes (a).client_certificate: {words}",
            "nodes (a).client_key: its file has another key now",
        ] == self.reload()
        assert client is self.made.parts.clients["a"]
        assert before != client.files
        before = client.files
        home.issue("us", purpose=CLIENT).write(folder, "them")
        (folder / "them.key").rename(key)
        assert "nodes (a).client_key: " in self.refusal(self.made.reloader.reload())
        (folder / "ca.pem").unlink()
        assert "nodes (a).ca_file: " in self.refusal(self.made.reloader.reload())
        assert before is client.files

    def test_an_address_that_cannot_be_opened(self) -> None:
        """Nothing changes, and an address that was opened for this reload is closed again."""
        self.text = LIMITS.replace(
            "[gateway]", '[gateway]\nlisten = "127.0.0.1:8001"\nmetrics_listen = "127.0.0.1:9101"'
        )
        listen = self.reactor.listenTCP
        opened: list[Any] = []

        def listen_once(port: int, *given: Any, **more: Any) -> Any:
            if port == 9101:
                raise CannotListenError(None, port, OSError(98, "Address already in use"))
            opened.append(listen(port, *given, **more))
            self.patch(opened[-1], "stopListening", lambda: opened.append("closed"))
            return opened[-1]

        self.patch(self.reactor, "listenTCP", listen_once)

        words = self.refusal(self.made.reloader.reload())

        assert "gateway.metrics_listen" in words
        assert "Address already in use" in words
        assert "closed" == opened[-1]
        assert 5.0 == self.made.reloader.config.gateway.hold_seconds

    def test_metrics_of_a_node_that_left(self) -> None:
        """They vanish once Prometheus has had time to read them, and those of others stay."""
        self.made.parts.metrics.polls.labels("b", "ok").inc()
        self.text = MOVED
        self.reload()
        assert 1.0 == self.sample("cortex_polls_total", node="b", outcome="ok")

        self.reactor.advance(FORGET_SECONDS)

        assert self.sample("cortex_polls_total", node="b", outcome="ok") is None
        assert self.sample("cortex_node_up", node="b") is None
        assert 0.0 == self.sample("cortex_node_up", node="a")

    def test_metrics_of_a_node_that_comes_back(self) -> None:
        """They go on."""
        self.made.parts.metrics.polls.labels("b", "ok").inc()
        self.text = MOVED
        self.reload()
        self.text = TEXT
        self.reload()

        self.reactor.advance(FORGET_SECONDS)

        assert 1.0 == self.sample("cortex_polls_total", node="b", outcome="ok")
