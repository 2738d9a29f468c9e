"""Nodes behind TLS, as real processes: who is trusted, and what the operator reads otherwise."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.doubles.authorities import HOST, Authority
from tests.doubles.secured_node import PATH
from tests.engine.processes import running_module
from tests.live.command_lines import Finished, cortexctl
from tests.live.daemons import Daemon, eventually, running_daemon, write_config

MODEL = "acme/chat"
UNTRUSTED = "its certificate is signed by an authority that is not trusted: set ca_file"


def table(name: str, endpoint: str, **files: str) -> str:
    """Return the [[nodes]] of a node."""
    keys = {"name": name, "endpoint": endpoint, **files}
    lines = [f'{key} = "{value}"' for key, value in keys.items()]
    return "\n".join(["[[nodes]]", *lines, "vram_mb = 24576", ""])


def ctl(daemon: Daemon, command: str) -> Finished:
    """Run a command of cortexctl; the words of its output are on one line."""
    done = cortexctl(command, f"--socket={daemon.control_socket}")
    return done._replace(output=" ".join(done.output.split()))


def test_nodes_behind_tls(tmp_path: Path) -> None:
    """One is reached by its own authority and path; each other one has its own clear words."""
    home = Authority("Home CA")
    ca = home.write(tmp_path / "ca.pem")
    good = home.issue(HOST)
    shown = {
        "good": good,
        "unknown": good,
        "misnamed": home.issue("gpu.example"),
        "expired": home.issue(HOST, days=(-9, -2)),
    }
    files = [file for name, each in shown.items() for file in each.write(tmp_path, name)]
    with ExitStack() as stack:
        urls = stack.enter_context(running_module("tests.doubles.secured_node", *files)).split()
        endpoints = dict(zip(shown, urls, strict=True))
        endpoints["good"] += PATH
        nodes = {name: table(name, url, ca_file=ca) for name, url in endpoints.items()}
        nodes["unknown"] = table("unknown", endpoints["unknown"])
        daemon = stack.enter_context(running_daemon(tmp_path, {}, extra="".join(nodes.values())))
        eventually(
            lambda: (
                {"unknown", "misnamed", "expired"}
                == {each["node"] for each in daemon.lines("node_down")}
            ),
            "three nodes down",
        )
        told = ctl(daemon, "nodes").output
        for words in (
            f"unknown ({endpoints['unknown']}) is down: {UNTRUSTED}",
            "is down: its certificate is for gpu.example, not for 127.0.0.1",
            "is down: its certificate expired on 2",
        ):
            assert words in told, told
        status = ctl(daemon, "status").output
        for words in (UNTRUSTED, "not for 127.0.0.1", "expired on"):
            assert words in status
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
        answer = daemon.http.post("/v1/chat/completions", json=body)
        assert (200, "good") == (answer.status_code, answer.headers["x-cortex-node"])
        events = ctl(daemon, "events").output
        assert UNTRUSTED in events
        assert "BEGIN" not in events + status + daemon.log()

        nodes["unknown"] = table("unknown", endpoints["unknown"], ca_file=f"{ca}.not")
        write_config(tmp_path, {}, extra="".join(nodes.values()))
        refused = ctl(daemon, "reload")
        assert 0 != refused.status
        assert "nodes (unknown).ca_file" in " ".join(refused.errors.split())
        nodes["unknown"] = table("unknown", endpoints["unknown"], ca_file=ca)
        write_config(tmp_path, {}, extra="".join(nodes.values()))
        assert 0 == ctl(daemon, "reload").status
        eventually(
            lambda: "unknown" in {each["node"] for each in daemon.lines("node_up")},
            "the node's return",
        )
        assert not any(line.get("traceback") for line in daemon.lines())
