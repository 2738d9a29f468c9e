"""Conversations that stay where they were read, before two copies of a model."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import httpx2

from tests.engine.processes import RunningNode, simulated_node
from tests.live.affinity.agents import Turn, read_again, talk
from tests.live.daemons import running_daemon

AGENTS = 8
MOST_READ_AGAIN = 0.1
"""The share that is read again with affinity of what is read again without."""


def node() -> AbstractContextManager[RunningNode]:
    """Run a node that tells how much of a prompt it had cached, as older ones do not."""
    return simulated_node(fast=True, version="0.9.5")


def turns_of(folder: Path, *, affinity: bool) -> tuple[list[Turn], str]:
    """Return the turns of agents before two fresh copies, and the daemon's metrics."""
    folder.mkdir()
    extra = f"[scheduling]\naffinity = {str(affinity).lower()}"
    with node() as ada, node() as bob:
        nodes = {"ada": ada.base_url, "bob": bob.base_url}
        with running_daemon(folder, nodes, extra=extra) as daemon:
            turns = talk(daemon.base_url, "acme/chat", AGENTS)
            return turns, httpx2.get(f"{daemon.metrics_url}/metrics").text


def test_agents_read_a_tenth_again(tmp_path: Path) -> None:
    """Of what 8 agents before 2 copies have sent before, and no queue grows for it."""
    without, _ = turns_of(tmp_path / "off", affinity=False)
    with_it, metrics = turns_of(tmp_path / "on", affinity=True)

    again = [read_again(turns) for turns in (without, with_it)]
    assert again[0] > 0, without
    assert again[1] <= MOST_READ_AGAIN * again[0], (again, with_it)
    assert {0} == {turn.queued_ms for turn in (*without, *with_it)}
    assert {""} == {turn.affinity for turn in without}
    assert {"session"} == {turn.affinity for turn in with_it if turn.number}
    assert 'cortex_affinity_requests_total{kind="session"' in metrics
    assert "cortex_cached_prompt_tokens_total{" in metrics
