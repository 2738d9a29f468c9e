"""A daemon whose clients speak TLS: its certificate is exchanged while they stream."""

from __future__ import annotations

import json
import socket
import ssl
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.certificates import make_certificate, write_certificate
from tests.engine.processes import RunningNode
from tests.live.daemons import ANSWER_SECONDS, running_daemon
from tests.live.reloading.test_reload import MODEL, SLOTS, hang_up, reload, rewrite
from tests.live.streams import OpenStream

STREAMS = 5
EXCHANGES = 3
A_FEW = 5


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """Return the file of the gateway's key and certificate."""
    path = tmp_path / "gateway.pem"
    write_certificate(path, (-1, 90))
    return path


def tls(pem: Path) -> dict[str, Any]:
    return {"tls_certificate": str(pem), "tls_key": str(pem)}


def test_certificates_change_under_streams(
    tmp_path: Path, slow_node: RunningNode, pem: Path
) -> None:
    """No stream is cut, and each new connection gets the newest certificate."""
    certificates = [pem.read_text()]
    with ExitStack() as stack:
        nodes = {"old": slow_node.base_url}
        daemon = stack.enter_context(running_daemon(tmp_path, nodes, gateway=tls(pem), extra=SLOTS))
        let_go = stack.enter_context(slow_node.answers_held())
        streams = []
        for number in range(EXCHANGES + 1):
            opened = [stack.enter_context(OpenStream(daemon, MODEL, A_FEW)) for _ in range(STREAMS)]
            for stream in opened:
                stream.read_until_content()
                assert stream.certificate in certificates[-1]
            streams += opened
            if number < EXCHANGES:
                write_certificate(pem, (-1, 90))
                certificates.append(pem.read_text())
                line = hang_up(daemon, "reloaded")
                assert any("tls_certificate" in change for change in line["changes"])
        let_go()
        for stream in streams:
            stream.read_to_end()
            assert stream.is_whole
        assert len(set(certificates)) == EXCHANGES + 1


def test_broken_certificates_change_nothing(
    tmp_path: Path, slow_node: RunningNode, pem: Path
) -> None:
    """A key of another certificate, and half a file, refuse the reload with the reason."""
    nodes = {"old": slow_node.base_url}
    with running_daemon(tmp_path, nodes, gateway=tls(pem)) as daemon:
        good = pem.read_text()
        key, _, _ = make_certificate().decode().partition("-----BEGIN CERTIFICATE")
        mixed = key + good[good.index("-----BEGIN CERTIFICATE") :]
        for broken, words in ((mixed, "does not fit"), (good[:200], "found no certificate")):
            pem.write_text(broken)
            assert words in hang_up(daemon, "reload_refused")["reason"]
            assert words in reload(daemon).errors
        assert ssl.get_server_certificate(daemon.address) in good


def test_tls_begins_at_a_reload_and_plain_http_stays_on_loopback(
    tmp_path: Path, slow_node: RunningNode, pem: Path
) -> None:
    """The same address speaks TLS with the next connection, and the second one plain HTTP."""
    nodes = {"old": slow_node.base_url}
    with running_daemon(tmp_path, nodes) as daemon:
        host, port = daemon.address
        listen = f"{host}:{port}"
        rewrite(daemon, nodes, listen=listen, metrics_listen="127.0.0.1:0", **tls(pem))
        # The port of the system's choice becomes one of the file, which is another address.
        assert "cannot listen" in hang_up(daemon, "reload_refused")["reason"]

        rewrite(daemon, nodes, http_listen="127.0.0.1:0", **tls(pem))
        hang_up(daemon, "reloaded")
        plain = daemon.lines("listening")[-1]["address"]

        assert ssl.get_server_certificate(daemon.address) in pem.read_text()
        with urllib.request.urlopen(f"http://{plain}/health", timeout=10) as answer:
            assert 200 == answer.status
        with socket.create_connection(daemon.address, ANSWER_SECONDS) as wrong:
            wrong.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"This port speaks TLS" in wrong.recv(4096)


def test_an_end_that_is_near_shows_in_the_status(
    tmp_path: Path, slow_node: RunningNode, pem: Path
) -> None:
    """In words, as data, in the log and in the metrics."""
    write_certificate(pem, (-1, 3.5))
    nodes = {"old": slow_node.base_url}
    with running_daemon(tmp_path, nodes, gateway=tls(pem)) as daemon:
        words = "the certificate of gateway.listen expires in 3 days"
        assert reload(daemon, "status").output.startswith(words)
        (notice,) = json.loads(reload(daemon, "status", "--json").output)["notices"]
        assert notice.startswith(words)
        (line,) = daemon.lines("certificate_expires")
        assert line["warning"] == notice
        metrics = daemon.http.get(f"{daemon.metrics_url}/metrics").text
        assert 'cortex_tls_certificate_not_after_seconds{listener="listen"}' in metrics
