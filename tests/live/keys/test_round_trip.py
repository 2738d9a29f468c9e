"""The commands that the README shows for keys, run as it shows them."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.processes import simulated_node
from tests.live.command_lines import END_SECONDS, cortexctl
from tests.live.daemons import Daemon, running_daemon

README = Path(__file__).parents[3] / "README.md"
CURL = """
import sys, httpx2
_, url, option, header = sys.argv
assert option == "-H"
name, value = header.split(": ")
answer = httpx2.get(url, headers={name: value})
print(answer.status_code, answer.text)
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Run a daemon before a node, with a keys file that does not exist yet."""
    with simulated_node(fast=True) as node:
        extra = f'[auth]\nkeys_file = "{tmp_path / "keys.toml"}"\n'
        with running_daemon(tmp_path, {"gpu": node.base_url}, extra=extra) as running:
            yield running


def lines() -> list[str]:
    """Return the command lines of the README's section about keys."""
    section = README.read_text("utf-8").partition("\n### Keys\n")[2].partition("\n### ")[0]
    (block,) = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    return [line.removeprefix("$ ") for line in block.splitlines()]


def run(daemon: Daemon, *commands: str) -> list[str]:
    """Run command lines in one shell, and return what each prints."""
    python, control = sys.executable, daemon.control_socket
    script = [
        "set -eu",
        f'cortexctl() {{ "{python}" -m cortexd.ctl.main --socket "{control}" "$@"; }}',
        f'curl() {{ "{python}" -c \'{CURL}\' "$@"; }}',
    ]
    for command in commands:
        script += [command.replace("http://127.0.0.1:8000", daemon.base_url), "echo END"]
    done = subprocess.run(  # noqa: S603 - the README's own commands
        ["/bin/bash", "-c", "\n".join(script)],
        capture_output=True,
        text=True,
        timeout=10 * END_SECONDS,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout.split("END\n")[:-1]


def test_the_five_lines_of_the_readme(daemon: Daemon) -> None:
    """A key is added, used, listed, rotated and revoked, and nothing else shows it."""
    add, use, show, rotate, revoke = lines()
    use_new = use.replace("$KEY", "$NEW")
    assert 401 == daemon.http.get("/v1/models").status_code

    printed = run(
        daemon, add, use, show, rotate, use, use_new, "echo $KEY $NEW", revoke, use, use_new
    )
    added, used, shown, rotated, old, new, keys, revoked, *refused = printed

    assert ("", "") == (added, rotated)
    for answer in (used, old, new):
        status, _, body = answer.partition(" ")
        assert "200" == status
        assert json.loads(body)["data"]
    header, alice = (line.split() for line in shown.splitlines())
    assert ("NAME", "alice") == (header[0], alice[0])
    assert "acme/*" in alice
    assert "alice is revoked" in revoked
    assert ["401", "401"] == [answer.split()[0] for answer in refused]

    file = daemon.folder / "keys.toml"
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    journal = cortexctl("--socket", str(daemon.control_socket), "events").output
    for command in ("key add alice", "key rotate alice", "key revoke alice"):
        assert re.search(rf"audit  uid \d+ \(\w+\): {command}", journal), journal
    for key in keys.split():
        assert len(key) > 60
        for text in (daemon.log(), daemon.complaints(), journal, file.read_text(), shown):
            assert key[-43:] not in text


def test_a_file_changed_by_hand(daemon: Daemon) -> None:
    """A table from --print counts after a reload; a faulty file changes nothing."""
    ctl = ("--socket", str(daemon.control_socket))
    made = cortexctl("key", "add", "bob", "--print", "--json")
    table, key = (json.loads(made.output)[name] for name in ("table", "text"))
    file = daemon.folder / "keys.toml"
    file.write_text(f"# Bob's\n{table}")
    file.chmod(0o600)

    def status() -> int:
        return daemon.http.get("/v1/models", headers={"x-api-key": key}).status_code

    planned = cortexctl(*ctl, "plan", "reload")
    assert "a reload would change:\n  keys (bob): added\n" == planned.output
    assert 401 == status()
    assert 0 == cortexctl(*ctl, "reload").status
    assert 200 == status()

    file.write_text(f"{table}scope = 5\n")
    refused = cortexctl(*ctl, "reload")
    assert (1, True) == (refused.status, "did you mean keys[0] (bob).scopes?" in refused.errors)
    assert 1 == cortexctl(*ctl, "key", "add", "carol").status
    assert 200 == status()
