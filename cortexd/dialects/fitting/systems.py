"""System messages: where a template wants them.

Every template shows one system message at the front, or none. Most raise, or lose the text, for any
other place or number of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile

from cortexd.dialects.fitting.contents import BETWEEN_PARTS, BETWEEN_TURNS, Content, joined
from cortexd.dialects.hygiene.lines import cleaned
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.contents import reminder
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import MidSystem, Profile


def _is_system(message: JsonObject) -> bool:
    return bool(message["role"] == "system")


def placed(
    messages: Sequence[JsonObject], profile: Profile, approximations: Approximations
) -> tuple[str, Sequence[JsonObject]]:
    """Return the text of the system prompt, and the messages after it.

    The system messages at the front are joined; what becomes of later ones says
    ``profile.mid_system``.
    """
    leading = len(list(takewhile(_is_system, messages)))
    texts = [message["content"] for message in messages[:leading]]
    turns = messages[leading:]
    if any(map(_is_system, turns)):
        policy = profile.mid_system
        if policy is MidSystem.HOIST:
            approximations.note("mid_system")
            texts += [message["content"] for message in turns if _is_system(message)]
            turns = [message for message in turns if not _is_system(message)]
        elif policy is MidSystem.USER or not profile.system_role:
            approximations.note("mid_system")
            turns = _reminded(turns)
    if profile.hygiene:
        texts = _cleaned(texts, approximations)
    return BETWEEN_PARTS.join(text for text in texts if text), turns


def _cleaned(texts: Iterable[str], approximations: Approximations) -> list[str]:
    """Return the texts of the system prompt without the lines that change in each request."""
    each = [cleaned(text) for text in texts if text]
    names = [name for found in each for name in found.names]
    if names:
        approximations.left_out = tuple(dict.fromkeys([*approximations.left_out, *names]))
    return [found.text for found in each]


def _reminded(messages: Iterable[JsonObject]) -> list[JsonObject]:
    """Return the messages with each system message as a reminder in the neighbouring user turn.

    That is the user turn before it, else the one after it, between the same answers of the model.
    """
    placed: list[JsonObject] = []
    waiting: list[Content] = []
    hosted: list[Content] = []
    neighbour = -1
    for message in messages:
        role = message["role"]
        if role == "system":
            if message["content"]:
                (waiting if neighbour < 0 else hosted).append(reminder(message["content"]))
            continue
        if role in ("assistant", "user"):
            _add_hosted(hosted, placed, neighbour)
        if role == "assistant":
            _add_waiting(waiting, placed)
            neighbour = -1
        elif role == "user":
            if waiting:
                content = joined([*waiting, message["content"]], BETWEEN_PARTS)
                message = {**message, "content": content}
                waiting.clear()
            neighbour = len(placed)
        placed.append(message)
    _add_hosted(hosted, placed, neighbour)
    _add_waiting(waiting, placed)
    return placed


def _add_hosted(hosted: list[Content], placed: list[JsonObject], neighbour: int) -> None:
    """Add texts to the user turn before them, all at once: their number may be large."""
    if hosted:
        host = placed[neighbour]
        content = joined([host["content"], *hosted], BETWEEN_PARTS)
        placed[neighbour] = {**host, "content": content}
        hosted.clear()


def _add_waiting(waiting: list[Content], placed: list[JsonObject]) -> None:
    if waiting:
        placed.append({"role": "user", "content": joined(waiting, BETWEEN_PARTS)})
        waiting.clear()


def with_system(
    system: str, turns: list[JsonObject], profile: Profile, approximations: Approximations
) -> list[JsonObject]:
    """Return the turns behind the system prompt, or with it in the first user turn.

    ``turns`` begin with a user turn, unless there are none.
    """
    if not system:
        return turns
    if profile.system_role:
        return [{"role": "system", "content": system}, *turns]
    approximations.note("system_role")
    first = turns[0]
    content = joined([system, first["content"]], BETWEEN_TURNS)
    return [{**first, "content": content}, *turns[1:]]
