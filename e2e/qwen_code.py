"""Qwen Code, from npm, in its headless mode; it speaks chat."""

from __future__ import annotations

import json
from pathlib import Path

from e2e.installing.kit import Installed
from e2e.installing.npm import Npm
from e2e.real_server import TURNS, RealTalk, notes_in
from e2e.scenes import Client, Scene
from e2e.stage import MODEL, Stage, Workplace, check, check_equal
from e2e.talk import RUN_SECONDS, Turn, check_nothing_lost, requests_of, tail, talk_around

KIT = Npm(("@qwen-code/qwen-code",), program="qwen")


def talk_with_tools(stage: Stage, client: Installed) -> str:
    """Run a conversation of two turns; return a summary. Raises CheckFailed."""
    _configure(stage)
    # Beside each turn it sends the date, which the simulated model makes part of the patterns. Both
    # tools repeat the pattern, for which they find nothing.
    sought = f"nothing, {stage.mark}"
    called = Turn(f"call:glob call:grep_search {sought}", sought, (sought, sought))
    conversation = talk_around(stage.mark, called)
    for number, turn in enumerate(conversation.turns):
        options = ("--continue",) if number else ()
        command = [*client.command, *_options(stage), *options, "--prompt", turn.asked]
        done = stage.run(command, _environment(client), RUN_SECONDS)
        check_equal(0, done.status, f"exit status ({tail(done)})")
        check(turn.answer in done.output, f"the answer is not {turn.answer!r}; {tail(done)}")
        check_equal("", done.complaints, "on standard error")
    check_nothing_lost(stage, conversation)
    return f"three runs, {requests_of(conversation)} requests upstream"


def _talk_to_real_server(place: Workplace, client: Installed) -> list[str]:
    _configure(place)
    answers = []
    for number, turn in enumerate(TURNS):
        options = ("--continue",) if number else ()
        command = [*client.command, *_options(place), *options, "--prompt", turn]
        done = place.run(command, _environment(client), RUN_SECONDS)
        check_equal((0, ""), (done.status, done.complaints), f"exit status, errors ({tail(done)})")
        answers.append(done.output)
    return answers


def _configure(stage: Workplace) -> None:
    folder = stage.home / ".qwen"
    folder.mkdir()
    configuration = {
        # The program that npm installs for it is not executable.
        "tools": {"useRipgrep": False},
        "general": {"enableAutoUpdate": False},
        # Otherwise it makes requests of its own after each turn.
        "memory": {
            "enableManagedAutoMemory": False,
            "enableManagedAutoDream": False,
            "enableAutoSkill": False,
        },
        "privacy": {"usageStatisticsEnabled": False},
        "telemetry": {"enabled": False},
    }
    (folder / "settings.json").write_text(json.dumps(configuration))


def _options(stage: Workplace) -> list[str]:
    base_url = f"{stage.daemon.base_url}/v1"
    provider = [
        "--auth-type",
        "openai",
        "--openai-base-url",
        base_url,
        "--openai-api-key",
        "unused",
    ]
    return [*provider, "--model", MODEL, "--approval-mode", "yolo"]


def _environment(client: Installed) -> dict[str, str]:
    return {"PATH": client.search_path, "QWEN_CODE_SUPPRESS_YOLO_WARNING": "1"}


REAL = RealTalk(
    "glob",
    lambda work: {"pattern": Path(notes_in(work)).name},
    "notes.txt",
    _talk_to_real_server,
)
SCENES = (Scene("talk with tools", talk_with_tools, real=REAL),)
CLIENT = Client("qwen-code", KIT, SCENES, waiting=SCENES)
