"""One body after another, through the translation alone or through the whole gateway."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random

from bench.fuzz.answers import Answers, NodeAnswer
from bench.fuzz.bodies import ChatGrammar, Json, MessagesGrammar
from bench.fuzz.gateway import MAX_BODY_BYTES, TOO_DEEP, GatewayInMemory, refusal_of
from bench.fuzz.mutations import damage, encode, mutate
from bench.fuzz.verdicts import CHAT, COUNT_TOKENS, MESSAGES, Answered, Expected, Wrong, check
from bench.simulator.fleets import seeded
from cortexd.dialects import anthropic_messages, anthropic_tokens, openai_chat
from cortexd.dialects.envelopes import error_response, request_id_headers
from cortexd.dialects.exchange import Exchange, ParsedRequest, Responder
from cortexd.dialects.mistralrs import read_error
from cortexd.dialects.profile import MISTRALRS, MidSystem, Profile, ReasoningControl, ToolIdFormat
from cortexd.errors import BadGateway, CortexError
from cortexd.sse import SseDecoder

TRANSLATION = "translation"
GATEWAY = "gateway"

NODE_FAILS = 0.2
"""Of the requests, how many meet a node that fails."""

_HUGE = 0.004
"""Of the good bodies, and of what is made of them, how many are large."""

PROFILES = (
    MISTRALRS,
    replace(MISTRALRS, mid_system=MidSystem.HOIST, tool_id_format=ToolIdFormat.MISTRAL9),
    replace(MISTRALRS, mid_system=MidSystem.PASS, alternate=True, forward_stop=True),
    replace(MISTRALRS, vision=False, max_output=64, context_window=18),
    replace(MISTRALRS, reasoning_control=ReasoningControl.EFFORT, required_tool_choice=False),
    replace(MISTRALRS, reasoning_control=ReasoningControl.NONE, top_k=False),
    replace(MISTRALRS, continue_final_message=True, fetches_images=True),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One body, by its number: where it goes, what it is, and what its node says.

    ``kind`` is "good", "mutated" or "damaged"; ``streams`` is known of good ones. ``answers`` are
    by whether a stream is asked for.
    """

    number: int
    route: str
    kind: str
    body: bytes
    streams: bool | None
    answers: dict[bool, NodeAnswer]
    profile: Profile

    @property
    def path(self) -> str:
        """The path that is asked for."""
        return f"{self.route}?beta=true" if self.route == MESSAGES else self.route


