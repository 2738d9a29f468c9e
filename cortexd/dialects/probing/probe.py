"""A probe: some twenty questions of one token that find out what a model's chat template can do.

Each question differs from an earlier one by one thing. The tokens of the two prompts then say
whether the model got to see it, and an error of the template says that it must not be sent. A
failure of any other kind, and a number that fits neither case, leave the ability unknown (nodes.md
4.3.10, 12.8).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final

from cortexd.dialects.probing.answers import Reading, read_answer
from cortexd.dialects.probing.conversations import (
    MARKED,
    MARKER,
    MARKER_WORDS,
    NINE_IDS,
    PLAIN_IDS,
    SHORT,
    TOOLS,
    calls,
    picture,
    request,
    text_part,
    turn,
)
from cortexd.dialects.probing.learned import EFFORTS, Learned
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import MidSystem, ReasoningControl, ToolIdFormat

_SHOWN: Final = 0.8
_LOST: Final = 0.45
"""The share of a marker's tokens from which it was shown, and up to which it was lost: what a
template puts around a turn or a call is less than a third of a marker."""

_LEAST_OF_A_TURN: Final = 3
"""The tokens that a turn of its own costs at least; a text that joins another costs fewer."""

_CODE_OF_A_LIST: Final = 5
"""The tokens from which a text in an array is longer than the text alone because the template
prints the code of the array, which costs about ten."""

_PICTURE: Final = 0.2
"""The picture's least tokens for a model that sees, as a share of the marker's. A placeholder,
which a template may write for a model that does not, is shorter."""

Asking = Generator[bytes, Reading, None]


class Probe:
    """The questions for one model, and what their answers say.

    Send ``question``, pass the answer to ``answer``, and go on until ``question`` is ``None``.
    ``learned`` has the abilities found so far, and ``failures`` counts the answers that taught
    nothing. The first question with no count ends the probe: the model is no chat model, or the
    node is not well. So does a question whose second count is another one: a node that leaves out
    what it has cached would seem to lose half of each conversation.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self.failures = 0
        self._found: dict[str, Any] = {}
        self._course = self._questions()
        self._question: bytes | None = next(self._course)

    @property
    def question(self) -> bytes | None:
        """The body of the next chat request, ``None`` once the probe is done."""
        return self._question

    @property
    def learned(self) -> Learned:
        """The abilities that are known so far."""
        return Learned(**self._found)

    def answer(self, status: int, body: bytes) -> None:
        """Take the answer to ``question``; status 0 for an answer that never came.

        Never raises. Does nothing once the probe is done.
        """
        reading = read_answer(status, body)
        self.failures += self._question is not None and reading.says_nothing
        try:
            self._question = self._course.send(reading)
        except StopIteration:
            self._question = None

    def _ask(self, *messages: JsonObject, **fields: object) -> bytes:
        return request(self._model, list(messages), **fields)

    def _note(self, **found: object) -> None:
        self._found.update({name: value for name, value in found.items() if value is not None})

    def _questions(self) -> Asking:
        base = yield self._ask(turn("user"))
        if not base.tokens:
            return
        long = yield self._ask(turn("user", MARKED))
        again = yield self._ask(turn("user"))
        if again.tokens != base.tokens:
            return
        scale = _Scale(long.tokens - base.tokens)
        yield from self._systems(scale)
        yield from self._sides(scale, base)
        yield from self._tools(scale, base)
        yield from self._thinking(base)
        yield from self._pictures(scale, base, long)

    def _systems(self, scale: _Scale) -> Asking:
        talk = (turn("user"), turn("assistant"), turn("user"))
        front = yield self._ask(turn("system"), *talk)
        if front.raised:
            self._note(system_role=False, mid_system=MidSystem.USER)
            return
        marked = yield self._ask(turn("system", MARKED), *talk)
        is_shown = scale.shown(front, marked)
        self._note(system_role=is_shown)
        if is_shown is not True:
            self._note(mid_system=MidSystem.USER if is_shown is False else None)
            return
        middle = yield self._ask(turn("system"), *talk[:2], turn("system", MARKER), talk[2])
        self._note(mid_system=scale.middle(marked, middle))
        developer = yield self._ask(turn("system"), turn("developer", MARKER), *talk)
        self._note(developer=scale.shown(front, developer))

    def _sides(self, scale: _Scale, base: Reading) -> Asking:
        users = yield self._ask(turn("user", MARKER), turn("user", MARKER))
        follows = scale.shown(base, users, markers=2)
        if follows is not True:
            self._note(alternate=None if follows is None else True)
            return
        first = yield self._ask(turn("assistant", MARKER), turn("assistant", MARKER), turn("user"))
        begins = scale.shown(base, first, markers=2)
        self._note(alternate=None if begins is None else not begins)

    def _tools(self, scale: _Scale, base: Reading) -> Asking:
        tools = yield self._ask(turn("user"), tools=TOOLS)
        self._note(tools=scale.shown(base, tools))
        ids = PLAIN_IDS
        short = yield self._called(ids[:1], (SHORT,))
        if short.raised:
            ids = NINE_IDS
            short = yield self._called(ids[:1], (SHORT,))
            self._note(tool_turns=False if short.raised else None)
        if not short.tokens:
            return
        self._note(tool_id_format=ToolIdFormat.MISTRAL9 if ids is NINE_IDS else ToolIdFormat.ANY)
        long = yield self._called(ids[:1], (MARKED,))
        is_shown = scale.shown(short, long, markers=2)
        self._note(tool_turns=is_shown)
        if is_shown is not True:
            return
        both = yield self._called(ids, (SHORT, MARKER))
        self._note(parallel_calls=scale.shown(short, both, markers=2))
        after = yield self._called(ids[:1], (SHORT,), "", turn("user", MARKER))
        self._note(user_after_tool=scale.shown(short, after))
        if self._found.get("system_role"):
            # A template may show the system text only where a question of the user comes last.
            system = yield self._called(ids[:1], (SHORT,), system=MARKED)
            if scale.shown(short, system) is False:
                self._note(system_role=False, mid_system=MidSystem.USER)
        # The call is long too, since a template may show the text and lose the call. The turn is
        # past, since a template may take the text for thinking, which it shows only until then.
        # The last question is another one, since a template may compare texts to find the last.
        later = (turn("assistant"), turn("user", "Say no."))
        beside = yield self._called(ids[:1], (MARKED,), MARKER, *later)
        self._note(text_beside_calls=scale.shown(long, beside))

    def _called(
        self,
        ids: tuple[str, ...],
        texts: tuple[str, ...],
        beside: str = "",
        *later: JsonObject,
        system: str = SHORT,
    ) -> bytes:
        """Return a question with calls, and with a system text if the template knows the role.

        A default prompt of the template is then in none of the prompts that are compared.
        """
        front = [turn("system", system)] if self._found.get("system_role") else []
        return self._ask(*front, turn("user"), *calls(ids, texts, beside), *later, tools=TOOLS)

    def _thinking(self, base: Reading) -> Asking:
        answers: dict[str, Reading] = {}
        for effort in ("low", "high", "xhigh", "medium"):
            if effort == "medium" and all(each.tokens for each in answers.values()):
                answers[effort] = base  # a template that knows those three knows this one
            else:
                answers[effort] = yield self._ask(turn("user"), reasoning_effort=effort)
        if all(each.tokens or each.knows_no_effort for each in answers.values()):
            self._note(efforts=tuple(each for each in EFFORTS if answers[each].tokens))
        # Equal counts may hide another word, which then leads the model to another first token.
        off = yield self._ask(turn("user"), enable_thinking=False)
        if off.tokens and (off.tokens, off.said) != (base.tokens, base.said):
            self._note(reasoning_control=ReasoningControl.TOGGLE)
        elif off.tokens and any(
            each.raised or each.tokens not in (0, base.tokens) for each in answers.values()
        ):
            self._note(reasoning_control=ReasoningControl.EFFORT)

    def _pictures(self, scale: _Scale, base: Reading, long: Reading) -> Asking:
        text = yield self._ask({"role": "user", "content": [text_part(MARKED)]})
        if long.tokens and text.tokens - long.tokens >= _CODE_OF_A_LIST:
            self._note(text_arrays=False, vision=False)
            return
        self._note(text_arrays=scale.shown(base, text))
        seen = yield self._ask({"role": "user", "content": [text_part(MARKED), picture()]})
        if seen.raised or seen.is_blind:
            self._note(vision=False)
        else:
            share = scale.share(text, seen)
            if share is not None and not 0 < share < _PICTURE:
                self._note(vision=share > 0)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Tells a marker that was shown from one that was lost, by its ``tokens`` in a user's turn."""

    tokens: int

    def shown(self, without: Reading, given: Reading, markers: int = 1) -> bool | None:
        """Return whether all ``markers`` by which two prompts differ were shown.

        ``False`` if at least one was lost, or if the template raised an error.
        """
        if given.raised:
            return False
        share = self.share(without, given)
        if share is None or _LOST < share - (markers - 1) < _SHOWN:
            return None
        return share - (markers - 1) >= _SHOWN

    def middle(self, front: Reading, middle: Reading) -> MidSystem | None:
        """Return what suits a template, from a prompt with the marker in front or in the middle.

        A template that moves the text to the front shows it, but in the wrong place: it then costs
        no turn of its own.
        """
        if middle.raised:
            return MidSystem.USER
        share = self.share(front, middle)
        if share is None or share > 1:
            return None
        is_turn = middle.tokens - front.tokens >= _LEAST_OF_A_TURN
        return MidSystem.PASS if is_turn else MidSystem.USER

    def share(self, without: Reading, given: Reading) -> float | None:
        """Return by how many markers one prompt is longer, ``None`` if a count is missing.

        Also ``None`` if the marker itself counts less than its words: those counts are no tokens.
        """
        if self.tokens < MARKER_WORDS // 2 or not without.tokens or not given.tokens:
            return None
        return (given.tokens - without.tokens) / self.tokens
