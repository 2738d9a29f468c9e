"""The process that translates large bodies, of a real daemon: its end, and the daemon's."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from cortexd.dialects.wire.scan import LIGHT_BYTES
from tests.engine.processes import RunningNode
from tests.live.daemons import Daemon, eventually, running_daemon

BODY = {"messages": [{"role": "user", "content": "a" * LIGHT_BYTES}], "max_tokens": 1}


def all_children(pid: int) -> list[int]:
    """Return the processes that any thread of a process has started."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    texts = [(thread / "children").read_text() for thread in threads]
    return sorted(int(child) for text in texts for child in text.split())


def ask(daemon: Daemon) -> int:
    return daemon.http.post("/v1/chat/completions", json=BODY).status_code


def test_it_is_replaced_when_it_is_killed_and_ends_with_the_daemon(
    tmp_path: Path, fast_node: RunningNode
) -> None:
    """It starts with the first large body; after its death, the next one gets another."""
    with running_daemon(tmp_path, {"a": fast_node.base_url}) as daemon:
        pid = daemon.process.pid
        assert [] == all_children(pid)
        assert 200 == ask(daemon)
        (first,) = all_children(pid)
        os.kill(first, signal.SIGKILL)
        eventually(lambda: ask(daemon) == 200, "an answer after the death")
        (second,) = [child for child in all_children(pid) if child != first]

        daemon.signal(signal.SIGTERM)
        assert 0 == daemon.end()
        eventually(lambda: not Path(f"/proc/{second}").exists(), "the end of the process")
