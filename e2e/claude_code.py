"""Claude Code, from npm, in its print mode.

Its first message of a conversation contains its own reminders. The simulated node makes a tool's
arguments from the user's text, so the tests request a tool only in the second message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from cortexd.testing.answering.media import png
from e2e.installing.kit import Installed
from e2e.installing.npm import Npm
from e2e.keys import BUSY, LATE, NARROW, UNUSED, WRONG
from e2e.real_server import NOTES as NOTES_OF_TALK
from e2e.real_server import TURNS, RealTalk, notes_in
from e2e.scenes import Client, Scene
from e2e.stage import (
    CHAT,
    MESSAGES,
    MODEL,
    Finished,
    Silence,
    Stage,
    Workplace,
    check,
    check_equal,
)
from e2e.talk import check_nothing_lost, greeting

KIT = Npm(("@anthropic-ai/claude-code",), program="claude")
RUN_SECONDS = 120.0
# Claude Code cuts a stream that seems dead after 300 s and asks again.
SILENCE = Silence(prompt_seconds=330.0)
PDF = b"%PDF-1.4\n1 0 obj <</Type/Catalog>> endobj\ntrailer <</Root 1 0 R>>\n%%EOF\n"
KEY_VARIABLES = ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY")
# The beginning of our words, to which Claude Code adds its own.
REFUSALS = {
    WRONG: "the gateway does not know this key",
    LATE: "the key 'late' has expired",
    NARROW: f"the key 'narrow' may not use model '{MODEL}'",
}
NOTES = "the cat sleeps on the third step"


def talk_with_tools(stage: Stage, client: Installed) -> str:
    """Run a conversation of two turns, with a tool call in the second; return a summary.

    Raises CheckFailed.
    """
    notes = stage.work / "notes.txt"
    notes.write_text(f"{NOTES}\n")
    greeted = _ask(stage, client, "hello there")
    check(greeted.startswith("You said: "), f"the first turn was answered {greeted!r}")
    check("hello there" in greeted, f"the first turn was answered {greeted!r}")
    told = _ask(stage, client, f"call:Read {notes}", "--continue")
    check(told.startswith("The tool said: "), f"the second turn was answered {told!r}")
    check(NOTES in told, f"the second turn was answered {told!r}")

    bodies = stage.bodies(CHAT)
    check_equal(3, len(stage.generations()), "requests that made the node generate")
    check_equal(3, len(bodies), "chats the node was asked for")
    for body in bodies:
        roles = [message["role"] for message in body["messages"]]
        check_equal(["system"], roles[:1], "role of the first message")
        check("system" not in roles[1:], f"a system message is in the middle: {roles}")
        check("x-anthropic-billing" not in json.dumps(body), "the billing line has gone upstream")
        check_equal(bodies[0]["tools"], body["tools"], "tools of a later request")
    check_equal(True, bodies[0]["enable_thinking"], "enable_thinking")
    *_, asked, called, result = bodies[-1]["messages"]
    check_equal(("user", f"call:Read {notes}"), (asked["role"], asked["content"]), "the question")
    thought = called.get("reasoning_content", "")
    check(thought.startswith("The user said "), f"of its thinking the model is told {thought!r}")
    (call,) = called["tool_calls"]
    check_equal("Read", call["function"]["name"], "the tool")
    check_equal({"file_path": str(notes)}, json.loads(call["function"]["arguments"]), "its input")
    check_equal(("tool", call["id"]), (result["role"], result["tool_call_id"]), "the result's call")
    check(NOTES in result["content"], f"the tool's result is {result['content']!r}")
    check_equal(bodies[1]["messages"], bodies[2]["messages"][:-2], "what both requests begin with")
    _check_all_were_answered(stage, 3)
    seen = _check_prefixes_were_found(stage)
    return f"two turns, one call of a tool, three requests upstream; {seen}"


def show_a_picture_to_a_messages_node(stage: Stage, client: Installed) -> str:
    """Run a conversation of three turns with a model that cannot see; return a summary.

    The second turn reads a picture, and in the third it is part of the conversation. Raises
    CheckFailed.
    """
    picture = stage.work / "cat.png"
    picture.write_bytes(png("a cat"))
    greeted = _ask(stage, client, "hello there")
    check("hello there" in greeted, f"the first turn was answered {greeted!r}")
    told = _ask(stage, client, f"call:Read {picture}", "--continue")
    check_equal("The tool said: [image omitted: model has no vision]", told, "the second answer")
    after = _ask(stage, client, "and now", "--continue")
    check_equal("You said: and now", after, "the third answer")

    bodies = stage.bodies(MESSAGES)
    check_equal(4, len(stage.generations()), "requests that made the node generate")
    check_equal(4, len(bodies), "messages the node was asked for")
    for body in bodies:
        check_equal(bodies[0]["tools"], body["tools"], "tools of a later request")
        check('"image"' not in json.dumps(body["messages"]), "the picture has gone upstream")
    _check_all_were_answered(stage, 4)
    return "three turns, a picture that nobody saw, four requests upstream"


def read_a_pdf(stage: Stage, client: Installed) -> str:
    """Run a conversation of three turns, in which the second reads a PDF; return a summary.

    Raises CheckFailed.
    """
    document = stage.work / "cat.pdf"
    document.write_bytes(PDF)
    greeted = _ask(stage, client, "hello there")
    check("hello there" in greeted, f"the first turn was answered {greeted!r}")
    told = _ask(stage, client, f"call:Read {document}", "--continue")
    check("[document omitted: " in told, f"the second turn was answered {told!r}")
    after = _ask(stage, client, "and now", "--continue")
    check_equal("You said: and now", after, "the third answer")

    bodies = stage.bodies(CHAT)
    check_equal(4, len(bodies), "chats the node was asked for")
    called, result, answer, _ = bodies[-1]["messages"][-4:]
    check_equal(called["tool_calls"][0]["id"], result["tool_call_id"], "the result's call")
    for words in (str(document), "[document omitted: "):
        check(words in result["content"], f"the tool's result is {result['content']!r}")
    check_equal(told, answer["content"], "the second answer, in the third turn")
    _check_all_were_answered(stage, 4)
    return "three turns, a PDF that could not be sent, four requests upstream"


def wait_out_a_silence(stage: Stage, client: Installed) -> str:
    """Send one request to a node that stays silent for SILENCE, and check that there is no retry.

    Raises CheckFailed.
    """
    answer = _ask(stage, client, "hello there", seconds=3 * SILENCE.prompt_seconds)
    check(answer.startswith("You said: "), f"the answer is {answer!r}")
    check_equal(1, len(stage.generations()), "requests that made the node generate")
    _check_all_were_answered(stage, 1)
    return f"{SILENCE.prompt_seconds:g} s of silence, one request upstream"


def greet(stage: Stage, client: Installed) -> str:
    """Send one request beside other clients; return a summary. Raises CheckFailed."""
    conversation = greeting(stage)
    answer = _ask(stage, client, conversation.turns[0].asked)
    check(conversation.turns[0].answer in answer, f"the answer is {answer!r}")
    check_nothing_lost(stage, conversation)
    return "one turn, one request upstream"


def bring_a_key(stage: Stage, client: Installed) -> str:
    """Send requests with keys of all kinds, in both variables; return a summary.

    Raises CheckFailed, also where a request that was refused came again.
    """
    for variable in KEY_VARIABLES:
        for name, words in REFUSALS.items():
            before = len(stage.refusals())
            done = _run(stage, client, "hello there", {variable: stage.keys[name]})
            result = json.loads(done.output)
            status = 403 if name == NARROW else 401
            check_equal(1, done.status, f"exit status with the key {name!r}")
            check_equal((True, status), (result["is_error"], result["api_error_status"]), name)
            shown = f"Failed to authenticate. API Error: {status} {words}"
            check(result["result"].startswith(shown), f"{name!r}: it says {result['result']!r}")
            check_equal([status], stage.refusals()[before:], f"requests refused with {name!r}")
    for variable in KEY_VARIABLES:
        done = _run(stage, client, "hello there", {variable: stage.key})
        check_equal(0, done.status, f"exit status (it ended with {done})")
        check("You said: " in json.loads(done.output)["result"], f"the answer is {done.output!r}")
    check_equal(2, len(stage.generations()), "requests that made the node generate")
    return "a right key works, three others are refused in its own words, each with one request"


def wait_as_told(stage: Stage, client: Installed) -> str:
    """Send a request with a key that is used up for now; return a summary. Raises CheckFailed."""
    stage.use_up(BUSY)
    before = len(stage.refusals())
    done = _run(stage, client, "hello there", {"ANTHROPIC_AUTH_TOKEN": stage.keys[BUSY]})
    check_equal(0, done.status, f"exit status (it ended with {done})")
    stage.check_waited(before)
    return "one request refused for its rate, the next one after Retry-After is answered"


def _talk_to_real_server(place: Workplace, client: Installed) -> list[str]:
    return [
        _ask(place, client, turn, *(("--continue",) if number else ()))
        for number, turn in enumerate(TURNS)
    ]


def _ask(
    stage: Workplace, client: Installed, prompt: str, *options: str, seconds: float = RUN_SECONDS
) -> str:
    """Return what Claude Code prints as the result of its run."""
    done = _run(stage, client, prompt, {"ANTHROPIC_AUTH_TOKEN": UNUSED}, *options, seconds=seconds)
    check_equal(0, done.status, f"exit status (it wrote {done.output!r}, {done.complaints!r})")
    result: dict[str, Any] = json.loads(done.output)
    check_equal(False, result["is_error"], f"is_error of {result}")
    check_equal("end_turn", result["stop_reason"], "stop_reason")
    check(result["usage"]["input_tokens"] > 0, f"no input tokens in {result['usage']}")
    return str(result["result"])


def _run(
    stage: Workplace,
    client: Installed,
    prompt: str,
    key: Mapping[str, str],
    *options: str,
    seconds: float = RUN_SECONDS,
) -> Finished:
    """Run it with a key in one of its variables."""
    command = [*client.command, "-p", prompt, "--output-format", "json", *options]
    return stage.run(command, {**_environment(stage, client), **key}, seconds)


def _check_all_were_answered(stage: Stage, count: int) -> None:
    lines = [line for line in stage.daemon.lines("request") if line["route"] == "/v1/messages"]
    check_equal([200] * count, [line["status"] for line in lines], "statuses of /v1/messages")
    check_equal(["200"] * count, [line["outcome"] for line in lines], "ends of /v1/messages")


def _check_prefixes_were_found(stage: Stage) -> str:
    """Check that the node has found what each request began with; return what was seen.

    The billing line changes with each request, so that with it the node would find nothing.
    """
    lines = [line for line in stage.daemon.lines("request") if line["route"] == "/v1/messages"]
    left_out = [line["hygiene"] for line in lines]
    check_equal(left_out[:1] * len(lines), left_out, "what was left out of the prompts")
    for earlier, later in pairwise(lines):
        cached, before = later["cached_tokens"] or 0, earlier["prompt_tokens"]
        check(cached > before / 2, f"of a prompt of {before} tokens {cached} were cached next time")
    return f"{lines[-1]['cached_tokens']} tokens cached in the last, left out: {left_out[0]}"


def _environment(stage: Workplace, client: Installed) -> dict[str, str]:
    """Return what points Claude Code at the daemon and keeps it from anything else."""
    models = ("MODEL", *(f"DEFAULT_{size}_MODEL" for size in ("HAIKU", "SONNET", "OPUS")))
    return {
        "PATH": client.search_path,
        "ANTHROPIC_BASE_URL": stage.daemon.base_url,
        **{f"ANTHROPIC_{name}": MODEL for name in models},
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_TELEMETRY": "1",
    }


CLIENT = Client(
    "claude-code",
    KIT,
    (
        Scene(
            "talk with tools",
            talk_with_tools,
            real=RealTalk(
                "Read",
                lambda work: {"file_path": notes_in(work)},
                NOTES_OF_TALK,
                _talk_to_real_server,
            ),
        ),
        Scene(
            "show a picture to a Messages node",
            show_a_picture_to_a_messages_node,
            messages_only=True,
        ),
        Scene("read a PDF", read_a_pdf),
        Scene("bring a key", bring_a_key, has_keys=True),
        Scene("wait as told", wait_as_told, has_keys=True),
        Scene("wait out a silence", wait_out_a_silence, SILENCE, is_long=True),
    ),
    waiting=(Scene("greet", greet),),
)
