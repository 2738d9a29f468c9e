"""A server that loads more than its budget as it starts, without an agent beside it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2

from tests.engine.processes import held, simulated_node
from tests.live.agent.fleets import ask, gauge, loaded, node_status
from tests.live.daemons import START_SECONDS, Daemon, eventually, running_daemon

PINNED, OTHER = "acme/thinker", "acme/chat"
SIZE_MB, SMALL_MB = 6_144, 1_024
BUDGET_MB = 8_000
OVER_MB = 2 * SIZE_MB + SMALL_MB - BUDGET_MB
MEBIBYTE = 1024 * 1024
MODELS = f"""
[[models]]
id = "{PINNED}"
pinned_on = ["a"]
vram_mb = {SIZE_MB}
[[models]]
id = "{OTHER}"
vram_mb = {SIZE_MB}
[[models]]
id = "acme/embed"
vram_mb = {SMALL_MB}
"""


def over_mb(daemon: Daemon) -> float:
    """Return how much too much the node has by its metric, in MiB."""
    return gauge(daemon, "cortex_node_over_budget_bytes", node="a") / MEBIBYTE


def test_it_is_unloaded_down_to_its_budget(tmp_path: Path) -> None:
    """What is too much is said at once, goes as soon as all is loaded, and the pinned model stays.

    A request comes after that.
    """
    with (
        ThreadPoolExecutor() as threads,
        simulated_node(fast=True, cold=(OTHER,)) as node,
        held(node.hold_folder / "loads"),
    ):
        loading = threads.submit(
            httpx2.post,
            f"{node.base_url}/v1/models/reload",
            json={"model_id": OTHER},
            timeout=START_SECONDS,
        )
        with running_daemon(
            tmp_path, {"a": node.base_url}, extra=MODELS, vram_mb=BUDGET_MB
        ) as daemon:
            eventually(lambda: over_mb(daemon) == OVER_MB, "what is too much")
            assert OVER_MB == node_status(daemon, "a")["over_budget_mb"]
            (told,) = daemon.lines("node_over_budget")
            assert ("a", OVER_MB) == (told["node"], told["over_mb"])
            (node.hold_folder / "loads").unlink()
            assert 200 == loading.result().status_code
            eventually(lambda: over_mb(daemon) == 0, "room")
            assert 200 == ask(daemon, PINNED).status_code
            assert 0 == gauge(daemon, "cortex_node_closed", node="a")
            assert ["acme/embed", PINNED] == loaded(daemon, "a")
