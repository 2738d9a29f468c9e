"""Coding agents that talk to a daemon: long prompts with tools, conversations that grow."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2

TURNS: Final = 6
LONGEST_ANSWER_SECONDS: Final = 60.0

TOOLS: Final = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Use {name} on a file of the project.",
            "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
        },
    }
    for name in ("read_file", "write_file", "run_tests")
]


@dataclass(frozen=True)
class Lengths:
    """How many words the system prompt has, and what an agent says in each turn."""

    system: int = 500
    turn: int = 500


USUAL: Final = Lengths()


@dataclass(frozen=True)
class Turn:
    """One answer to an agent: the tokens of its prompt, those of the prompt before, and the rest.

    ``cached`` of the tokens were in the node's cache. ``node`` answered, after ``queued_ms`` in the
    queue, and ``seconds`` after the agent had asked.
    """

    agent: int
    number: int
    prompt: int
    before: int
    cached: int
    node: str
    queued_ms: int
    affinity: str
    seconds: float

    @property
    def read_again(self) -> int:
        """How many tokens were read again that the agent had sent before."""
        return max(0, self.before - self.cached)


def read_again(turns: Iterable[Turn]) -> int:
    """Return how many tokens were read again in all these turns."""
    return sum(turn.read_again for turn in turns)


def words(count: int, seed: str) -> str:
    """Return so many words of a text that no other seed has."""
    chosen = random.Random(seed)  # noqa: S311 - text, no secret
    return " ".join(f"{seed}{chosen.randrange(10_000)}" for _ in range(count))


@dataclass
class Agent:
    """One agent, with its conversation and the turns that it has had.

    Agents have the same system prompt for the same ``rules``.
    """

    http: httpx2.Client
    model: str
    number: int
    lengths: Lengths = USUAL
    rules: str = "rule"
    turns: list[Turn] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.messages.append({"role": "system", "content": words(self.lengths.system, self.rules)})

    def go_on(self) -> None:
        """Have one more turn."""
        text = words(self.lengths.turn, f"a{self.number}t{len(self.turns)}w")
        self.messages.append({"role": "user", "content": text})
        asked_at = time.monotonic()
        answer = self.http.post(
            "/v1/chat/completions",
            json={"model": self.model, "messages": self.messages, "tools": TOOLS, "max_tokens": 8},
            headers={"X-Session-ID": f"agent-{self.number}"},
        )
        seconds = time.monotonic() - asked_at
        assert answer.status_code == 200, answer.text
        body = answer.json()
        said = body["choices"][0]["message"]["content"]
        self.messages.append({"role": "assistant", "content": said or ""})
        self.turns.append(self._turn(body["usage"], answer.headers, seconds))

    def _turn(self, usage: Mapping[str, Any], headers: Mapping[str, str], seconds: float) -> Turn:
        details = usage.get("prompt_tokens_details") or {}
        return Turn(
            self.number,
            len(self.turns),
            usage["prompt_tokens"],
            self.turns[-1].prompt if self.turns else 0,
            details.get("cached_tokens") or 0,
            headers["x-cortex-node"],
            int(headers["x-cortex-queue-ms"]),
            headers.get("x-cortex-affinity", ""),
            seconds,
        )


def talk(base_url: str, model: str, agents: int, turns: int = TURNS) -> list[Turn]:
    """Let agents talk at once, each with its own conversation; return all turns.

    All have the same system prompt and tools. Each waits for an answer before its next request,
    and all begin a turn together, so that the copies of the model are about equally busy.
    """
    together = threading.Barrier(agents)

    def run(number: int) -> list[Turn]:
        with httpx2.Client(base_url=base_url, timeout=LONGEST_ANSWER_SECONDS) as http:
            agent = Agent(http, model, number)
            for _ in range(turns):
                together.wait(LONGEST_ANSWER_SECONDS)
                agent.go_on()
            return agent.turns

    with ThreadPoolExecutor(agents) as pool:
        return [turn for each in pool.map(run, range(agents)) for turn in each]


def talk_in_turn(
    base_url: str, model: str, agents: int, turns: int, lengths: Lengths
) -> list[Turn]:
    """Let agents talk one after the other, each before idle copies; return all turns.

    Each has a system prompt of its own, so that new conversations spread over the copies.
    """
    with httpx2.Client(base_url=base_url, timeout=LONGEST_ANSWER_SECONDS) as http:
        talking = [Agent(http, model, number, lengths, f"{number}rule") for number in range(agents)]
        for _ in range(turns):
            for agent in talking:
                agent.go_on()
    return [turn for agent in talking for turn in agent.turns]
