"""Codex, from npm, in its exec mode; it speaks responses, which the daemon passes through."""

from __future__ import annotations

from pathlib import Path

from e2e.stage import MODEL, Stage, check, check_equal

PACKAGE = "@openai/codex"
PROGRAM = "codex"
RUN_SECONDS = 120.0
RESPONSES = "/v1/responses"
KEY_NAME = "CORTEXD_KEY"
CONFIGURATION = """\
model = "{model}"
model_provider = "cortexd"
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
"""


def talk(stage: Stage, programs: Path) -> str:
    """Have a conversation of two turns; return what was seen. Raises CheckFailed."""
    folder = stage.home / ".codex"
    folder.mkdir()
    (folder / "config.toml").write_text(
        CONFIGURATION.format(model=MODEL, base_url=stage.daemon.base_url, key_name=KEY_NAME)
    )
    program = str(programs / PROGRAM)
    options = ("--skip-git-repo-check",)
    for command, words in (
        ([program, "exec", *options, "hello there"], "hello there"),
        ([program, "exec", "resume", "--last", *options, "and now"], "and now"),
    ):
        done = stage.run(command, {KEY_NAME: "unused"}, RUN_SECONDS)
        check_equal(0, done.status, f"exit status (it ended with {done})")
        check_equal(f"You said: {words}", done.output.strip(), "the answer")

    bodies = stage.bodies(RESPONSES)
    check_equal(2, len(stage.generations()), "requests that made the node generate")
    check_equal(2, len(bodies), "responses the node was asked for")
    check_equal([MODEL, MODEL], [body["model"] for body in bodies], "the models")
    said = [
        item["content"][0]["text"] for item in bodies[1]["input"] if item["role"] == "assistant"
    ]
    check_equal(["You said: hello there"], said, "what the second request has of the first answer")
    lines = [line for line in stage.daemon.lines("request") if line["route"] == RESPONSES]
    check_equal(["200", "200"], [line["outcome"] for line in lines], f"ends of {RESPONSES}")
    check(all(line["stream"] for line in lines), "a response was not streamed")
    return "two turns, two requests upstream"
