"""A key over a restart of the real daemon: its places, its budget and its usage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2

from bench.supervisors.double import SystemdDouble
from bench.supervisors.unit import make_unit
from tests.access.making import given
from tests.engine.processes import RunningNode
from tests.live.command_lines import cortexctl
from tests.live.daemons import ANSWER_SECONDS, Daemon, eventually
from tests.live.streams import CHAT, OpenStream

MODEL = "acme/chat"
TOKENS = 5


def test_what_runs_in_the_old_process_counts_in_the_new_one(
    tmp_path: Path, slow_node: RunningNode
) -> None:
    """A stream holds the only place of its key over the restart, and is counted once."""
    alice, unit = given("alice"), make_unit(tmp_path)
    keys = tmp_path / "keys.toml"
    keys.write_text(
        f'[[keys]]\nname = "alice"\nid = "{alice.key.id}"\nhash = "{alice.key.hash}"\n'
        "max_concurrency = 1\ntoken_budget = 1_000_000\n"
    )
    unit.write_config({"node": slow_node.base_url}, extra=f'[auth]\nkeys_file = "{keys}"')
    host, port = unit.address
    address = f"http://{host}:{port}"
    with (
        SystemdDouble(unit) as systemd,
        httpx2.Client(base_url=address, timeout=ANSWER_SECONDS, headers=alice.bearer) as http,
    ):
        assert 0 == systemd.start(), unit.output()
        daemon = Daemon(None, unit.folder, unit.folder, http, address)  # type: ignore[arg-type] # it has no process of its own

        def chat() -> httpx2.Response:
            asked = {
                "model": MODEL,
                "max_tokens": 2,
                "messages": [{"role": "user", "content": "x"}],
            }
            return http.post(CHAT, json=asked)

        def used() -> dict[str, Any]:
            control = str(unit.control_socket)
            shown = cortexctl("--socket", control, "usage", "--days", "1", "--json")
            (found,) = json.loads(shown.output)["usage"]
            return {name: found[name] for name in ("requests", "completion_tokens")}

        with slow_node.answers_held() as let_go:
            with OpenStream(daemon, MODEL, TOKENS, key=alice.text) as stream:
                stream.read_until_content()
                assert 0 == systemd.restart()
                refused = chat()
                assert (429, "1") == (refused.status_code, refused.headers["retry-after"])
                assert {"requests": 0, "completion_tokens": 0} == used()
                let_go()
                stream.read_to_end()
                assert stream.is_whole
            eventually(lambda: unit.events("predecessor_ended"), "the end of the old process")
            eventually(lambda: chat().status_code == 200, "a place for the next request")
        assert {"requests": 2, "completion_tokens": TOKENS + 2} == used()

        assert 0 == systemd.restart()
        eventually(lambda: len(unit.events("predecessor_ended")) == 2, "the second end")
        assert {"requests": 2, "completion_tokens": TOKENS + 2} == used()
        left = int(chat().headers["x-ratelimit-remaining-tokens"])
        assert left < 1_000_000 - TOKENS - 2
        systemd.stop()
        assert [] == systemd.complaints
        assert [] == unit.events("usage_unreported")
