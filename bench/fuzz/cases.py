"""The fuzz cases: the seed and a case's number alone determine it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from random import Random

from bench.fuzz.answers import Answers, NodeAnswer, chat_answers
from bench.fuzz.asking import CHAT, COUNT_TOKENS, MESSAGES, RESPONSES, upstream_path
from bench.fuzz.bodies import ChatGrammar, Json, MessagesGrammar
from bench.fuzz.messages_answers import count_answers, messages_answers
from bench.fuzz.mutations import damage, encode, mutate
from bench.fuzz.responses import ResponsesGrammar, responses_answers
from bench.simulator.fleets import seeded
from cortexd.dialects.wire.profile import (
    MISTRALRS,
    MidSystem,
    Profile,
    ReasoningControl,
    Speaks,
    ToolIdFormat,
)

MAX_BODY_BYTES = 1024 * 1024
"""The gateway's limit here: small, so that bodies over it are cheap to make."""

NODE_FAILS = 0.2
"""Of the requests, how many meet a node that fails."""

_MESSAGES_ALONE, _BOTH = 0.2, 0.1
"""Of the requests, how many meet a node that speaks Messages alone, or too."""

_STRICT = 0.7
"""Of the good bodies for a node of the full Messages API, how many keep all of its rules."""

_WAITING = 0.25
"""Of the streams, how many have signs of life in them; only the translation has."""

_HUGE = 0.004
"""Of the good bodies, and of what is made of them, how many are large."""

_PROFILES = (
    MISTRALRS,
    replace(MISTRALRS, mid_system=MidSystem.HOIST, tool_id_format=ToolIdFormat.MISTRAL9),
    replace(MISTRALRS, mid_system=MidSystem.PASS, alternate=True, forward_stop=True),
    replace(MISTRALRS, vision=False, max_output=64, context_window=18),
    replace(MISTRALRS, reasoning_control=ReasoningControl.EFFORT, required_tool_choice=False),
    replace(MISTRALRS, reasoning_control=ReasoningControl.NONE, top_k=False),
    replace(MISTRALRS, continue_final_message=True, fetches_images=True),
)
PROFILES = {
    Speaks.CHAT: _PROFILES,
    Speaks.BOTH: tuple(
        replace(profile, speaks=Speaks.BOTH, native_responses=True) for profile in _PROFILES
    ),
    Speaks.MESSAGES: tuple(replace(profile, speaks=Speaks.MESSAGES) for profile in _PROFILES),
}
"""The profiles of upstreams, by what these speak; the first is that of which nothing is told.

Nodes that speak Messages too get requests for responses as they are."""


@dataclass(frozen=True, slots=True)
class Case:
    """One numbered body, with its route, its kind and its node's answers.

    ``kind`` is "good", "mutated" or "damaged"; ``streams`` is known for good bodies only.
    ``answers`` has the answers to a stream request under True, those to any other under False.
    """

    number: int
    route: str
    kind: str
    body: bytes
    streams: bool | None
    answers: dict[bool, NodeAnswer]
    profile: Profile
    has_silences: bool = False

    @property
    def path(self) -> str:
        """The path that is asked for."""
        return f"{self.route}?beta=true" if self.route == MESSAGES else self.route

    @property
    def speaks(self) -> Speaks:
        """What the node speaks."""
        return self.profile.speaks

    @property
    def has_first_profile(self) -> bool:
        """Whether the upstream's profile is that which the gateway's node has too."""
        return self.profile is PROFILES[self.speaks][0]

    @property
    def is_good(self) -> bool:
        """Whether the body is one that a client may well send."""
        return self.kind == "good" and len(self.body) <= MAX_BODY_BYTES

    @property
    def is_passed_on(self) -> bool:
        """Whether the node speaks the client's dialect."""
        return upstream_path(self.route, self.speaks) == self.route


class Cases:
    """The cases of a seed: a number gives the same case in every process."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._answers = _answers_of(seed)

    def __getitem__(self, number: int) -> Case:
        chance = seeded("fuzz", self._seed, number)
        route, speaks = _route(chance.random()), _speaks(chance.random())
        good = _good_body(route, speaks, chance)
        streams: bool | None = good.get("stream") is True and route != COUNT_TOKENS
        kind, drawn = "good", chance.random()
        body = encode(good, chance)
        if drawn > 0.85:
            kind, streams, body = "damaged", None, damage(body, chance)
        elif drawn > 0.2:
            kind, streams, body = "mutated", None, encode(mutate(good, chance), chance)
        fails = chance.random() < NODE_FAILS
        said = self._answers[upstream_path(route, speaks)]
        answers = {asked: said.draw(chance, streams=asked, fails=fails) for asked in (True, False)}
        profile = chance.choice(PROFILES[speaks])
        has_silences = chance.random() < _WAITING
        return Case(number, route, kind, body, streams, answers, profile, has_silences)


@cache
def _answers_of(seed: int) -> dict[str, Answers]:
    return {
        CHAT: chat_answers(seed),
        MESSAGES: messages_answers(seed),
        COUNT_TOKENS: count_answers(seed),
        RESPONSES: responses_answers(seed),
    }


def _route(drawn: float) -> str:
    shares = ((0.4, MESSAGES), (0.45, COUNT_TOKENS), (0.7, RESPONSES))
    return next((route for end, route in shares if drawn < end), CHAT)


def _speaks(drawn: float) -> Speaks:
    if drawn < _MESSAGES_ALONE:
        return Speaks.MESSAGES
    return Speaks.BOTH if drawn < _MESSAGES_ALONE + _BOTH else Speaks.CHAT


def _good_body(route: str, speaks: Speaks, chance: Random) -> Json:
    if route == CHAT:
        body = ChatGrammar(chance).body()
    elif route == RESPONSES:
        return ResponsesGrammar(chance).body()
    else:
        is_strict = speaks is Speaks.MESSAGES and chance.random() < _STRICT
        grammar = MessagesGrammar(chance, is_strict=is_strict)
        body = grammar.body() if route == MESSAGES else grammar.prompt()
    if chance.random() < _HUGE and isinstance(body["messages"], list):
        wanted = chance.choice((80_000, 300_000, MAX_BODY_BYTES - 40_000))
        if chance.random() < 0.5:
            body["messages"].append({"role": "user", "content": "wide " * (wanted // 5)})
        else:
            body["messages"] += [{"role": "user", "content": "many"}] * (wanted // 40)
    return body
