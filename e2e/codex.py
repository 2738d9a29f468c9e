"""Codex, from npm, in its exec mode; it speaks responses, which the daemon passes through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from e2e.stage import MODEL, Silence, Stage, check, check_equal

PACKAGE = "@openai/codex"
PROGRAM = "codex"
RUN_SECONDS = 120.0
RESPONSES = "/v1/responses"
KEY_NAME = "CORTEXD_KEY"
WORDS = "forty-two steps"
# It gives a stream up after so long without an event that it counts; by default after 300 s.
IDLE_SECONDS = 5.0
SILENCE = Silence(load_seconds=8.0, prompt_seconds=8.0, keepalive_seconds=2.0)
CONFIGURATION = """\
model = "{model}"
model_provider = "cortexd"
sandbox_mode = "read-only"
check_for_update_on_startup = false

[analytics]
enabled = false

[features]
apps = false
plugins = false

[model_providers.cortexd]
name = "cortexd"
base_url = "{base_url}/v1"
wire_api = "responses"
env_key = "{key_name}"
stream_idle_timeout_ms = {idle_ms:.0f}
"""


def talk_with_tools(stage: Stage, programs: Path) -> str:
    """Run a conversation of two turns, with a tool call in each; return a summary.

    The second tool belongs to a namespace, and Codex finds it only by both names. Raises
    CheckFailed.
    """
    _configure(stage)
    told = _ask(stage, programs, f"call:exec_command echo {WORDS}")
    check(told.startswith("The tool said: "), f"the first turn was answered {told!r}")
    check(WORDS in told, f"the first turn was answered {told!r}")
    refused = _ask(stage, programs, "call:multi_agent_v1.close_agent nobody", goes_on=True)
    check("invalid agent id nobody" in refused, f"the second turn was answered {refused!r}")

    bodies = _check_all_were_answered(stage, 4)
    for body in bodies:
        kinds = {tool["type"] for tool in body["tools"]}
        check_equal({"function"}, kinds, "the kinds of tools the node was sent")
        check_equal(bodies[0]["tools"], body["tools"], "tools of a later request")
    *_, asked, called, result = bodies[1]["input"]
    check_equal(f"call:exec_command echo {WORDS}", _text(asked), "the question")
    check_equal(("function_call", "exec_command"), (called["type"], called["name"]), "the call")
    check_equal(
        ("function_call_output", called["call_id"]), (result["type"], result["call_id"]), "the call"
    )
    check(WORDS in result["output"], f"the tool's result is {result['output']!r}")
    check_equal(bodies[1]["input"], bodies[2]["input"][:-2], "what both turns begin with")
    check_equal(told, _text(bodies[2]["input"][-2]).strip(), "the first answer, in the second turn")
    check_equal("multi_agent_v1.close_agent", bodies[3]["input"][-2]["name"], "the second call")
    return "two turns, two calls of tools, four requests upstream"


def talk_to_an_older_node(stage: Stage, programs: Path) -> str:
    """Run a conversation without calls before a node that supports no namespaces and no search.

    Returns a summary. Raises CheckFailed.
    """
    _configure(stage)
    stage.in_reactor(lambda: setattr(stage.node.faults, "older_responses", True))
    check_equal("You said: hello there", _ask(stage, programs, "hello there"), "the answer")
    answer = _ask(stage, programs, "and now", goes_on=True)
    check_equal("You said: and now", answer, "the second answer")
    _check_all_were_answered(stage, 2)
    return "two turns, two requests upstream"


def wait_out_a_silence(stage: Stage, programs: Path) -> str:
    """Request a model that must load and then think, each for longer than Codex waits.

    Returns a summary. Raises CheckFailed if Codex has retried.
    """
    _configure(stage, IDLE_SECONDS)
    check_equal("You said: hello there", _ask(stage, programs, "hello there"), "the answer")
    _check_all_were_answered(stage, 1)
    waited = SILENCE.load_seconds + SILENCE.prompt_seconds
    return f"{waited:g} s of silence at a limit of {IDLE_SECONDS:g} s, one request upstream"


def _configure(stage: Stage, idle_seconds: float = RUN_SECONDS) -> None:
    folder = stage.home / ".codex"
    folder.mkdir()
    (folder / "config.toml").write_text(
        CONFIGURATION.format(
            model=MODEL,
            base_url=stage.daemon.base_url,
            key_name=KEY_NAME,
            idle_ms=idle_seconds * 1000,
        )
    )


def _ask(stage: Stage, programs: Path, prompt: str, *, goes_on: bool = False) -> str:
    """Return what Codex prints as the result of its run."""
    session = ("resume", "--last") if goes_on else ()
    command = [str(programs / PROGRAM), "exec", *session, "--skip-git-repo-check", prompt]
    done = stage.run(command, {KEY_NAME: "unused"}, RUN_SECONDS)
    check_equal(0, done.status, f"exit status (it ended with {done})")
    return done.output.strip()


def _check_all_were_answered(stage: Stage, count: int) -> list[Any]:
    """Return what the node was sent, as often as it should have been."""
    bodies = stage.bodies(RESPONSES)
    check_equal(count, len(stage.generations()), "requests that made the node generate")
    check_equal([MODEL] * count, [body["model"] for body in bodies], "the models asked for")
    lines = [line for line in stage.daemon.lines("request") if line["route"] == RESPONSES]
    check_equal(["200"] * count, [line["outcome"] for line in lines], f"ends of {RESPONSES}")
    check(all(line["stream"] for line in lines), "a response was not streamed")
    return bodies


def _text(item: Any) -> str:
    content = item["content"]
    return content if isinstance(content, str) else str(content[0]["text"])
