"""Reads the messages of a conversation into those that nodes accept, one for one.

Nothing that an earlier turn may have is refused: what nodes do not know becomes words, or is left
out and noted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from cortexd.dialects.fitting import words
from cortexd.dialects.fitting.calls import CallReader
from cortexd.dialects.fitting.contents import MEDIA, Content, accepted_part, of_pieces
from cortexd.dialects.fitting.pictures import check_showable
from cortexd.dialects.fitting.waiting_words import without_waiting_lines
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.contents import Unshowable
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.dialects.wire.profile import Profile

_COMMON: Final = frozenset({"role", "content", "name", "id", "annotations", "cache_control"})
_ASSISTANT: Final = _COMMON | {
    "tool_calls",
    "function_call",
    "refusal",
    "reasoning_content",
    "reasoning",
}
_KNOWN: Final = {
    "system": _COMMON,
    "user": _COMMON,
    "assistant": _ASSISTANT,
    "tool": _COMMON | {"tool_call_id"},
}
_ROLES: Final = {"developer": "system", "function": "tool"} | {role: role for role in _KNOWN}
_SAID: Final = frozenset({"role", "content"})
_RESULT: Final = _SAID | {"tool_call_id"}
_CALLING: Final = _SAID | {"tool_calls"}
_PLAIN: Final[dict[object, frozenset[str]]] = {
    "system": _SAID,
    "user": _SAID,
    "assistant": _SAID,
    "tool": _RESULT,
}
"""The fields of the messages that stay as they are."""


_TEXTS: Final = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
}
"""The types of parts that are text, and the field of the text."""

_THOUGHTS: Final = ("thinking", "reasoning")
"""The types of parts that are an assistant's thinking."""

REASONING: Final = ("reasoning_content", "reasoning")
"""The names of an assistant's thinking; a node rejects both at once (nodes.md 4.1.5)."""


def newest_user_turn(messages: Sequence[object]) -> int:
    """Return the index of the user message that the model shall answer, -1 if there is none.

    That is the last one, unless an answer or the result of a tool is between it and the end, or a
    result is between it and the last answer: clients show a tool's pictures there.
    """
    found = -1
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        role = message.get("role") if isinstance(message, dict) else None
        if role == "assistant":
            break
        if role in ("tool", "function"):
            return -1
        if role == "user" and found < 0:
            found = index
    return found


def newest_turn(messages: Sequence[object]) -> int:
    """Return the index at which the newest turn begins: what came after the last answer.

    Of several messages of the user in a row it has only the last: a client that keeps a message
    which was refused goes on with another.
    """
    last_user, last_answer = _last(messages, "user"), _last(messages, "assistant")
    return last_user if last_user > last_answer else last_answer + 1


def _last(messages: Sequence[object], role: str) -> int:
    """Return the index of the last message of a role, -1 if there is none."""
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if isinstance(message, dict) and message.get("role") == role:
            return index
    return -1


