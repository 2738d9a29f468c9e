"""nginx and Caddy before the daemon, as contrib/proxies has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cortexd.access.secret import hashed, id_of, new_key
from e2e.proxies.recording import recording
from e2e.proxies.running import CLIENT, NAME, STARTERS, Proxy, configuration, running_proxy
from tests.doubles.proxies import RECORDED, passed_on
from tests.engine.processes import RunningNode, simulated_node
from tests.live.daemons import Daemon, eventually, running_daemon

CHAT = "/v1/chat/completions"
MIB = 1024 * 1024
KEY = new_key()


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNode]:
    """Run a simulated node that answers without any waiting."""
    with simulated_node(fast=True) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, node: RunningNode) -> Iterator[Daemon]:
    """Run a daemon with the lines of README.md, and one key."""
    folder = tmp_path_factory.mktemp("daemon")
    keys = folder / "keys.toml"
    entry = f'[[keys]]\nname = "alice"\nid = "{id_of(KEY)}"\nhash = "{hashed(KEY)}"\n'
    keys.write_text(entry)
    keys.chmod(0o600)
    auth = f'[auth]\nkeys_file = "{keys}"\n'
    nodes = {"a": node.base_url}
    with running_daemon(folder, nodes, gateway=configuration(), extra=auth) as running:
        yield running


@pytest.fixture(scope="module", params=STARTERS)
def proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, daemon: Daemon
) -> Iterator[Proxy]:
    """Run each of the proxies before the daemon."""
    host, port = daemon.address
    folder = tmp_path_factory.mktemp(request.param)
    with running_proxy(request.param, folder, f"{host}:{port}") as running:
        yield running


def authorized(**headers: str) -> dict[str, str]:
    """Return headers with the key."""
    return {"Authorization": f"Bearer {KEY}", **headers}


def chat(node: RunningNode, **fields: Any) -> dict[str, Any]:
    """Return the body of a chat."""
    messages = [{"role": "user", "content": "say a few words"}]
    return {"model": node.chat_models[0], "messages": messages, "max_tokens": 20, **fields}


def newest(daemon: Daemon, before: int, event: str = "request") -> dict[str, Any]:
    """Return the line of the one request since ``before`` lines."""
    eventually(lambda: len(daemon.lines(event)) > before, "the line of the request")
    return daemon.lines(event)[before]


def test_the_log_has_the_client(daemon: Daemon, proxy: Proxy) -> None:
    """The client's own address, whatever it states in X-Forwarded-For."""
    for forwarded in ({}, {"X-Forwarded-For": "198.51.100.1"}):
        before = len(daemon.lines("request"))
        answer, _ = proxy.ask("GET", "/v1/models", headers=authorized(**forwarded))
        assert answer.status == 200
        assert newest(daemon, before)["client"] == CLIENT


def test_a_stream_comes_piece_by_piece(node: RunningNode, proxy: Proxy) -> None:
    """The first token is here while the node holds the rest back."""
    connection = proxy.connect()
    with node.answers_held() as let_go:
        body = json.dumps(chat(node, stream=True))
        connection.request("POST", CHAT, body, authorized())
        answer = connection.getresponse()
        received = b""
        while b'"content":"' not in received:
            piece = answer.read1()
            assert piece, received
            received += piece
        assert b"[DONE]" not in received
        let_go()
        received += answer.read()
    assert answer.status == 200
    assert (answer.getheader("Content-Type") or "").partition(";")[0] == "text/event-stream"
    assert received.rstrip().endswith(b"data: [DONE]")
    connection.close()


def test_an_error_keeps_its_envelope(node: RunningNode, proxy: Proxy) -> None:
    """Status, body and headers are ours, for either dialect and with or without a key."""
    unknown = {**chat(node), "model": "acme/nothing"}
    answer, body = proxy.ask("POST", CHAT, unknown, authorized())
    assert (answer.status, json.loads(body)["error"]["code"]) == (404, "model_not_found")
    answer, body = proxy.ask("POST", "/v1/messages", unknown, authorized())
    assert (answer.status, json.loads(body)["error"]["type"]) == (404, "not_found_error")
    answer, body = proxy.ask("POST", CHAT, chat(node))
    assert answer.status == 401
    assert "error" in json.loads(body)
    answer, body = proxy.ask("POST", CHAT, b"{", authorized())
    assert answer.status == 400
    assert "error" in json.loads(body)
    assert answer.getheader("X-Request-ID") is not None


