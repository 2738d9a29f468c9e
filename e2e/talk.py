"""The conversation that every client has, and the judgement of it.

Of three turns, the second has a call of two tools at once, of which the model repeats the second
result. Clients that run our scripts get the turns as arguments after the dialect, and these
variables:

- TALK_BASE_URL: the daemon's address, without a slash and without `/v1`
- TALK_MODELS: the models, separated by spaces; each has a conversation of its own
- TALK_SYSTEM: the system prompt, two sentences

They offer the tools `weather` and `clock`, both with the argument `city`, and print each answer on
a line as a JSON string.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from e2e.installing.kit import Installed
from e2e.stage import CHAT, MODEL, CheckFailed, Finished, Stage, check, check_equal

RUN_SECONDS = 180.0
SYSTEM = "You are a cat. You answer in few words."


@dataclass(frozen=True)
class Turn:
    """What is said in a turn: by the user, by the tools that the model calls, and by the model.

    The model's words may be only a part of its answer.
    """

    asked: str
    answer: str
    results: tuple[str, ...] = ()


@dataclass(frozen=True)
class Talk:
    """One conversation; `mark` is a word in it that tells its requests from those of others."""

    mark: str
    turns: tuple[Turn, ...]

    def expected(self) -> list[list[str]]:
        """Return the words that each request must contain, in this order."""
        said: list[str] = []
        requests = []
        for turn in self.turns:
            said = [*said, turn.asked]
            requests.append(said)
            if turn.results:
                said = [*said, *turn.results]
                requests.append(said)
            said = [*said, turn.answer]
        return requests


def talk_with_our_tools(mark: str) -> Talk:
    """Return the conversation of a client that runs one of our scripts."""
    results = (f"The sun shines in Lisbon, {mark}", f"It is noon in Lisbon, {mark}")
    called = Turn(f"call:weather call:clock in Lisbon, {mark}", results[1], results)
    return talk_around(mark, called)


def talk_about_a_file(stage: Stage, tool: str) -> Talk:
    """Write a file, and return a conversation in which the client's own `tool` reads it twice."""
    mark = stage.mark
    path = stage.work / "notes.txt"
    notes = f"forty-two steps, {mark}"
    path.write_text(f"{notes}\n")
    asked = f"call:{tool} call:{tool} {path}"
    return talk_around(mark, Turn(asked, notes, (notes, notes)))


def talk_around(mark: str, called: Turn) -> Talk:
    """Return a conversation of three turns, of which this one is the second.

    The first has no call: the gateway or the client may put a system prompt or reminders beside its
    words, and the simulated model would make them the arguments of a tool.
    """
    first, last = f"good morning, {mark}", f"good night, {mark}"
    return Talk(mark, (Turn(first, first), called, Turn(last, last)))


def greeting(stage: Stage) -> Talk:
    """Return a conversation of one turn, in which the model calls nothing."""
    words = f"good morning, {stage.mark}"
    return Talk(stage.mark, (Turn(words, words),))


def talk(stage: Stage, client: Installed, dialect: str, *, seconds: float = RUN_SECONDS) -> str:
    """Run one of our scripts, and judge it; return a summary.

    Raises CheckFailed.
    """
    conversation = talk_with_our_tools(stage.mark)
    environment = {
        "PATH": client.search_path,
        "TALK_BASE_URL": stage.daemon.base_url,
        "TALK_MODELS": " ".join(stage.models),
        "TALK_SYSTEM": SYSTEM,
    }
    turns = [turn.asked for turn in conversation.turns]
    done = stage.run([*client.command, dialect, *turns], environment, seconds)
    answers = iter(done.output.splitlines())
    differences = []
    for model in stage.models:
        said = [next(answers, '"nothing"') for _ in turns]
        try:
            for turn, answer in zip(conversation.turns, said, strict=True):
                check(turn.answer in json.loads(answer), f"{turn.asked!r} was answered {answer!r}")
            check_nothing_lost(stage, conversation, SYSTEM, model)
        except (CheckFailed, ValueError) as difference:
            differences.append(f"{model}: {difference}")
    check(not differences and done.status == 0, "\n  ".join([*differences, tail(done)]))
    check_equal("", done.complaints, "on standard error")
    return f"{len(stage.models)} models, {requests_of(conversation)} requests upstream for each"


def requests_of(conversation: Talk) -> int:
    """Return how many requests a conversation takes."""
    return len(conversation.expected())


def check_nothing_lost(
    stage: Stage, conversation: Talk, system: str = "", model: str = MODEL
) -> None:
    """Check that each turn was one request, and that each had all words until then, in order.

    The sentences of the system prompt come before, in any order. Raises CheckFailed.
    """
    bodies = [
        body
        for body in stage.bodies(CHAT)
        if body["model"] == model and conversation.mark in json.dumps(body)
    ]
    expected = conversation.expected()
    check_equal(len(expected), len(bodies), f"requests upstream (they end in {_ends(bodies)})")
    for number, (words, body) in enumerate(zip(expected, bodies, strict=True), start=1):
        prompt = stage.rendered(body)
        _check_in_order(words, prompt, f"request {number}")
        for sentence in system.split(". "):
            _check_in_order([sentence, words[0]], prompt, f"request {number}")


def tail(done: Finished) -> str:
    """Return a client's exit status and the end of its output, for the report of a failure."""
    lines = [*done.output.splitlines()[-5:], *done.complaints.splitlines()[-25:]]
    return f"it ended with {done.status}, and wrote:\n" + "\n".join(line[:1000] for line in lines)


def _check_in_order(words: Sequence[str], text: str, what: str) -> None:
    place = 0
    for each in words:
        found = text.find(each, place)
        check(found >= 0, f"{what} lacks {each!r} after character {place} of {text[-4000:]!r}")
        place = found + len(each)


def _ends(bodies: Sequence[Any]) -> str:
    return "; ".join(json.dumps(body["messages"])[-300:] for body in bodies)