class MessageReader:
    """Reads the messages of one conversation, for nodes of a profile."""

    def __init__(self, profile: Profile, approximations: Approximations) -> None:
        self._profile = profile
        self._approximations = approximations
        self._calls = CallReader(approximations)

    def read(self, messages: Sequence[JsonObject], paths: Sequence[str]) -> Iterator[JsonObject]:
        """Yield the messages, with the roles system, user, assistant and tool.

        A content is a string, and that of a user or a tool may also be a list of parts. Raises
        Unshowable for a medium of the newest user turn, by its path.
        """
        newest = newest_user_turn(messages)
        for index, message in enumerate(messages):
            if self._needs_nothing(message):
                yield message
            else:
                path = f"{paths[index]}.content" if index == newest else ""
                yield self._message(message, path)

    def mended(self, message: JsonObject) -> JsonObject:
        """Return a message of an earlier turn as ``read`` yields it."""
        return self._message(message, "")

    def _needs_nothing(self, message: JsonObject) -> bool:
        """Return whether a message is one that all nodes accept; most are, in long conversations.

        False for the few that are neither plain nor wrong.
        """
        if not isinstance(message.get("content"), str):
            return False
        role = message.get("role")
        fields = _PLAIN.get(role) if isinstance(role, str) else None
        if fields is None or message.keys() != fields:
            return False
        return fields is not _RESULT or isinstance(message["tool_call_id"], str)

    def _message(self, message: JsonObject, path: str) -> JsonObject:
        given = message.get("role")
        role = _ROLES.get(given) if isinstance(given, str) else None
        if role is None:
            return self._of_unknown_role(message, given)
        if role == "assistant":
            return self._answer(message)
        self._approximations.note_unknown(message, _KNOWN[role], "messages")
        content = message.get("content")
        kept: JsonObject = {"role": role, "content": self._content(content, role, path)}
        name = message.get("name")
        if isinstance(name, str) and name:
            if role == "system":
                self._approximations.note("name")
            else:
                kept["name"] = name
        if role == "tool":
            call_id = message.get("tool_call_id")
            kept["tool_call_id"] = call_id if isinstance(call_id, str) else ""
        return kept

    def _of_unknown_role(self, message: JsonObject, role: object) -> JsonObject:
        self._approximations.note("role")
        content = self._content(message.get("content"), "system", "")
        if isinstance(role, str) and role:
            content = words.said_by(role, content if isinstance(content, str) else "")
        return {"role": "user", "content": content}

    def _answer(self, message: JsonObject) -> JsonObject:
        if message.keys() == _CALLING and isinstance(message["content"], str):
            calls = self._calls.read(message)
            if calls and calls is message["tool_calls"]:
                return message
        self._approximations.note_unknown(message, _KNOWN["assistant"], "messages")
        thoughts: list[str] = []
        content = self._content(message.get("content"), "assistant", "", thoughts)
        refusal = message.get("refusal")
        if isinstance(refusal, str) and refusal:
            self._approximations.note("refusal")
            content = of_pieces([*([content] if isinstance(content, str) else []), refusal])
        if message.get("name"):
            self._approximations.note("name")
        answer: JsonObject = {"role": "assistant", "content": content}
        for field in REASONING:
            thought = message.get(field)
            if isinstance(thought, str) and thought:
                thought = without_waiting_lines(thought)
                thoughts = [thought] if thought else []
                break
        if thoughts:
            answer["reasoning_content"] = "\n".join(thoughts)
        calls = self._calls.read(message)
        if calls:
            answer["tool_calls"] = calls
        return answer

    # Contents.

    def _content(
        self, content: object, role: str, path: str, thoughts: list[str] | None = None
    ) -> Content:
        """Return a content; ``path`` is empty unless a medium that cannot be sent is refused.

        The thinking among an assistant's parts is appended to ``thoughts``.
        """
        if isinstance(content, str):
            return content
        if content is None:
            return ""
        if not isinstance(content, list):
            self._approximations.note("content")
            content = [content if isinstance(content, dict) else encode(content).decode()]
        if len(content) == 1 and isinstance(content[0], dict):  # as most clients send a text
            part = content[0]
            if part.get("type") == "text" and isinstance(part.get("text"), str):
                return part["text"]  # type: ignore[no-any-return]  # just checked
        pieces: list[str | JsonObject] = []
        for index, part in enumerate(content):
            part_path = path and f"{path}[{index}]"
            piece = self._piece(part, role, part_path, [] if thoughts is None else thoughts)
            if piece:
                pieces.append(piece)
        return of_pieces(pieces)

    def _piece(
        self, part: object, role: str, path: str, thoughts: list[str]
    ) -> str | JsonObject | None:
        if isinstance(part, str):
            return part
        if not isinstance(part, dict):
            self._approximations.note("content")
            return None if part is None else encode(part).decode()
        kind = part.get("type", "text")
        if not isinstance(kind, str):
            kind = "part"
        text = part.get(_TEXTS.get(kind, "text"))
        if kind in _TEXTS and isinstance(text, str):
            return text
        if role == "assistant" and kind in _THOUGHTS:
            thought = part.get(kind, text)
            if isinstance(thought, str):
                thoughts.append(thought)
                return None
        if kind in MEDIA:
            return self._medium(part, role, path)
        if path and isinstance(part.get("type"), str) and kind not in _TEXTS:
            return accepted_part(part)  # the newest turn: the node may know it, or refuses it
        self._approximations.note_unknown({kind: True}, frozenset(), "content")
        return text if isinstance(text, str) else words.omitted(kind)

    def _medium(self, part: JsonObject, role: str, path: str) -> str | JsonObject:
        medium = MEDIA[part["type"]]
        try:
            if role not in ("user", "tool"):
                raise Unshowable(path, f"a message of the {role} has only text", "leave it out")
            accepted = accepted_part(part)
            if part["type"] not in accepted and not path:
                raise Unshowable(path, "it has no address", "leave it out")
            check_showable(accepted, path, self._profile)
        except Unshowable as error:
            if path:
                raise
            self._approximations.note(f"tool_result_{medium}" if role == "tool" else medium)
            return error.omission(medium)
        return accepted
