"""Strangers at the listener of agents of a real daemon: refused, while it serves on."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from twisted.protocols import amp

from cortexd.config.listening import AGENTS_LISTEN
from cortexd.link.contract import PROTOCOL
from tests.doubles.authorities import CLIENT, SERVER, Authority
from tests.live.daemons import ANSWER_SECONDS, Daemon, eventually, running_daemon

NOBODY = "http://127.0.0.1:9"
MANY = 1000
AT_A_TIME = 200
MOST_MB = 40
"""How much memory the connections that may wait at a time take at most."""

GREETING = bytes(
    amp.AmpBox(
        {
            b"_command": b"Hello",
            b"_ask": b"1",
            b"protocol": str(PROTOCOL).encode(),
            b"version": b"0.0.1",
            b"node": b"a",
            b"abilities": b'{"version": "0.0.1"}',
        }
    ).serialize()
)


@dataclass
class Gateway:
    """A daemon whose agents show certificates of ``home``."""

    daemon: Daemon
    home: Authority
    folder: Path
    address: tuple[str, int]

    def context(self, certificate: str | None, key: str | None = None) -> ssl.SSLContext:
        """Return what an agent with a certificate has."""
        context = ssl.create_default_context(cadata=self.home.pem.decode())
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        return context

    def issued(
        self, name: str, authority: Authority | None = None, **terms: object
    ) -> ssl.SSLContext:
        """Return what an agent with a new certificate for a name has."""
        certified = (authority or self.home).issue(name, **{"purpose": CLIENT, **terms})  # type: ignore[arg-type] # as given
        return self.context(*certified.write(self.folder, "agent"))

    def answer(self, context: ssl.SSLContext) -> bytes:
        """Return what comes after a greeting until the end, or the answer to it."""
        raw = socket.create_connection(self.address, ANSWER_SECONDS)
        with (
            raw,
            suppress(ssl.SSLError, ConnectionError),
            context.wrap_socket(raw, server_hostname="gateway.corp") as connection,
        ):
            connection.sendall(GREETING)
            return connection.recv(4096)
        return b""

    def refused(self) -> dict[str, float]:
        """Return the metric of refused connections, by reason."""
        text = self.daemon.http.get(f"{self.daemon.metrics_url}/metrics").text
        start = "cortex_agent_connections_refused_total{reason="
        lines = [line for line in text.splitlines() if line.startswith(start)]
        found = {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in lines}
        return {reason: count for reason, count in found.items() if count}

    def rss_mb(self) -> float:
        """Return the memory of the daemon."""
        status = Path(f"/proc/{self.daemon.process.pid}/status").read_text("ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024


@pytest.fixture(name="gateway")
def _gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running_gateway(tmp_path) as gateway:
        yield gateway


@contextmanager
def running_gateway(folder: Path) -> Iterator[Gateway]:
    """Run one that listens to agents on loopback, with certificates of an operator."""
    home = Authority("home")
    certificate, key = home.issue("gateway.corp", purpose=SERVER).write(folder, "gateway")
    ca = home.write(folder / "ca.pem")
    extra = (
        f'[agents]\nlisten = "127.0.0.1:0"\ncertificate = "{certificate}"\nkey = "{key}"\n'
        f'ca = "{ca}"\n'
    )
    with running_daemon(folder, {"a": NOBODY}, extra=extra, wait_until_ready=False) as daemon:
        (line,) = (
            line for line in daemon.lines("listening") if line["setting"].startswith(AGENTS_LISTEN)
        )
        host, _, port = line["address"].rpartition(":")
        yield Gateway(daemon, home, folder, (host, int(port)))


def test_who_is_refused(gateway: Gateway) -> None:
    """Each wrong certificate is refused, all with one line in the log, and the right one joins."""
    other = Authority("other")
    served = gateway.home.issue("gateway.corp", purpose=SERVER)
    wrong = {
        "no certificate": gateway.context(None),
        "another authority": gateway.issued("a", other),
        "expired": gateway.issued("a", days=(-3, -1)),
        "not yet valid": gateway.issued("a", days=(1, 3)),
        "that of a server": gateway.context(*served.write(gateway.folder, "server")),
    }
    for what, context in wrong.items():
        assert b"" == gateway.answer(context), what
    assert b"NOT_ADMITTED" in gateway.answer(gateway.issued("b"))
    assert {"tls": 5.0, "certificate": 1.0} == gateway.refused()
    assert 1 == len(gateway.daemon.lines("agent_refused"))

    assert b"nonce" in gateway.answer(gateway.issued("a"))
    eventually(lambda: gateway.daemon.lines("agent_joined"), "an agent")
    assert [] == [line for line in gateway.daemon.alarms() if line.get("traceback")]


def test_other_bytes(gateway: Gateway) -> None:
    """Plain HTTP and random bytes end their connection at once."""
    for sent in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00" + bytes(600)):
        with socket.create_connection(gateway.address, ANSWER_SECONDS) as raw:
            raw.sendall(sent)
            with suppress(ConnectionResetError):
                while raw.recv(4096):
                    pass  # an alert of TLS
    assert {"garbage": 1.0, "tls": 1.0} == gateway.refused()


def test_half_handshakes(gateway: Gateway) -> None:
    """A thousand of them held open take bounded memory, and nobody else waits for them."""
    half = _client_hello()[:120]
    with ExitStack() as held:
        first = _rush(gateway, held, half)
        second = _rush(gateway, held, half)

    assert first < MOST_MB, f"{first:.1f} MiB"
    assert second < MOST_MB / 4, f"{second:.1f} MiB more"
    assert gateway.refused()["full"] >= MANY
    assert [] == [line for line in gateway.daemon.alarms() if line.get("traceback")]


def _rush(gateway: Gateway, held: ExitStack, sent: bytes) -> float:
    """Hold many connections open; return how many MiB more the daemon has."""
    before = gateway.rss_mb()
    for number in range(MANY):
        source = f"127.0.{number % 8}.{1 + number % AT_A_TIME}"
        raw = socket.create_connection(gateway.address, ANSWER_SECONDS, (source, 0))
        raw.sendall(sent)
        held.callback(raw.close)
        if number % AT_A_TIME == 0:
            assert gateway.daemon.http.get("/health").status_code == 200
    assert b"nonce" in gateway.answer(gateway.issued("a"))
    return gateway.rss_mb() - before


def _client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    connection = context.wrap_bio(incoming, outgoing, server_hostname="gateway.corp")
    with suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()
