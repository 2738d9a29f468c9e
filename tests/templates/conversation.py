"""Conversations in a neutral form, of which the bodies of each dialect are made."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

JsonObject = dict[str, Any]
Dialect = Literal["chat", "messages", "responses"]


@dataclass(frozen=True)
class Picture:
    """An image of a few bytes."""


Part = str | Picture


@dataclass(frozen=True)
class System:
    """A system message; with `role`, one of a developer. In an array, each text is a part."""

    texts: tuple[str, ...]
    role: str = "system"
    in_array: bool = False


@dataclass(frozen=True)
class User:
    """What the user says; `name` is the name that OpenAI's clients may send."""

    parts: tuple[Part, ...]
    in_array: bool = False
    name: str | None = None


@dataclass(frozen=True)
class Call:
    """A call; `arguments` are the text that a client sends, None for null."""

    id: str
    arguments: str | None
    name: str = "lookup"
    shown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Assistant:
    """An answer of the model: thoughts, then texts, then calls."""

    texts: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()
    thoughts: str = ""
    refusal: str = ""
    in_array: bool = False


@dataclass(frozen=True)
class Result:
    """The result of a call; `shown` are the words to look for, if not the parts themselves."""

    call: str
    parts: tuple[Part, ...]
    shown: tuple[str, ...] | None = None
    in_array: bool = False
    is_error: bool = False


Turn = System | User | Assistant | Result


@dataclass(frozen=True)
class Shape:
    """A conversation that clients send.

    `dialects` are those that have it. `chat`, `messages` and `responses` are the fields of a body
    that replace those made of `turns`. `effort` is the effort of reasoning, by its name in OpenAI's
    dialects. Of each marker word in `turns`, the judge looks for the place in the prompt.
    """

    name: str
    turns: tuple[Turn, ...]
    dialects: frozenset[Dialect] = frozenset({"chat", "messages", "responses"})
    tools: tuple[JsonObject, ...] | None = None
    effort: str | None = None
    chat: JsonObject = field(default_factory=dict)
    messages: JsonObject = field(default_factory=dict)
    responses: JsonObject = field(default_factory=dict)

    @property
    def needs_vision(self) -> bool:
        """Whether the newest turn has a picture, which is refused for a model that is blind."""
        last = self.turns[-1] if self.turns else None
        return isinstance(last, User) and any(isinstance(part, Picture) for part in last.parts)

    def orders(self) -> list[list[str]]:
        """Return the orders in which a prompt may have the words.

        Results may stand in the order of their calls, and a template that takes one call per turn
        gets each result after its call.
        """
        orders: list[list[str]] = []
        for turns in (self.turns, _in_order(self.turns), _one_by_one(self.turns)):
            order = [word for turn in turns for word in _said(turn) if word]
            if order not in orders:
                orders.append(order)
        return orders


def _said(turn: Turn) -> Iterator[str]:
    """Yield what a turn says; thoughts are not counted, because templates drop them."""
    if isinstance(turn, System):
        yield from turn.texts
    elif isinstance(turn, Assistant):
        yield from (*turn.texts, turn.refusal)
        for call in turn.calls:
            yield from (call.name, *call.shown)
    elif isinstance(turn, Result) and turn.shown is not None:
        yield from turn.shown
    else:
        yield from (part for part in turn.parts if isinstance(part, str))


def _in_order(turns: tuple[Turn, ...]) -> list[Turn]:
    """Return the turns with the results of one answer in the order of its calls."""
    ordered: list[Turn] = []
    ids: list[str] = []
    for are_results, group in groupby(turns, lambda turn: isinstance(turn, Result)):
        run = list(group)
        if are_results:
            run.sort(
                key=lambda turn: (
                    ids.index(turn.call) if isinstance(turn, Result) and turn.call in ids else -1
                )
            )
        elif isinstance(run[-1], Assistant):
            ids = [call.id for call in run[-1].calls]
        ordered += run
    return ordered


def _one_by_one(turns: tuple[Turn, ...]) -> list[Turn]:
    """Return the turns with each result after its call."""
    ordered: list[Turn] = []
    for turn in turns:
        if isinstance(turn, Assistant) and turn.calls:
            ordered.append(Assistant(turn.texts, refusal=turn.refusal))
            ordered += (Assistant(calls=(call,)) for call in turn.calls)
            continue
        place = len(ordered)
        if isinstance(turn, Result):
            callers = (
                index
                for index, before in enumerate(ordered)
                if isinstance(before, Assistant)
                and [turn.call] == [call.id for call in before.calls]
            )
            place = next(callers, place - 1) + 1
        ordered.insert(place, turn)
    return ordered
