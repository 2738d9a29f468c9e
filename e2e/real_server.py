"""A mistral.rs server in a process of its own, with a model that speaks scripts.

`python -m e2e --server PATH` runs the libraries before it. The binary is built from the source of
mistral.rs (`cargo build --release -p mistralrs-cli --no-default-features`), and needs no GPU.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import httpx2
from twisted.internet.address import IPv4Address
from twisted.internet.defer import maybeDeferred

from e2e.installing.kit import Installed
from e2e.stage import CheckFailed, Workplace, check_equal, open_way_out, run_in_reactor
from e2e.talk import SYSTEM, tail
from tests.engine.scripted_model import tool_call, write_scripted_model
from tests.live.daemons import eventually, running_daemon

START_SECONDS = 120.0
STOP_SECONDS = 15.0
TALK_SECONDS = 300.0
TURNS = ("good morning", "call:weather in Lisbon", "good night")
RESULT = "The sun shines in Lisbon"
SCRIPTS = {
    "morning": "Good morning, dear friend.",
    "call": "Let me look. " + tool_call("weather", {"city": "in Lisbon"}),
    "answer": "They say that it is sunny there.",
    "night": "Sleep well until tomorrow!",
    "lost": "Something of this conversation was lost on its way.",
}
ANSWERS = (SCRIPTS["morning"], SCRIPTS["answer"], SCRIPTS["night"])

# The template renders the conversation, and looks for all words of the turns before. So the server
# itself says whether anything was lost, by the script that it speaks.
TEMPLATE = (
    "{%- set said = namespace(text='') %}"
    "{%- for message in messages %}"
    "{%- set said.text = said.text ~ message['role'] ~ ': ' ~ message['content'] ~ '\n' %}"
    "{%- for call in message['tool_calls'] or [] %}"
    "{%- set said.text = said.text ~ (call | tojson) ~ '\n' %}"
    "{%- endfor %}{%- endfor %}"
    "{{ said.text }}"
    "{%- set last = messages[-1] %}"
    f"{{%- set whole = '{SYSTEM.split('. ')[0]}' in said.text and tools %}}"
    "{%- set talked = whole and 'good morning' in said.text"
    f" and '{SCRIPTS['morning']}' in said.text %}}"
    f"{{%- set worked = talked and 'weather' in said.text and '{RESULT}' in said.text %}}"
    "{%- if last['role'] == 'tool' %}"
    "{{ '<|say answer|>' if worked else '<|say lost|>' }}"
    "{%- elif 'call:weather' in last['content'] %}"
    "{{ '<|say call|>' if talked else '<|say lost|>' }}"
    "{%- elif 'good night' in last['content'] %}"
    f"{{{{ '<|say night|>' if worked and '{SCRIPTS['answer']}' in said.text"
    " else '<|say lost|>' }}"
    "{%- else %}{{ '<|say morning|>' if whole else '<|say lost|>' }}{%- endif %}"
)


@contextmanager
def real_server(binary: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Run a server until the block ends; yield its address and the id of its model.

    Raises CheckFailed if it does not start.
    """
    model = write_scripted_model(folder / "scripted", SCRIPTS, TEMPLATE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "server.toml"
    config.write_text(
        'command = "serve"\n'
        f'[server]\nhost = "127.0.0.1"\nport = {port}\nno_ui = true\n'
        f'[[models]]\nmodel_id = "{model}"\ndtype = "f32"\n'
        "[models.device]\ncpu = true\n"
    )
    address = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "RAYON_NUM_THREADS": "1"}
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen(  # noqa: S603 - the server that the caller has chosen
            [str(binary), "from-config", "-f", str(config)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        ) as process,
    ):

        def answers() -> bool:
            if process.poll() is not None:
                raise CheckFailed(f"the server has ended: {(folder / 'server.log').read_text()}")
            try:
                return httpx2.get(f"{address}/health").status_code == 200
            except httpx2.TransportError:
                return False

        try:
            eventually(answers, "the server's start", START_SECONDS)
            yield address, str(model)
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


@contextmanager
def real_workplace(reactor: Any, folder: Path, binary: Path) -> Iterator[tuple[Workplace, str]]:
    """Provide a workplace before a real server to a thread outside the reactor; yield its model."""
    for name in ("home", "work", "daemon"):
        (folder / name).mkdir(parents=True)
    way_out, listener = run_in_reactor(reactor, lambda: open_way_out(reactor))

    async def close() -> None:
        await maybeDeferred(listener.stopListening)

    try:
        with (
            real_server(binary, folder) as (address, model),
            running_daemon(folder / "daemon", {"real": address}) as daemon,
        ):
            port = cast(IPv4Address, listener.getHost()).port
            yield Workplace(reactor, way_out, port, daemon, folder), model
    finally:
        run_in_reactor(reactor, close)


def talk_to_real_server(place: Workplace, model: str, client: Installed, dialect: str) -> str:
    """Run one of our scripts before the real server; return a summary. Raises CheckFailed."""
    environment = {
        "PATH": client.search_path,
        "TALK_BASE_URL": place.daemon.base_url,
        "TALK_MODELS": model,
        "TALK_SYSTEM": SYSTEM,
    }
    before = len(place.daemon.lines("request"))
    done = place.run([*client.command, dialect, *TURNS], environment, TALK_SECONDS)
    check_equal(list(ANSWERS), _said(done.output), f"answers ({tail(done)})")
    check_equal((0, ""), (done.status, done.complaints), "exit status and standard error")
    ends = [line["outcome"] for line in place.daemon.lines("request")[before:]]
    check_equal(["200"] * 4, ends, "the ends of all requests")
    check_equal([], place.daemon.alarms(), "warnings of the daemon")
    return "4 requests"


def _said(output: str) -> list[str]:
    """Return the answers that a script has printed, one line each."""
    try:
        return [json.loads(line).strip() for line in output.splitlines()]
    except ValueError:
        return output.splitlines()
