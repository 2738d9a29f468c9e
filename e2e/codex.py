"""Codex, from npm, in its exec mode; it speaks responses.

Beside the first words of a conversation it sends its environment, which the simulated node makes
part of a tool's arguments, so the tests request a tool only later.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from e2e.installing.kit import Installed
from e2e.installing.npm import Npm
from e2e.keys import BUSY, LATE, NARROW, UNUSED, WRONG
from e2e.real_server import TURNS, RealTalk
from e2e.scenes import Client, Scene
from e2e.stage import CHAT, MODEL, Finished, Silence, Stage, Workplace, check, check_equal
from e2e.talk import Talk, Turn, check_nothing_lost, greeting, requests_of

KIT = Npm(("@openai/codex",), program="codex")
RUN_SECONDS = 120.0
RESPONSES = "/v1/responses"
KEY_NAME = "CORTEXD_KEY"
# How often it sends a request that is refused, within some 7 s; no header of ours changes that.
TRIES = 6
REFUSALS = {
    WRONG: "401 Unauthorized: the gateway does not know this key",
    LATE: "401 Unauthorized: the key 'late' has expired",
    NARROW: f"403 Forbidden: the key 'narrow' may not use model '{MODEL}'",
}
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


def talk_with_tools(stage: Stage, client: Installed) -> str:
    """Run a conversation of three turns, with a tool call in the last two; return a summary.

    The second tool belongs to a namespace, and Codex finds it only by both names. Raises
    CheckFailed.
    """
    _configure(stage)
    mark = stage.mark
    first, ran, refused = f"good morning, {mark}", f"{WORDS}, {mark}", f"nobody, {mark}"
    conversation = Talk(
        mark,
        (
            Turn(first, first),
            Turn(f"call:exec_command echo {ran}", ran, (ran,)),
            Turn(f"call:multi_agent_v1__close_agent {refused}", refused, (refused,)),
        ),
    )
    for number, turn in enumerate(conversation.turns):
        answer = _ask(stage, client, turn.asked, goes_on=number > 0)
        check(turn.answer in answer, f"turn {number + 1} was answered {answer!r}")

    bodies = _check_all_were_answered(stage, CHAT, requests_of(conversation))
    check_nothing_lost(stage, conversation)
    for body in bodies:
        check_equal(bodies[0]["tools"], body["tools"], "tools of a later request")
    for earlier, later in pairwise(bodies):
        count = len(earlier["messages"])
        check_equal(earlier["messages"], later["messages"][:count], "the beginning of a request")
    return f"three turns, two calls of tools, {requests_of(conversation)} requests upstream"


def talk_to_a_native_node(stage: Stage, client: Installed) -> str:
    """Run a conversation of two turns by the responses of an older node; return a summary.

    The node supports no namespaces and no search. Raises CheckFailed.
    """
    _configure(stage)
    stage.in_reactor(lambda: setattr(stage.node, "older_responses", True))
    check_equal("You said: hello there", _ask(stage, client, "hello there"), "the answer")
    answer = _ask(stage, client, "and now", goes_on=True)
    check_equal("You said: and now", answer, "the second answer")
    _check_all_were_answered(stage, RESPONSES, 2)
    return "two turns, two requests upstream"


def wait_out_a_silence(stage: Stage, client: Installed) -> str:
    """Request a model that must load and then think, each for longer than Codex waits.

    Returns a summary. Raises CheckFailed if Codex has retried.
    """
    _configure(stage, IDLE_SECONDS)
    conversation = greeting(stage)
    answer = _ask(stage, client, conversation.turns[0].asked)
    check(conversation.turns[0].answer in answer, f"the answer is {answer!r}")
    _check_all_were_answered(stage, CHAT, 1)
    waited = SILENCE.load_seconds + SILENCE.prompt_seconds
    return f"{waited:g} s of silence at a limit of {IDLE_SECONDS:g} s, one request upstream"


def bring_a_key(stage: Stage, client: Installed) -> str:
    """Send requests with keys of all kinds; return a summary. Raises CheckFailed."""
    _configure(stage)
    for name, words in REFUSALS.items():
        before = len(stage.refusals())
        done = _run(stage, client, "hello there", stage.keys[name])
        check_equal(1, done.status, f"exit status with the key {name!r}")
        shown = f"unexpected status {words}"
        check(shown in done.complaints, f"{name!r}: it says {done.complaints!r}")
        refused = stage.refusals()[before:]
        check_equal([int(words[:3])] * TRIES, refused, f"requests refused with {name!r}")
    done = _run(stage, client, "hello there", stage.key)
    check_equal(0, done.status, f"exit status (it ended with {done})")
    _check_all_were_answered(stage, CHAT, 1, refused=len(stage.refusals()))
    return f"a right key works, three others are refused in its own words after {TRIES} requests"


def wait_as_told(stage: Stage, client: Installed) -> str:
    """Send a request with a key that is used up for now; return a summary. Raises CheckFailed."""
    _configure(stage)
    stage.use_up(BUSY)
    before = len(stage.refusals())
    done = _run(stage, client, "hello there", stage.keys[BUSY])
    check_equal(0, done.status, f"exit status (it ended with {done})")
    stage.check_waited(before, most=2)  # it varies the wait, and may come back a little early
    return "refused for its rate, and answered after Retry-After"


def greet(stage: Stage, client: Installed) -> str:
    """Send one request beside other clients; return a summary. Raises CheckFailed."""
    _configure(stage)
    conversation = greeting(stage)
    answer = _ask(stage, client, conversation.turns[0].asked)
    check(conversation.turns[0].answer in answer, f"the answer is {answer!r}")
    check_nothing_lost(stage, conversation)
    return "one turn, one request upstream"


def _talk_to_real_server(place: Workplace, client: Installed) -> list[str]:
    _configure(place)
    return [_ask(place, client, turn, goes_on=number > 0) for number, turn in enumerate(TURNS)]


def _configure(stage: Workplace, idle_seconds: float = RUN_SECONDS) -> None:
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


def _ask(stage: Workplace, client: Installed, prompt: str, *, goes_on: bool = False) -> str:
    """Return what Codex prints as the result of its run."""
    session = ("resume", "--last") if goes_on else ()
    done = _run(stage, client, prompt, UNUSED, *session)
    check_equal(0, done.status, f"exit status (it ended with {done})")
    return done.output.strip()


def _run(stage: Workplace, client: Installed, prompt: str, key: str, *session: str) -> Finished:
    """Run it with a key."""
    command = [*client.command, "exec", *session, "--skip-git-repo-check", prompt]
    return stage.run(command, {"PATH": client.search_path, KEY_NAME: key}, RUN_SECONDS)


def _check_all_were_answered(stage: Stage, path: str, count: int, *, refused: int = 0) -> list[Any]:
    """Return the bodies that the node got at a path, as often as it should have."""
    bodies = stage.bodies(path)
    check_equal(count, len(stage.generations()), "requests that made the node generate")
    check_equal([MODEL] * count, [body["model"] for body in bodies], "the models asked for")
    lines = [line for line in stage.daemon.lines("request") if line["route"] == RESPONSES]
    lines = [line for line in lines if not refused or line["status"] == 200]
    check_equal(["200"] * count, [line["outcome"] for line in lines], f"ends of {RESPONSES}")
    check(all(line["stream"] for line in lines), "a response was not streamed")
    return bodies


CLIENT = Client(
    "codex",
    KIT,
    (
        Scene(
            "talk with tools",
            talk_with_tools,
            real=RealTalk(
                "exec_command",
                lambda _: {"cmd": f"echo {WORDS}"},
                WORDS,
                _talk_to_real_server,
            ),
        ),
        # Its developer messages go to the node as they are, and this node knows them.
        Scene(
            "talk to a native node",
            talk_to_a_native_node,
            node='responses = "native"',
            is_strict=False,
        ),
        Scene("wait out a silence", wait_out_a_silence, SILENCE),
        Scene("bring a key", bring_a_key, has_keys=True),
        Scene("wait as told", wait_as_told, has_keys=True),
    ),
    waiting=(Scene("greet", greet),),
)
