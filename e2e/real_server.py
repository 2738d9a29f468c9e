"""A mistral.rs server in a process of its own, with a model that speaks scripts.

`python -m e2e --server PATH` runs the clients before it. The binary is built from the source of
mistral.rs (`cargo build --release -p mistralrs-cli --no-default-features`), and needs no GPU.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx2
from twisted.internet.address import IPv4Address
from twisted.internet.defer import maybeDeferred

from e2e.installing.kit import Installed
from e2e.stage import MODEL, CheckFailed, Workplace, check_equal, open_way_out, run_in_reactor
from tests.engine.scripted_model import tool_call, write_scripted_model
from tests.live.daemons import eventually, running_daemon

START_SECONDS = 120.0
STOP_SECONDS = 15.0
TURNS = ("good morning", "call:tool", "good night")
NOTES = "the cat sleeps on the third step"
MORNING = "Good morning, dear friend."
LOOK = "Let me look. "
ANSWER = "They say that it is as it was."
NIGHT = "Sleep well until tomorrow!"
LOST = "Something of this conversation was lost on its way."


@dataclass(frozen=True)
class RealTalk:
    """A client's conversation before a real server.

    The model calls `tool` with the `arguments` for the client's folder, and the result must contain
    `result`. The prompt must contain `system`. `play` has the conversation of TURNS, and returns
    the client's answers.
    """

    tool: str
    arguments: Callable[[Path], Mapping[str, object]]
    result: str
    play: Callable[[Workplace, Installed], list[str]]
    system: str = ""

    def scripts(self, work: Path) -> dict[str, str]:
        """Return what the model can say."""
        call = LOOK + tool_call(self.tool, self.arguments(work))
        return {"morning": MORNING, "call": call, "answer": ANSWER, "night": NIGHT, "lost": LOST}

    def template(self) -> str:
        """Return a chat template that looks for all words of the turns before.

        So the server itself says whether anything was lost, by the script that it speaks.
        """
        return (
            "{%- set said = namespace(text='') %}"
            "{%- for message in messages %}"
            "{%- set said.text = said.text ~ message['role'] ~ ': ' ~ message['content'] ~ '\n' %}"
            "{%- for call in message['tool_calls'] or [] %}"
            "{%- set said.text = said.text ~ (call | tojson) ~ '\n' %}"
            "{%- endfor %}{%- endfor %}"
            "{{ said.text }}"
            "{%- set last = messages[-1] %}"
            f"{{%- set whole = '{self.system}' in said.text and tools %}}"
            f"{{%- set talked = whole and '{TURNS[0]}' in said.text"
            f" and '{MORNING}' in said.text %}}"
            f"{{%- set worked = talked and '{self.tool}' in said.text"
            f" and '{self.result}' in said.text %}}"
            "{%- if last['role'] == 'tool' %}"
            "{{ '<|say answer|>' if worked else '<|say lost|>' }}"
            f"{{%- elif '{TURNS[1]}' in last['content'] %}}"
            "{{ '<|say call|>' if talked else '<|say lost|>' }}"
            f"{{%- elif '{TURNS[2]}' in last['content'] %}}"
            f"{{{{ '<|say night|>' if worked and '{ANSWER}' in said.text else '<|say lost|>' }}}}"
            "{%- else %}{{ '<|say morning|>' if whole else '<|say lost|>' }}{%- endif %}"
        )


def notes_in(work: Path) -> str:
    """Write a file for a client to read, and return its path."""
    path = work / "notes.txt"
    path.write_text(f"{NOTES}\n")
    return str(path)


@contextmanager
def real_server(binary: Path, folder: Path, talk: RealTalk) -> Iterator[tuple[str, str]]:
    """Run a server until the block ends; yield its address and the id of its model.

    Raises CheckFailed if it does not start.
    """
    scripts = talk.scripts(folder / "work")
    model = write_scripted_model(folder / "scripted", scripts, talk.template())
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
def real_workplace(reactor: Any, folder: Path, binary: Path, talk: RealTalk) -> Iterator[Workplace]:
    """Provide a workplace before a real server to a thread outside the reactor.

    Its model has the name MODEL.
    """
    for name in ("home", "work", "daemon"):
        (folder / name).mkdir(parents=True)
    way_out, listener = run_in_reactor(reactor, lambda: open_way_out(reactor))

    async def close() -> None:
        await maybeDeferred(listener.stopListening)

    try:
        with real_server(binary, folder, talk) as (address, model):
            alias = f'[[models]]\nid = "{model}"\naliases = ["{MODEL}"]\n'
            with running_daemon(folder / "daemon", {"real": address}, extra=alias) as daemon:
                port = cast(IPv4Address, listener.getHost()).port
                yield Workplace(reactor, way_out, port, daemon, folder)
    finally:
        run_in_reactor(reactor, close)


def talk_to_real_server(
    reactor: Any, folder: Path, binary: Path, talk: RealTalk, client: Installed
) -> str:
    """Have the conversation, and judge it; return a summary. Raises CheckFailed."""
    with real_workplace(reactor, folder, binary, talk) as place:
        answers = talk.play(place, client)
        expected = [MORNING, ANSWER, NIGHT]
        said = [each for each, words in zip(answers, expected, strict=False) if words in each]
        check_equal((3, answers), (len(said), answers), "answers with the expected words")
        ends = [line["outcome"] for line in place.daemon.lines("request") if line["model"]]
        check_equal(["200"] * 4, ends, "the ends of all requests")
        check_equal([], place.daemon.alarms(), "warnings of the daemon")
    return "4 requests"
