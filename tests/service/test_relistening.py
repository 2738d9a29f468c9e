"""Listeners under another configuration: TLS, plain HTTP beside it, and who is admitted."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import endpoints
from twisted.internet.defer import Deferred
from twisted.python.systemd import ListenFDs

from cortexd.config import reading
from cortexd.config.reading import ConfigError
from cortexd.service.daemon import daemon
from tests.doubles.certificates import write_certificate
from tests.service.test_reloading import ReloaderTestCase
from tests.test_reassembly import STARTED_AT, TEXT

BEYOND = 'listen = "0.0.0.0:8001"'


def text_with(gateway: str, auth: str | None = None) -> str:
    """Return a configuration with these keys of [gateway], and with [auth] if it is given."""
    table = "" if auth is None else f"[auth]\n{auth}\n"
    return table + TEXT.replace("[gateway]", f"[gateway]\n{gateway}")


class RelisteningTestCase(ReloaderTestCase):
    def setUp(self) -> None:
        super().setUp()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.pem = self.folder / "gateway.pem"
        write_certificate(self.pem)
        self.tls = f'tls_certificate = "{self.pem}"\ntls_key = "{self.pem}"'

    @property
    def entrance(self) -> Any:
        """How the clients' connections come in now."""
        return self.made.listener._factory


class TLSTests(RelisteningTestCase):
    def test_it_begins_and_ends(self) -> None:
        """At the same address, for new connections; nothing is opened or closed."""
        self.text = text_with(self.tls)
        changes = self.reload()
        assert [f'gateway.tls_certificate: not set -> "{self.pem}"'] == changes[:1]
        assert self.entrance.certificate is not None
        self.text = TEXT
        assert 2 == len(self.reload())
        assert self.entrance.certificate is None
        assert 2 == len(self.reactor.tcpServers)

    def test_a_renewed_certificate(self) -> None:
        """Under the same path it is a change too, once; a plan only says so."""
        self.text = text_with(self.tls)
        self.reload()
        before = self.entrance.certificate
        assert [] == self.reload()
        write_certificate(self.pem)
        plan = self.successResultOf(Deferred.fromCoroutine(self.made.reloader.plan()))

        words = "gateway.tls_certificate: another certificate in the same file, for new connections"
        assert [words] == [str(each) for each in plan]
        assert before == self.entrance.certificate
        assert [words] == self.reload()
        assert before.digests != self.entrance.certificate.digests
        assert [] == self.reload()

    def test_broken_files(self) -> None:
        """Nothing changes, and the reason names the key of the file."""
        self.text = text_with(self.tls)
        self.reload()
        before = self.entrance.certificate
        content = self.pem.read_text()
        at = content.index("-----BEGIN CERTIFICATE")
        for broken, key in ((content[:at], "tls_certificate"), (content[at:], "tls_key")):
            self.pem.write_text(broken)
            words = self.refusal(self.made.reloader.reload())
            assert words.startswith(f"gateway.{key}: {self.pem}: found no ")
        assert before is self.entrance.certificate

    def test_a_description(self) -> None:
        """It leads to the same listener as the keys: no address is opened for the change."""
        self.text = text_with('listen = "tcp:port=8001:interface=127.0.0.1"')
        self.reload()
        own = f"ssl:8001:interface=127.0.0.1:privateKey={self.pem}"
        self.text = text_with(f'listen = "{own}"')
        opened = len(self.reactor.tcpServers)
        self.reload()

        assert self.entrance.certificate is not None
        assert opened == len(self.reactor.tcpServers)
        write_certificate(self.pem)
        words = "gateway.listen: another certificate in the same file, for new connections"
        assert [words] == self.reload()


class PlainTests(RelisteningTestCase):
    def test_it_begins_moves_and_ends(self) -> None:
        """Each is a reload, and the clients' own listener stays as it is."""
        assert self.made.http_listener.port is None
        for port in (8080, 8081):
            self.text = text_with(f'{self.tls}\nhttp_listen = "127.0.0.1:{port}"')
            self.reload()
            assert (port, "127.0.0.1") == (
                self.reactor.tcpServers[-1][0],
                self.reactor.tcpServers[-1][3],
            )
            assert self.made.http_listener.port is not None
        assert 4 == len(self.reactor.tcpServers)
        self.text = text_with(self.tls)
        self.reload()
        assert self.made.http_listener.port is None
        assert self.made.listener.port is not None


class OpenTests(RelisteningTestCase):
    def test_an_address_beyond_this_machine(self) -> None:
        """With [auth] it is refused, without it opens with a warning."""
        self.text = text_with(BEYOND, "")
        assert "expected an address on loopback" in self.refusal(self.made.reloader.reload())
        assert 0.0 == self.sample("cortex_open_without_keys")
        self.text = text_with(BEYOND)
        self.reload()
        assert 1.0 == self.sample("cortex_open_without_keys")
        (notice,) = self.made.parts.control_factory.notices()
        assert notice.startswith('open: gateway.listen = "0.0.0.0:8001" admits every client')


class InheritedTests(RelisteningTestCase):
    """Sockets that a double of systemd passes."""

    def setUp(self) -> None:
        super().setUp()
        self.sockets: list[socket.socket] = []

    def pass_on(self, host: str) -> str:
        """Pass a socket that listens at an address; return the line of the configuration."""
        listening = socket.create_server((host, 0))
        self.addCleanup(listening.close)
        self.sockets.append(listening)
        passed = ListenFDs([listening.fileno()], ["http"])
        self.patch(endpoints._SystemdParser, "_sddaemon", passed)
        return 'listen = "systemd:domain=INET:name=http"'

    def start_with(self, text: str) -> Any:
        config = reading.parse(text, "test")
        return daemon(config, self.reactor, {}, lambda: STARTED_AT)

    def test_the_address_of_the_socket_decides(self) -> None:
        """On loopback it starts; beyond, as for an address of the file."""
        local = self.start_with(text_with(self.pass_on("127.0.0.1"), ""))
        assert [] == local.parts.control_factory.notices()
        everywhere = self.pass_on("0.0.0.0")
        words = str(self.assertRaises(ConfigError, self.start_with, text_with(everywhere, "")))
        assert words.startswith('gateway.listen: found "systemd:domain=INET:name=http", which is')
        older = self.start_with(text_with(everywhere))
        assert "which is 0.0.0.0" in older.parts.control_factory.notices()[0]

    def test_tls_over_it(self) -> None:
        """The keys give TLS to it as to any other."""
        made = self.start_with(text_with(f"{self.pass_on('127.0.0.1')}\n{self.tls}", ""))
        entrance: Any = made.listener._factory
        assert entrance.certificate is not None

    def test_a_socket_that_is_gone(self) -> None:
        """Its number may be another file's by now; that is one line and no listener."""
        line = self.pass_on("127.0.0.1")
        taken = self.sockets[0].fileno()
        self.sockets[0].close()
        error = self.assertRaises(ConfigError, self.start_with, text_with(line))
        assert "is in use or closed" in str(error)
        pipe = os.pipe()
        self.addCleanup(os.close, pipe[1])
        self.addCleanup(os.close, pipe[0])
        assert taken in pipe
        error = self.assertRaises(ConfigError, self.start_with, text_with(line))
        assert "is in use or closed" in str(error)
