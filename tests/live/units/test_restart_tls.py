"""Restarts of the daemon as a unit whose clients speak TLS over the socket of systemd."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx2

from bench.supervisors.double import SystemdDouble
from bench.supervisors.unit import Unit, make_unit
from tests.doubles.certificates import write_certificate
from tests.engine.processes import RunningNode
from tests.live.daemons import ANSWER_SECONDS, Daemon, eventually
from tests.live.streams import OpenStream

MODEL = "acme/chat"
A_FEW = 5


def url_of(unit: Unit) -> str:
    host, port = unit.address
    return f"https://{host}:{port}"


def test_a_restart_cuts_nothing_and_refuses_nothing(tmp_path: Path, slow_node: RunningNode) -> None:
    """A stream ends in the old process; what comes on a kept connection goes to the new one.

    The new process has a new certificate, and the kept connection goes on with the old one.
    """
    pem = tmp_path / "gateway.pem"
    first = write_certificate(pem, (-1, 90))
    unit = make_unit(tmp_path)
    keys = f'tls_certificate = "{pem}"\ntls_key = "{pem}"'
    unit.write_config({"node": slow_node.base_url}, keys)
    with (
        SystemdDouble(unit) as systemd,
        httpx2.Client(base_url=url_of(unit), timeout=ANSWER_SECONDS, verify=False) as kept,
        slow_node.answers_held() as let_go,
    ):
        assert 0 == systemd.start(), unit.output()
        assert 200 == kept.get("/v1/models").status_code
        assert first == ssl.get_server_certificate(unit.address)
        daemon = Daemon(None, tmp_path, tmp_path, kept, url_of(unit))  # type: ignore[arg-type] # it has no process of its own
        with OpenStream(daemon, MODEL, A_FEW) as stream:
            stream.read_until_content()
            second = write_certificate(pem, (-1, 90))
            assert 0 == systemd.restart(), unit.output()
            assert 1 == len(unit.events("handed_over"))
            assert second == ssl.get_server_certificate(unit.address)
            assert [200, 200] == [kept.get("/v1/models").status_code for _ in range(2)]
            let_go()
            stream.read_to_end()
            assert stream.is_whole
        kept.close()
        eventually(lambda: unit.events("predecessor_ended"), "the end of the old process")
        assert [] == unit.events("successor_unreachable")
        systemd.stop()
        assert "traceback" not in unit.output()
