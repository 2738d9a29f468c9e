"""Stored responses of a daemon that is killed, and the daemon that is started after it."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from cortexd.store.response_file import FILE_NAME
from tests.engine.processes import simulated_node
from tests.live.daemons import KILLED, Daemon, eventually, running_daemon

MODEL = "acme/chat"
RESPONSES = "/v1/responses"
SLOW = "a word " * 2_000


def respond(daemon: Daemon, text: str, **fields: object) -> Any:
    answer = daemon.http.post(RESPONSES, json={"model": MODEL, "input": text, **fields})
    assert 200 == answer.status_code, answer.text
    return answer.json()


def is_written(folder: Path, name: str) -> bool:
    """Tell whether another process finds the response in the file."""
    path = folder / "state" / FILE_NAME
    if not path.exists():
        return False
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        query = "SELECT count(*) FROM sqlite_master WHERE name = 'stored'"
        if connection.execute(query).fetchone() == (0,):
            return False
        found = connection.execute("SELECT 1 FROM stored WHERE id = ?", (name,)).fetchall()
        return len(found) == 1


def test_a_conversation_outlives_its_daemon_and_its_node(tmp_path: Path) -> None:
    """It goes on at another node after a kill; the work that was cut has failed and says so."""
    with (
        simulated_node(fast=False) as first,
        running_daemon(tmp_path, {"a": first.base_url}) as daemon,
    ):
        told = respond(daemon, "my name is Ada")
        cut = respond(daemon, SLOW, background=True)
        for response in (told, cut):
            eventually(partial(is_written, tmp_path, response["id"]), "a write")
        daemon.expected_status = KILLED
        daemon.signal(signal.SIGKILL)
        daemon.end()

    with (
        simulated_node(fast=True) as second,
        running_daemon(tmp_path, {"b": second.base_url}) as daemon,
    ):
        assert told == daemon.http.get(f"{RESPONSES}/{told['id']}").json()
        asked = respond(daemon, "who am I?", previous_response_id=told["id"])
        assert "completed" == asked["status"]
        assert asked["usage"]["input_tokens"] > told["usage"]["input_tokens"]
        failed = daemon.http.get(f"{RESPONSES}/{cut['id']}").json()
        assert "failed" == failed["status"]
        assert "restarted" in failed["error"]["message"]
        assert [] == daemon.alarms()
