"""An engine leaves memory behind, has a stuck id, and then a dead device: its agent restarts it.

A model of 390 MiB is unloaded and loaded until the memory that the real engine really leaves behind
is booked as leaked. Ten clients ask for models of other nodes all the time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.processes import resident_bytes
from bench.reliability.scene import Figure
from tests.engine.processes import engine_arguments, simulated_node, write_tiny_models
from tests.engine.tiny_model import LARGE, write_chat_model
from tests.live.agent.fleets import (
    ask,
    asking,
    cortexctl,
    gauge,
    has_agent,
    loaded,
    restarts_done,
)
from tests.live.agent.machines import (
    LINK_PORT,
    Machine,
    loopback_address,
    running_machine,
    spelt,
)
from tests.live.daemons import Daemon, eventually, running_daemon

MEBIBYTE = 1024 * 1024
LARGE_MODEL = "large/gamma"
MODEL = "tiny/alpha"
MOST_CYCLES = 30
RESTART_SECONDS = 120.0
EXTRA = """
[agents]
listen = "{agents}"
[repair]
idle_seconds = 2.0
restart_budget = 100
"""


def leaked_mb(daemon: Daemon) -> float:
    """Return how much memory the node's unloads have not freed so far, in MiB."""
    return gauge(daemon, "cortex_unload_leak_bytes_total", node="a") / MEBIBYTE


def unloads(daemon: Daemon) -> float:
    """Return how many unloads have been verified so far."""
    return gauge(daemon, "cortex_model_unload_seconds_count", node="a")


def leave_memory_behind(daemon: Daemon, machine: Machine) -> int:
    """Unload and load the large model until an unload has leaked; return how often."""
    for cycle in range(1, MOST_CYCLES + 1):
        before = unloads(daemon)
        cortexctl(daemon, "unload", LARGE_MODEL, "--node", "a")
        eventually(
            lambda before=before: unloads(daemon) > before,  # type: ignore[misc] # mypy cannot infer it
            "an unload that is verified",
        )
        if leaked_mb(daemon):
            return cycle
        cortexctl(daemon, "load", LARGE_MODEL, "--node", "a")
    return MOST_CYCLES


def make_stuck(daemon: Daemon, machine: Machine) -> int:
    """Reload a model past the gateway."""
    machine.brick(MODEL)
    return 1


def poison(daemon: Daemon, machine: Machine) -> int:
    """Let the device fail; one client notices."""
    machine.poison()
    return int(ask(daemon, MODEL).status_code != 200)


WEARS: tuple[Callable[[Daemon, Machine], int], ...] = (leave_memory_behind, make_stuck, poison)


def run(options: argparse.Namespace) -> list[Figure]:
    """Play the scene."""
    figures: list[Figure] = []
    ends: Counter[str] = Counter()
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        models = write_tiny_models(folder / "models")
        models[LARGE_MODEL] = write_chat_model(folder / "models" / "large", seed=4, size=LARGE)
        agents = loopback_address(LINK_PORT)
        machine = stack.enter_context(
            running_machine(folder, "a", agents, engine_arguments(models))
        )
        other = stack.enter_context(simulated_node(fast=True))
        urls = {"a": machine.endpoint, "b": other.base_url}
        extra = EXTRA.format(agents=spelt(agents))
        daemon = stack.enter_context(running_daemon(folder, urls, extra=extra))
        eventually(lambda: has_agent(daemon, "a"), "the greeting of the agent")
        for wear in WEARS:
            before, worn = restarts_done(daemon, "a"), machine.engine_pid
            with asking(daemon, other.chat_models) as counted:
                steps = wear(daemon, machine)
                resident = resident_bytes([worn]) / MEBIBYTE
                began = time.monotonic()
                eventually(
                    lambda before=before: restarts_done(daemon, "a") > before,  # type: ignore[misc] # mypy cannot infer it
                    "a planned restart",
                    RESTART_SECONDS,
                )
                seconds = time.monotonic() - began
                answer = ask(daemon, MODEL)
            ends += counted
            what = wear.__name__
            figures += [
                Figure(f"{what}: steps", steps, ""),
                Figure(f"{what}: memory of the process before", resident, "MiB"),
                Figure(f"{what}: until it was restarted", seconds, "s"),
                Figure(f"{what}: next request failed", int(answer.status_code != 200), "", 0),
                Figure(f"{what}: restarts", restarts_done(daemon, "a") - before, "", 1),
                Figure(
                    f"{what}: leaked afterwards",
                    gauge(daemon, "cortex_node_booked_bytes", node="a", kind="leaked") / MEBIBYTE,
                    "MiB",
                    0,
                ),
            ]
            if wear is leave_memory_behind:
                figures.append(Figure(f"{what}: booked as leaked", leaked_mb(daemon), "MiB"))
            eventually(lambda: loaded(daemon, "a") == sorted(models), "a whole node")
    for end in ends.keys() - {"ok"}:
        sys.stderr.write(f"{ends[end]} times: {end}\n")
    return [
        *figures,
        Figure("requests for other nodes", ends.total(), ""),
        Figure("of them failed", ends.total() - ends["ok"], "", 0),
    ]
