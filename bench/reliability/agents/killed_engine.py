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
from typing import NamedTuple

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
BACK_SECONDS = 5.0
ERRORS = {CHAT: b'data: {"error":', MESSAGES: b"event: error", RESPONSES: b'"response.failed"'}


class Kill(NamedTuple):
    """What followed a kill: streams without an error of their dialect, and seconds until things.

    They are until a new process began, until it listened, and until the gateway had its models.
    """

    bad_streams: int
    began: float
    listened: float
    usable: float


def kill_once(daemon: Daemon, machine: Machine, model: str) -> Kill:
    """Kill the engine in the middle of three streams of a model."""
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
    seconds = boot.began_at - killed_at, boot.listened_at - killed_at
    return Kill(bad, *seconds, time.monotonic() - began)


def run(options: argparse.Namespace) -> list[Figure]:
    """Play the scene."""
    kills: list[Kill] = []
    failed = 0
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
            kills.append(kill_once(daemon, machine, f"tiny/{name}"))
            failed += ask(daemon, f"tiny/{name}").status_code != 200
    return [
        Figure("streams without their dialect's error", sum(k.bad_streams for k in kills), "", 0),
        Figure("next requests that failed", failed, "", 0),
        Figure("until the next process began, slowest", max(k.began for k in kills), "s"),
        Figure("until it listened, slowest", max(k.listened for k in kills), "s", BACK_SECONDS),
        Figure("until its models could be used", max(k.usable for k in kills), "s", BACK_SECONDS),
    ]
