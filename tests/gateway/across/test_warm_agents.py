"""Eight coding agents over two copies of a model: how much of their prompts is read again."""

from __future__ import annotations

import random
from typing import Any, Final

from cortexd.testing import SimulatedModel
from tests.support.fleets import MODEL, FleetTestCase, InMemoryFleet

AGENTS: Final = 8
TURNS: Final = 8
RULES: Final = "You are a coding agent. Follow the rules of this project. " * 20


class Agent:
    """A coding agent: its conversation grows by a call of a tool and its result in each turn."""

    def __init__(self, number: int, *, names_session: bool) -> None:
        self._headers = {"X-Claude-Code-Session-Id": f"s{number}"} if names_session else {}
        self._number = number
        self._messages: list[Any] = [
            {"role": "user", "content": f"Task {number}: see file {number}. " * 300}
        ]
        self._turn = 0
        self.size = 0

    def request(self, fleet: InMemoryFleet) -> Any:
        """Send the next turn, whose billing line differs from that of each other turn."""
        self._turn += 1
        check = f"{self._number:02x}{self._turn:03x}"
        line = f"x-anthropic-billing-header: cc_version=2.1.332; cch={check};"
        body = {
            "model": MODEL,
            "max_tokens": 8,
            "system": [{"type": "text", "text": line}, {"type": "text", "text": RULES}],
            "messages": self._messages,
        }
        return fleet.request("POST", "/v1/messages", json=body, headers=self._headers)

    def take(self, usage: dict[str, int]) -> int:
        """Take the answer, and add what the next turn says; give the tokens that were cached."""
        cached = usage["cache_read_input_tokens"]
        self.size = usage["input_tokens"] + cached
        said = f"The tool said {self._number} {self._turn}. " * 40
        self._messages += [
            {"role": "assistant", "content": f"Let me look, {self._turn}."},
            {"role": "user", "content": said},
        ]
        return cached


class WarmAgentsTests(FleetTestCase):
    """Each test has one way of choosing; 64 turns have 156,000 tokens of prompts."""

    def tokens_read_again(self, *, names_session: bool = True, **settings: Any) -> int:
        """Let all agents take their turns, one at a time; give the tokens that are read again.

        These are tokens of an agent's turn before, of which the node did not find the prefix. No
        turn waits in a queue.
        """
        model = SimulatedModel(id=MODEL, context_tokens=65_536)
        knobs = {"version": "0.9.5", "prompt_token_seconds": 0.001, "token_seconds": 0.01}
        fleet = self.fleet(*[self.node(name, model, **knobs) for name in "ab"], **settings)
        agents = [Agent(number, names_session=names_session) for number in range(AGENTS)]
        known = cached = 0
        for turn in range(TURNS):
            asked = []
            shuffled = random.Random(turn)  # noqa: S311 - an order of turns, no secret
            for agent in shuffled.sample(agents, AGENTS):
                asked.append((agent, agent.request(fleet)))
                fleet.advance(0.3)
            fleet.advance(20)
            for agent, exchange in asked:
                known += agent.size
                cached += agent.take(exchange.json()["usage"])
        assert {None} == {line.get("queued") for line in fleet.events("request")}
        return known - cached

    def test_agents_stay_where_they_were_read(self) -> None:
        """By the names of their conversations, they read at most a few words again in each turn."""
        assert 1_000 > self.tokens_read_again()

    def test_agents_are_known_by_their_prompts(self) -> None:
        """Without names, the beginnings of the prompts are enough."""
        assert 1_000 > self.tokens_read_again(names_session=False)

    def test_agents_without_affinity(self) -> None:
        """Without affinity they read more than ten times as much again."""
        assert 10_000 < self.tokens_read_again(affinity=False)

    def test_agents_with_a_line_that_changes(self) -> None:
        """With a line at the front that changes in each turn, no node spares anything."""
        assert 100_000 < self.tokens_read_again(prompt_hygiene="off")
