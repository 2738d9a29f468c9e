"""Restarts of the real daemon as a unit, under a double of systemd: see ``bench.supervisors``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from bench.supervisors.double import SystemdDouble
from bench.supervisors.unit import Unit, make_unit
from tests.engine.processes import RunningNode
from tests.live.daemons import ANSWER_SECONDS, Daemon, eventually
from tests.live.streams import OpenStream

MODEL = "acme/chat"
A_FEW = 5
CLIENT = "127.0.0.9"


@pytest.fixture
def systemd(tmp_path: Path, slow_node: RunningNode) -> Iterator[SystemdDouble]:
    """Run a unit before a node of 50 tokens a second."""
    unit = make_unit(tmp_path)
    unit.write_config({"node": slow_node.base_url}, 'trusted_proxies = ["127.0.0.1"]')
    with SystemdDouble(unit) as running:
        assert 0 == running.start(), unit.output()
        yield running
        assert [] == running.complaints
        assert "traceback" not in unit.output()


def client_of(unit: Unit) -> httpx2.Client:
    """Return a client that is no trusted proxy, and says that another one has sent its requests.

    It keeps its connection for as long as the restart may take.
    """
    host, port = unit.address
    kept = httpx2.Limits(keepalive_expiry=None)
    return httpx2.Client(
        base_url=f"http://{host}:{port}",
        timeout=ANSWER_SECONDS,
        headers={"X-Forwarded-For": "198.51.100.1"},
        transport=httpx2.HTTPTransport(local_address=CLIENT, limits=kept),
    )


def stream_of(systemd: SystemdDouble, http: httpx2.Client) -> OpenStream:
    """Open a stream: OpenStream asks nothing of its daemon but the address."""
    unit = systemd.unit
    host, port = unit.address
    daemon = Daemon(None, unit.folder, unit.folder, http, f"http://{host}:{port}")  # type: ignore[arg-type] # it has no process of its own
    return OpenStream(daemon, MODEL, A_FEW)


def test_a_restart_cuts_nothing_and_refuses_nothing(
    systemd: SystemdDouble, slow_node: RunningNode
) -> None:
    """A stream ends in the old process; the new one answers on old and new connections."""
    unit = systemd.unit
    with client_of(unit) as kept, slow_node.answers_held() as let_go:
        assert 200 == kept.get("/v1/models").status_code
        with stream_of(systemd, kept) as stream:
            stream.read_until_content()
            assert 0 == systemd.restart()
            assert 3 == len(systemd.processes())  # of the old start, the guard has ended
            (handed,) = unit.events("handed_over")
            (took,) = unit.events("took_over")
            assert (1, 1) == (handed["leases"], took["leases"])
            with client_of(unit) as fresh:
                assert [200, 200] == [http.get("/v1/models").status_code for http in (kept, fresh)]
            let_go()
            stream.read_to_end()
            assert stream.is_whole
        kept.close()
    # The old process passes what the client sends on, from an address that is a trusted proxy's.
    clients = [line["client"] for line in unit.events("request") if line["route"] == "/v1/models"]
    assert [CLIENT] * 3 == clients
    eventually(lambda: unit.events("predecessor_ended"), "the end of the old process")
    eventually(lambda: len(systemd.processes()) == 2, "one guard and one daemon")
    systemd.stop()
    assert [] == systemd.processes()


def test_with_a_wrong_file_the_old_process_serves_on(systemd: SystemdDouble) -> None:
    """Until the file is right, or the unit is stopped."""
    unit = systemd.unit
    good = unit.config.read_text()
    with client_of(unit) as http:
        unit.config.write_text(good.replace("[polling]", "[poling]"))
        assert 1 == systemd.restart()
        assert "poling" in unit.output()
        assert 200 == http.get("/v1/models").status_code
        unit.config.write_text(good)
        assert systemd.wait_until_ready()
        eventually(lambda: unit.events("took_over"), "the handover")
        assert 200 == http.get("/v1/models").status_code

        unit.config.write_text(good.replace("[polling]", "[poling]"))
        assert 1 == systemd.restart()
        systemd.stop()
        eventually(lambda: systemd.processes() == [], "the end of the process that was left")


def test_a_unit_whose_sockets_block_is_stopped_at_a_restart(
    tmp_path: Path, slow_node: RunningNode
) -> None:
    """Without NonBlocking=yes, the next start would block the process that serves on."""
    unit = make_unit(tmp_path)
    unit.write_config({"node": slow_node.base_url})
    with SystemdDouble(unit, non_blocking=False) as running, client_of(unit) as http:
        assert 0 == running.start(), unit.output()
        assert 0 == running.restart()
        assert [] == unit.events("handed_over")
        assert 200 == http.get("/v1/models").status_code
