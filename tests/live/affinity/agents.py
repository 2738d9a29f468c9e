"""Coding agents that talk to a daemon: long prompts with tools, conversations that grow."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import httpx2

TURNS: Final = 6
WORDS_OF_SYSTEM: Final = 500
WORDS_OF_TURN: Final = 500
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
class Turn:
    """One answer to an agent: the tokens of its prompt, those of the prompt before, and the rest.

    ``cached`` of the tokens were in the node's cache. ``node`` answered, after ``queued_ms``.
    """

    agent: int
    number: int
    prompt: int
    before: int
    cached: int
    node: str
    queued_ms: int
    affinity: str

    @property
    def read_again(self) -> int:
        """How many tokens were read again that the agent had sent before."""
        return max(0, self.before - self.cached)


def words(count: int, seed: str) -> str:
    """Return so many words of a text that no other seed has."""
    chosen = random.Random(seed)  # noqa: S311 - text, no secret
    return " ".join(f"{seed}{chosen.randrange(10_000)}" for _ in range(count))


def talk(base_url: str, model: str, agents: int, turns: int = TURNS) -> list[Turn]:
    """Let agents talk at once, each with its own conversation; return all turns.

    All have the same system prompt and tools. Each waits for an answer before its next request,
    and all begin a turn together, so that the copies of the model are about equally busy.
    """
    together = threading.Barrier(agents)
    system = words(WORDS_OF_SYSTEM, "rule")

    def run(agent: int) -> list[Turn]:
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
        done: list[Turn] = []
        before = 0
        with httpx2.Client(base_url=base_url, timeout=LONGEST_ANSWER_SECONDS) as http:
            for number in range(turns):
                text = words(WORDS_OF_TURN, f"a{agent}t{number}w")
                messages.append({"role": "user", "content": text})
                together.wait(LONGEST_ANSWER_SECONDS)
                answer = http.post(
                    "/v1/chat/completions",
                    json={"model": model, "messages": messages, "tools": TOOLS, "max_tokens": 8},
                    headers={"X-Session-ID": f"agent-{agent}"},
                )
                assert answer.status_code == 200, answer.text
                body = answer.json()
                messages.append(
                    {"role": "assistant", "content": body["choices"][0]["message"]["content"]}
                )
                turn = _turn(agent, number, before, body["usage"], answer.headers)
                before = turn.prompt
                done.append(turn)
        return done

    with ThreadPoolExecutor(agents) as pool:
        return [turn for each in pool.map(run, range(agents)) for turn in each]


def _turn(
    agent: int, number: int, before: int, usage: Mapping[str, Any], headers: Mapping[str, str]
) -> Turn:
    details = usage.get("prompt_tokens_details") or {}
    return Turn(
        agent,
        number,
        usage["prompt_tokens"],
        before,
        details.get("cached_tokens") or 0,
        headers["x-cortex-node"],
        int(headers["x-cortex-queue-ms"]),
        headers.get("x-cortex-affinity", ""),
    )