def test_a_large_body_passes(daemon: Daemon, node: RunningNode, proxy: Proxy) -> None:
    """8 MiB are served, and beyond our own limit the error is ours."""
    answer, body = proxy.ask("POST", CHAT, chat(node, padding="x" * 8 * MIB), authorized())
    assert answer.status == 200, body
    before = len(daemon.lines("request_refused"))
    answer, body = proxy.ask("POST", CHAT, b" " * 33 * MIB, authorized())
    assert answer.status == 413
    assert "max_body_mb" in json.loads(body)["error"]["message"]
    assert newest(daemon, before, "request_refused")["client"] == CLIENT


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_client_that_leaves(
    daemon: Daemon, node: RunningNode, proxy: Proxy, stream: bool
) -> None:
    """The daemon hears of it while the node has not answered."""
    before = len(daemon.lines("request"))
    connection = proxy.connect()
    with node.answers_held():
        body = json.dumps(chat(node, stream=stream))
        connection.request("POST", CHAT, body, authorized())
        eventually(lambda: _is_busy(daemon), "the request at the node")
        if stream:
            answer = connection.getresponse()
            assert answer.read1()
            answer.close()
        connection.close()
        assert newest(daemon, before)["outcome"] == "client_gone"


def _is_busy(daemon: Daemon) -> bool:
    metrics = daemon.http.get(f"{daemon.metrics_url}/metrics").text
    lines = [line for line in metrics.splitlines() if line.startswith("cortex_requests_in_flight{")]
    return any(not line.endswith(" 0.0") for line in lines)


def test_a_page_of_the_same_origin(proxy: Proxy) -> None:
    """A form of a page that the proxy serves is no foreign page's, and another page's is."""
    headers = {"Content-Type": "text/plain", "Origin": f"https://{NAME}"}
    answer, _ = proxy.ask("POST", "/v1/nothing", b"x", authorized(**headers))
    assert answer.status == 404
    headers["Origin"] = "https://evil.example"
    answer, _ = proxy.ask("POST", "/v1/nothing", b"x", authorized(**headers))
    assert answer.status == 403


@pytest.mark.parametrize("name", STARTERS)
def test_the_double_sends_what_the_proxy_sends(name: str, tmp_path: Path) -> None:
    """tests/doubles/proxies.py has what comes, header by header, over one connection."""
    with recording() as recorder, running_proxy(name, tmp_path, recorder.address) as proxy:
        for _ in range(2):
            proxy.ask("POST", CHAT, b"{}", {"X-Forwarded-For": "198.51.100.1"})
    forwarded = "198.51.100.1"
    double = passed_on(RECORDED[name], f"POST {CHAT}", CLIENT, b"{}", forwarded)
    expected = double.partition(b"\r\n\r\n")[0]
    assert [(1, expected)] * 2 == recorder.received


def test_the_proxy_header_of_caddy(
    tmp_path_factory: pytest.TempPathFactory, node: RunningNode
) -> None:
    """Caddy can send it, in either version, and then X-Forwarded-For does not matter."""
    gateway = {**configuration(), "proxy_protocol": True, "trusted_proxies": ["127.0.0.2"]}
    folder = tmp_path_factory.mktemp("proxied")
    with running_daemon(folder, {"a": node.base_url}, gateway=gateway) as daemon:
        host, port = daemon.address
        for version in ("v1", "v2"):
            sending = f"local_address 127.0.0.2\nproxy_protocol {version}"
            changes = (
                ("transport http {", f"transport http {{\n{sending}"),
                ("flush_interval -1", "flush_interval -1\nheader_up -X-Forwarded-For"),
            )
            folder = tmp_path_factory.mktemp(f"caddy-{version}")
            with running_proxy("caddy", folder, f"{host}:{port}", changes) as proxy:
                for _ in range(2):
                    answer, _ = proxy.ask("POST", CHAT, chat(node))
                    assert answer.status == 200

        def chats() -> list[dict[str, Any]]:
            return [line for line in daemon.lines("request") if line["route"] == CHAT]

        eventually(lambda: len(chats()) == 4, "the lines")
        assert [CLIENT] * 4 == [line["client"] for line in chats()]
