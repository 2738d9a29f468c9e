"""opencode, from npm, in its run mode, with the two providers that a gateway can serve.

Its prompt is long and has a session's folder in it, so the tests look only for their own words.
"""

from __future__ import annotations

import json

from e2e.installing.kit import Installed
from e2e.installing.npm import Npm
from e2e.real_server import NOTES, TURNS, RealTalk, notes_in
from e2e.scenes import Client, Scene
from e2e.stage import CONTEXT_TOKENS, MODEL, Stage, Workplace, check, check_equal
from e2e.talk import RUN_SECONDS, check_nothing_lost, requests_of, tail, talk_about_a_file

KIT = Npm(("opencode-ai",), program="opencode")
PROVIDER = "cortexd"


def talk_by_openai_compatible(stage: Stage, client: Installed) -> str:
    """Talk by the provider that speaks chat; return a summary. Raises CheckFailed."""
    return _talk(stage, client, "@ai-sdk/openai-compatible")


def talk_by_anthropic(stage: Stage, client: Installed) -> str:
    """Talk by the provider that speaks Messages; return a summary. Raises CheckFailed."""
    return _talk(stage, client, "@ai-sdk/anthropic")


def _talk(stage: Stage, client: Installed, provider: str) -> str:
    _configure(stage, provider)
    conversation = talk_about_a_file(stage, "read")
    for number, turn in enumerate(conversation.turns):
        options = ("--continue",) if number else ("--title", "notes")
        # It puts an argument with spaces in quotes, before it joins all arguments.
        words = turn.asked.split()
        command = [*client.command, "run", "--model", f"{PROVIDER}/{MODEL}", *options, *words]
        done = stage.run(command, _environment(client), RUN_SECONDS)
        check_equal(0, done.status, f"exit status ({tail(done)})")
        check(turn.answer in done.output, f"the answer is not {turn.answer!r}; {tail(done)}")
        for word in ("warn", "error", "retry"):
            check(word not in done.complaints.lower(), f"it complained; {tail(done)}")
    check_nothing_lost(stage, conversation)
    return f"three runs, {requests_of(conversation)} requests upstream"


def _real(provider: str) -> RealTalk:
    def play(place: Workplace, client: Installed) -> list[str]:
        _configure(place, provider)
        answers = []
        for number, turn in enumerate(TURNS):
            options = ("--continue",) if number else ("--title", "notes")
            words = turn.split()
            command = [*client.command, "run", "--model", f"{PROVIDER}/{MODEL}", *options, *words]
            done = place.run(command, _environment(client), RUN_SECONDS)
            check_equal(0, done.status, f"exit status ({tail(done)})")
            answers.append(done.output)
        return answers

    return RealTalk("read", lambda work: {"filePath": notes_in(work)}, NOTES, play)


def _configure(stage: Workplace, provider: str) -> None:
    model = {
        "name": "Chat",
        "limit": {"context": CONTEXT_TOKENS, "output": 8192},
        "tool_call": True,
        "reasoning": True,
    }
    configuration = {
        "provider": {
            PROVIDER: {
                "npm": provider,
                "name": "cortexd",
                "options": {"baseURL": f"{stage.daemon.base_url}/v1", "apiKey": "unused"},
                "models": {MODEL: model},
            }
        },
        "small_model": f"{PROVIDER}/{MODEL}",
        "autoupdate": False,
        "share": "disabled",
    }
    (stage.work / "opencode.json").write_text(json.dumps(configuration))


def _environment(client: Installed) -> dict[str, str]:
    """Return the switches that keep opencode from anything but its provider."""
    names = ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "DEFAULT_PLUGINS", "SHARE")
    return {"PATH": client.search_path, **{f"OPENCODE_DISABLE_{name}": "1" for name in names}}


SCENES = (
    Scene(
        "talk by openai-compatible",
        talk_by_openai_compatible,
        asks_the_world=True,
        real=_real("@ai-sdk/openai-compatible"),
    ),
    Scene(
        "talk by anthropic",
        talk_by_anthropic,
        asks_the_world=True,
        real=_real("@ai-sdk/anthropic"),
    ),
)
CLIENT = Client("opencode", KIT, SCENES, waiting=SCENES)