class Cases:
    """The cases of a seed: the same number is the same case, in whatever process."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._answers = _answers_of(seed)

    def __getitem__(self, number: int) -> Case:
        chance = seeded("fuzz", self._seed, number)
        drawn = chance.random()
        route = MESSAGES if drawn < 0.5 else COUNT_TOKENS if drawn < 0.6 else CHAT
        good = _good_body(route, chance)
        streams: bool | None = good.get("stream") is True and route != COUNT_TOKENS
        kind, drawn = "good", chance.random()
        body = encode(good, chance)
        if drawn > 0.85:
            kind, streams, body = "damaged", None, damage(body, chance)
        elif drawn > 0.2:
            kind, streams, body = "mutated", None, encode(mutate(good, chance), chance)
        fails = chance.random() < NODE_FAILS
        answers = {
            asked: self._answers.draw(chance, streams=asked, fails=fails) for asked in (True, False)
        }
        profile = chance.choice(PROFILES)
        return Case(number, route, kind, body, streams, answers, profile)


_answers_of = cache(Answers.of)


def _good_body(route: str, chance: Random) -> Json:
    if route == CHAT:
        body = ChatGrammar(chance).body()
    else:
        grammar = MessagesGrammar(chance)
        body = grammar.body() if route == MESSAGES else grammar.prompt()
    if chance.random() < _HUGE and isinstance(body["messages"], list):
        wanted = chance.choice((80_000, 300_000, MAX_BODY_BYTES - 40_000))
        if chance.random() < 0.5:
            body["messages"].append({"role": "user", "content": "wide " * (wanted // 5)})
        else:
            body["messages"] += [{"role": "user", "content": "many"}] * (wanted // 40)
    return body


@dataclass(slots=True)
class Tally:
    """What became of the cases: how many by kind and outcome, and what was wrong.

    ``examples`` has for each thing that was wrong the number and the body of its shortest case.
    """

    outcomes: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    wrongs: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[int, str, bytes]] = field(default_factory=dict)

    def note(self, where: str, case: Case, outcome: str) -> None:
        """Count a case."""
        self.outcomes[where, case.route, case.kind, outcome] += 1

    def note_wrong(self, where: str, case: Case, words: str) -> None:
        """Count what was wrong, and keep the body if it is the shortest that shows it."""
        what = f"{where}: {case.route}: {words}"
        self.wrongs[what] += 1
        kept = self.examples.get(what)
        if kept is None or len(case.body) < len(kept[2]):
            self.examples[what] = (case.number, case.kind, case.body)

    def add(self, other: Tally) -> None:
        """Take what another has counted."""
        self.outcomes += other.outcomes
        self.wrongs += other.wrongs
        for what, example in other.examples.items():
            kept = self.examples.get(what)
            if kept is None or len(example[2]) < len(kept[2]):
                self.examples[what] = example


def run(seed: int, first: int, end: int, every: int) -> Tally:
    """Try the cases from ``first`` up to ``end`` on the translation, and one in ``every`` on the
    gateway; return what became of them.
    """
    cases, tally, gateway = Cases(seed), Tally(), GatewayInMemory()
    last: Case | None = None
    with gateway.watched():
        for number in range(first, end):
            case = cases[number]
            _try(TRANSLATION, case, tally, translate)
            if number % every == 0:
                _try(GATEWAY, case, tally, lambda case: _through(gateway, case))
                last = case
                for fault in gateway.faults:
                    tally.note_wrong(GATEWAY, case, f"in the log: {_last_line(fault)}")
                gateway.faults.clear()
    if last is not None:
        for fault in gateway.faults:
            tally.note_wrong(GATEWAY, last, f"in the log at the end: {_last_line(fault)}")
        if gateway.fleet.leases:
            tally.note_wrong(GATEWAY, last, "leases left at the end")
        if gateway.clock.getDelayedCalls():
            tally.note_wrong(GATEWAY, last, "delayed calls left at the end")
    return tally


def _try(where: str, case: Case, tally: Tally, ask: Callable[[Case], str]) -> None:
    try:
        tally.note(where, case, ask(case))
    except Wrong as wrong:
        tally.note(where, case, "wrong")
        tally.note_wrong(where, case, str(wrong))
    except Exception as error:
        tally.note(where, case, "crashed")
        place = traceback.extract_tb(error.__traceback__)[-1]
        words = f"{type(error).__name__} in {place.name}: {str(error)[:80]}"
        tally.note_wrong(where, case, f"crashed: {words}")


def _last_line(fault: str) -> str:
    return fault.strip().splitlines()[-1][:200]


# Through the whole gateway.


def _through(gateway: GatewayInMemory, case: Case) -> str:
    node = gateway.node
    node.expect(case.answers)
    answered = gateway.ask(case.path, case.body)
    node_failed = node.said is not None and node.said.is_fault
    _check_asked(case, node.asked)
    check(answered, _expected(case, node_failed))
    return _outcome(answered)


def _expected(case: Case, node_failed: bool, *, must_succeed: bool = True) -> Expected:
    is_good = case.kind == "good" and len(case.body) <= MAX_BODY_BYTES
    return Expected(
        case.route, must_succeed and is_good and not node_failed, node_failed, case.streams
    )


def _check_asked(case: Case, asked: list[bytes]) -> None:
    """Raise Wrong where a good body, or any of Messages, became one that a node does not take."""
    if len(asked) > 1:
        raise Wrong("the node was asked more than once")
    if asked and (case.kind == "good" or case.route == MESSAGES):
        refusal = refusal_of(asked[0])
        if refusal not in (None, TOO_DEEP):
            raise Wrong(f"a {case.kind} body became one that a node does not take")


def _outcome(answered: Answered) -> str:
    return f"{answered.status}{', cut' if answered.is_cut and answered.status == 200 else ''}"


# Through the translation alone.


def translate(case: Case) -> str:
    """Take a case through the dialects, as gateway and relay do; return its outcome.

    Raises Wrong, and whatever a dialect raises beside CortexError.
    """
    node_failed = False
    try:
        if case.route == COUNT_TOKENS:
            body = anthropic_tokens.read_count(case.body).estimate()
            answered = Answered(200, {"content-type": "application/json"}, body)
        else:
            exchange = _read(case).exchange(
                "acme/chat", [case.profile], random_id="0" * 32, now=1_790_000_000.0
            )
            if case.profile is MISTRALRS or case.route == CHAT:
                _check_asked(case, [exchange.first.body])
            said = refusal_of(exchange.first.body) or case.answers[exchange.first.streams]
            node_failed = said.is_fault
            answered = _respond(exchange, said)
    except CortexError as error:
        answered = _refused(case, error)
    # Another profile may refuse what a mistral.rs node can do.
    may_refuse = case.profile is not MISTRALRS and case.route == MESSAGES
    check(answered, _expected(case, node_failed, must_succeed=not may_refuse))
    return _outcome(answered)


def _read(case: Case) -> ParsedRequest:
    if case.route == MESSAGES:
        return anthropic_messages.read_request(case.body)
    return openai_chat.read_request(case.body)


def _refused(case: Case, error: CortexError) -> Answered:
    status, headers, body = error_response(case.route, error, "req_0")
    headers |= request_id_headers(case.route, "req_0")
    return Answered(status, {name.lower(): value for name, value in headers.items()}, body)


def _respond(exchange: Exchange, said: NodeAnswer) -> Answered:
    if said.status != 200:
        raise read_error(said.status, b"".join(said.pieces))
    responder = exchange.first.make_responder()
    headers = {"content-type": responder.content_type}
    if not exchange.first.streams:
        return Answered(200, headers, responder.take_body(b"".join(said.pieces)))
    if said.content_type != "text/event-stream":
        raise read_error(500, b"".join(said.pieces))
    out: list[bytes] = []
    try:
        _feed(responder, said, out)
    except CortexError as error:
        if not any(out):
            raise
        out.append(responder.fail(error))
        return Answered(200, headers, b"".join(out), is_cut=True)
    return Answered(200, headers, b"".join(out))


def _feed(responder: Responder, said: NodeAnswer, out: list[bytes]) -> None:
    decoder = SseDecoder()
    for piece in said.pieces:
        for event in decoder.feed(piece):
            out.append(responder.feed(event))
            if responder.done:
                break
        if responder.done:
            break
    if said.breaks_off and not responder.done:
        raise BadGateway("the node broke off", elsewhere=True)
    if not responder.done or not responder.streams:
        out.append(responder.finish())
