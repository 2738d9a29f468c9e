"""The link between an agent and the gateway is cut for a minute: nothing fails, polls take over.

Two addresses of loopback stand for two hosts, and a program between them for the network: it stops
passing bytes, and closes nothing. Clients ask for models all the time. In that minute a model is
unloaded and loaded, and the engine is killed once: its agent starts it again without the gateway.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.reliability.scene import Figure
from cortexd.link.backoff import LONGEST_SECONDS
from cortexd.link.contract import DEAD_SECONDS
from tests.engine.processes import engine_arguments, simulated_node, write_tiny_models
from tests.live.agent.fleets import asking, cortexctl, has_agent, loaded
from tests.live.agent.links import link_to
from tests.live.agent.machines import LINK_PORT, loopback_address, running_machine, spelt
from tests.live.daemons import eventually, running_daemon

CUT_SECONDS = 60.0
MOST_NOTICE_SECONDS = DEAD_SECONDS + 5.0
MOST_JOIN_SECONDS = LONGEST_SECONDS + 10.0
MODEL = "tiny/beta"


def run(options: argparse.Namespace) -> list[Figure]:
    """Play the scene."""
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        models = write_tiny_models(folder / "models")
        agents = loopback_address(LINK_PORT)
        link = stack.enter_context(link_to(agents))
        arguments = engine_arguments(models)
        machine = stack.enter_context(running_machine(folder, "a", link.address, arguments))
        other = stack.enter_context(simulated_node(fast=True))
        urls = {"a": machine.endpoint, "b": other.base_url}
        extra = f'[agents]\nlisten = "{spelt(agents)}"'
        daemon = stack.enter_context(running_daemon(folder, urls, extra=extra))
        eventually(lambda: has_agent(daemon, "a"), "the greeting of the agent")

        link.cut()
        cut_at = time.monotonic()
        with asking(daemon, ["tiny/alpha", *other.chat_models]) as ends:
            eventually(lambda: not has_agent(daemon, "a"), "the notice of the cut", 60.0)
            noticed = time.monotonic() - cut_at
            cortexctl(daemon, "unload", MODEL, "--node", "a")
            cortexctl(daemon, "load", MODEL, "--node", "a")
        with asking(daemon, other.chat_models) as other_ends:
            killed = machine.kill_engine()
            eventually(lambda: machine.engine_since(killed), "the engine's return")
            eventually(lambda: loaded(daemon, "a") == sorted(models), "polls that find the models")
        with asking(daemon, ["tiny/alpha", *other.chat_models]) as late_ends:
            time.sleep(max(0.0, CUT_SECONDS - (time.monotonic() - cut_at)))
            link.join()
            joined_at = time.monotonic()
            eventually(lambda: has_agent(daemon, "a"), "the return of the agent", 120.0)
            back = time.monotonic() - joined_at
        counted: Counter[str] = ends + other_ends + late_ends
        faults = [line for line in daemon.alarms() if line.get("traceback")]
    for end in counted.keys() - {"ok"}:
        sys.stderr.write(f"{counted[end]} times: {end}\n")
    return [
        Figure("requests", counted.total(), ""),
        Figure("failed", counted.total() - counted["ok"], "", 0),
        Figure("cut until it was noticed", noticed, "s", MOST_NOTICE_SECONDS),
        Figure("joined until the agent was back", back, "s", MOST_JOIN_SECONDS),
        Figure("tracebacks in the log", len(faults), "", 0),
    ]
