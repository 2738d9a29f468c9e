"""The turns of an Anthropic Messages request, converted to the messages of a chat.

translation.md 2.1 and 2.2 have the rules and their grades. A *run* is the sequence of turns between
two answers of the model, or a sequence of such answers: in Messages, consecutive turns of one role
are one turn for the model, and each run of user turns has all results of the tools that the answer
before it called. In a chat, these results come directly after that answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from cortexd.dialects.messages_to_chat.content import (
    ASSISTANT_BLOCKS,
    USER_BLOCKS,
    BlockReader,
    Piece,
    ReadPieces,
    content_of,
    text_of,
)
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.contents import reminder
from cortexd.dialects.wire.fields import (
    quoted,
    read_dict,
    read_list,
    read_name,
    read_string,
    refused,
)
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.dialects.wire.profile import MidSystem, Profile
from cortexd.dialects.wire.thoughts import thinking_in
from cortexd.dialects.wire.tool_names import upstream_id, upstream_name

BILLING_LINE: Final = "x-anthropic-billing-header:"
"""The beginning of a system block that Claude Code adds for its vendor's billing. The block may
differ between requests, so that a node would not find the prompt in its prefix cache."""

_MESSAGE_FIELDS: Final = frozenset({"role", "content"})
_ROLES: Final = ("user", "assistant", "system")


@dataclass(frozen=True, slots=True)
class _Turn:
    role: str
    content: object
    path: str


@dataclass(slots=True)
class _Item:
    """A message of a run, before messages are joined."""

    role: str
    pieces: list[Piece]


def translate_turns(
    body: JsonObject, profile: Profile, approximations: Approximations
) -> list[JsonObject]:
    """Return the chat messages of a request's ``system`` and ``messages``.

    Raises BadRequest with the faulty field.
    """
    translation = _Translation(profile, approximations)
    system = translation.system_texts(body.get("system"))
    turns = _read_turns(body.get("messages"), approximations)
    if profile.mid_system is MidSystem.HOIST:
        kept = [turn for turn in turns if turn.role != "system"]
        if len(kept) < len(turns):
            approximations.note("mid_system")
            hoisted = (turn for turn in turns if turn.role == "system")
            system += [text for turn in hoisted for text in translation.system_turn(turn)]
        turns = kept
    _check_last(turns, profile)
    messages: list[JsonObject] = []
    if system:
        messages.append({"role": "system", "content": "\n".join(system)})
    for is_assistant, run in groupby(turns, lambda turn: turn.role == "assistant"):
        if is_assistant:
            messages += translation.assistant_run(list(run))
        else:
            messages += translation.user_run(run)
    translation.check_all_answered()
    return messages


def _read_turns(value: object, approximations: Approximations) -> list[_Turn]:
    turns = []
    for index, element in enumerate(read_list(value, "messages")):
        path = f"messages[{index}]"
        message = read_dict(element, path)
        role = read_string(message.get("role"), f"{path}.role")
        if role not in _ROLES:
            raise refused(
                f"{path}.role", f"is {quoted(role)}; supported are 'user', 'assistant' and 'system'"
            )
        approximations.note_unknown(message, _MESSAGE_FIELDS, "messages")
        turns.append(_Turn(role, message.get("content"), path))
    return turns


def _check_last(turns: list[_Turn], profile: Profile) -> None:
    if not turns:
        raise refused("messages", "must contain at least one user turn")
    last = turns[-1]
    if last.role == "assistant" and not profile.continue_final_message:
        raise refused(
            last.path,
            "is an assistant turn at the end of the conversation: "
            "assistant prefill is not supported by this model; end with a user turn",
        )


def _thought(block: JsonObject, path: str) -> str:
    """Return the text of a block of thinking, which its signature carries if it was withheld."""
    shown = read_string(block.get("thinking"), f"{path}.thinking")
    return shown or thinking_in(block.get("signature"))


def _calls_tools(turn: _Turn) -> bool:
    return isinstance(turn.content, list) and any(
        isinstance(block, dict) and block.get("type") == "tool_use" for block in turn.content
    )


class _Translation:
    """Translates the turns of one request, run by run."""

    def __init__(self, profile: Profile, approximations: Approximations) -> None:
        self._profile = profile
        self._approximations = approximations
        self._reader = BlockReader(profile, approximations)
        self._unanswered: dict[str, str] = {}  # paths of the tool calls that have no result yet

    def system_texts(self, system: object) -> list[str]:
        """Return the texts of the system prompt."""
        if system is None:
            return []
        texts = self._reader.texts(system, "system", "a system prompt")
        if isinstance(system, str):
            return texts
        return [text for text in texts if not text.startswith(BILLING_LINE)]

    def system_turn(self, turn: _Turn) -> list[str]:
        """Return the texts of a turn whose role is ``system``."""
        return self._reader.texts(turn.content, f"{turn.path}.content", "a system turn")

    # Turns of the user with tool results, and system turns between them.

    def user_run(self, run: Iterable[_Turn]) -> list[JsonObject]:
        """Return the messages of a run: the tool results, then the text of the user."""
        results: list[JsonObject] = []
        images: list[JsonObject] = []
        items: list[_Item] = []
        early: list[Piece] = []  # reminders before the first user turn of this run
        reader = self._reader
        read = reader.pieces_beside_results if self._unanswered else reader.user_pieces
        for turn in run:
            if turn.role == "system":
                self._system_turn(turn, items, early)
                continue
            before = len(results)
            pieces = self._user_turn(turn, results, images, read)
            if pieces or early or len(results) == before:
                items.append(_Item("user", early + pieces))
                early = []
        if early:
            items.append(_Item("user", early))
        self.check_all_answered()
        if images:
            if not items or items[0].role != "user":
                items.insert(0, _Item("user", []))
            items[0].pieces[:0] = images
        return results + self._said(items)

    def _system_turn(self, turn: _Turn, items: list[_Item], early: list[Piece]) -> None:
        text = "\n".join(self.system_turn(turn))
        if self._profile.mid_system is MidSystem.PASS:
            items.append(_Item("system", [text]))
            return
        self._approximations.note("mid_system")
        neighbour = items[-1].pieces if items else early
        neighbour.append(reminder(text))

    def _user_turn(
        self,
        turn: _Turn,
        results: list[JsonObject],
        images: list[JsonObject],
        read: ReadPieces,
    ) -> list[Piece]:
        pieces: list[Piece] = []
        for kind, block, path in self._reader.blocks(
            turn.content, f"{turn.path}.content", USER_BLOCKS, "a user turn"
        ):
            if kind == "tool_result":
                results.append(self._tool_result(block, path, images))
            else:
                pieces += read(kind, block, path)
        return pieces

    def _tool_result(self, block: JsonObject, path: str, images: list[JsonObject]) -> JsonObject:
        id_path = f"{path}.tool_use_id"
        call_id = read_name(block.get("tool_use_id"), id_path)
        if self._unanswered.pop(call_id, None) is None:
            raise refused(
                id_path,
                f"is {quoted(call_id)}, but the assistant turn before it has no call with this id "
                "that still needs a result",
            )
        return {
            "role": "tool",
            "tool_call_id": upstream_id(call_id, self._profile.tool_id_format),
            "content": self._reader.tool_result(block, path, images),
        }

    def _said(self, items: list[_Item]) -> list[JsonObject]:
        messages: list[JsonObject] = []
        for role, group in groupby(items, lambda item: item.role):
            turns = [item.pieces for item in group]
            together = (
                [turns] if role == "user" and self._profile.alternate else [[t] for t in turns]
            )
            messages += [{"role": role, "content": self._content(each)} for each in together]
        return messages

    def _content(self, turns: list[list[Piece]]) -> str | list[JsonObject]:
        content = content_of(turns)
        if isinstance(content, list) and self._profile.images_first:
            texts = [part["type"] == "text" for part in content]
            if texts != sorted(texts):
                self._approximations.note("image_order")
        return content

    # Turns of the assistant.

    def assistant_run(self, run: list[_Turn]) -> list[JsonObject]:
        """Return the messages of a run of answers, usually one message.

        If an answer with tool calls is not the last one, all of them become one message, because
        the results come directly after the calls.
        """
        self._unanswered = {}
        together = self._profile.alternate or any(map(_calls_tools, run[:-1]))
        return [self._answer(group) for group in ([run] if together else [[turn] for turn in run])]

    def _answer(self, turns: list[_Turn]) -> JsonObject:
        texts: list[str] = []
        thinking: list[str] = []
        calls: list[JsonObject] = []
        for turn in turns:
            said: list[str] = []
            for kind, block, path in self._reader.blocks(
                turn.content, f"{turn.path}.content", ASSISTANT_BLOCKS, "an assistant turn"
            ):
                if kind == "text":
                    if text := text_of(block, path):
                        said.append(text)
                        if calls:
                            self._approximations.note("text_after_tool_use")
                elif kind == "tool_use":
                    calls.append(self._tool_call(block, path))
                elif kind == "redacted_thinking":
                    self._approximations.note(kind)
                elif thought := _thought(block, path):
                    thinking.append(thought)
            if said:
                texts.append("\n".join(said))
        content = "\n\n".join(texts)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": content or (None if calls else ""),
        }
        if thinking:
            message["reasoning_content"] = "\n".join(thinking)
        if calls:
            message["tool_calls"] = calls
        return message

    def _tool_call(self, block: JsonObject, path: str) -> JsonObject:
        call_id = read_name(block.get("id"), f"{path}.id")
        if call_id in self._unanswered:
            raise refused(f"{path}.id", f"is {quoted(call_id)}, which another call here has too")
        self._unanswered[call_id] = path
        name = read_name(block.get("name"), f"{path}.name")
        arguments = encode(read_dict(block.get("input"), f"{path}.input")).decode()
        return {
            "id": upstream_id(call_id, self._profile.tool_id_format),
            "type": "function",
            "function": {"name": upstream_name(name), "arguments": arguments},
        }

    def check_all_answered(self) -> None:
        """Reject a tool call without a result in the next run: templates cannot render it."""
        for call_id, path in self._unanswered.items():
            raise refused(
                path,
                f"calls a tool with id {quoted(call_id)}, "
                "but the next user turn has no tool_result for it",
            )
