"""Three engines are killed in the middle of answers: how soon their agents bring them back.

Each time one stream of each dialect is open. Each must end with an error of its dialect, and the
next request must succeed as soon as the engine answers again. Each engine is killed once: an agent
rightly waits longer where one ends again and again.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.reliability.scene import Figure
from tests.engine.processes import engine_arguments
from tests.engine.tiny_model import write_chat_model
from tests.live.agent.fleets import ask, has_agent, loaded
from tests.live.agent.machines import (
    LINK_PORT,
    Machine,
    loopback_address,
    running_machine,
    spelt,
)
from tests.live.daemons import Daemon, eventually, running_daemon
from tests.live.streams import CHAT, MESSAGES, RESPONSES, OpenStream

NODES = ("a", "b", "c")
MOST_BACK_SECONDS = 5.0
ERRORS = {CHAT: b'data: {"error":', MESSAGES: b"event: error", RESPONSES: b'"response.failed"'}


def kill_once(daemon: Daemon, machine: Machine, model: str) -> tuple[int, float, float]:
    """Kill the engine in the middle of three streams of a model.

    Return how many ended without an error of their dialect, and the seconds until the engine
    listened and until the gateway had all its models.
    """
    models = loaded(daemon, machine.name)
    with ExitStack() as stack:
        streams = []
        with machine.answers_held():
            for path in (CHAT, MESSAGES, RESPONSES):
                stream = stack.enter_context(OpenStream(daemon, model, tokens=100, path=path))
                stream.read_until_content()
                streams.append(stream)
            began, killed_at = time.monotonic(), time.time()
            killed = machine.kill_engine()
            for stream in streams:
                stream.read_to_end()
    bad = sum(ERRORS[each.path] not in each.received for each in streams)
    boot = eventually(lambda: machine.engine_since(killed), "the engine's return")
    eventually(lambda: loaded(daemon, machine.name) == models, "the models' return")
    return bad, boot.listened_at - killed_at, time.monotonic() - began


def run(options: argparse.Namespace) -> list[Figure]:
    """Play the scene."""
    bad, failed = 0, 0
    back, usable = [], []
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        agents = loopback_address(LINK_PORT)
        machines = []
        for node in NODES:
            # Only this node has the model, so that nobody else answers for it.
            model = write_chat_model(folder / f"model-{node}", seed=1)
            arguments = engine_arguments({f"tiny/{node}": model})
            machines.append(stack.enter_context(running_machine(folder, node, agents, arguments)))
        extra = f'[agents]\nlisten = "{spelt(agents)}"'
        urls = {machine.name: machine.endpoint for machine in machines}
        daemon = stack.enter_context(running_daemon(folder, urls, extra=extra))
        for machine in machines:
            name = machine.name
            eventually(lambda name=name: has_agent(daemon, name), "the greeting of the agent")  # type: ignore[misc] # mypy cannot infer it
            wrong, engine_seconds, model_seconds = kill_once(daemon, machine, f"tiny/{name}")
            bad += wrong
            back.append(engine_seconds)
            usable.append(model_seconds)
            failed += ask(daemon, f"tiny/{name}").status_code != 200
    return [
        Figure("streams without their dialect's error", bad, "", 0),
        Figure("next requests that failed", failed, "", 0),
        Figure("until the engine listened, slowest", max(back), "s", MOST_BACK_SECONDS),
        Figure("until the gateway had its models, slowest", max(usable), "s", MOST_BACK_SECONDS),
    ]
