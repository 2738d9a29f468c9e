"""The turns of an Anthropic Messages request, converted to the messages of a chat.

translation.md 2.1 and 2.2 have the rules and their grades. The messages are neutral first, and then
fitted to the model's template (``dialects.fitting``), which joins and orders them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cortexd.dialects.fitting.contents import of_pieces
from cortexd.dialects.fitting.fit import fit_messages
from cortexd.dialects.hygiene.lines import BILLING, BILLING_LINE
from cortexd.dialects.messages_to_chat.content import (
    ASSISTANT_BLOCKS,
    USER_BLOCKS,
    BlockReader,
    Piece,
    text_of,
)
from cortexd.dialects.messages_to_chat.told import compacted_at
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.fields import (
    quoted,
    read_dict,
    read_list,
    read_string,
    refused,
)
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import MidSystem, Profile
from cortexd.dialects.wire.thoughts import thinking_in
from cortexd.dialects.wire.tool_names import upstream_name

_MESSAGE_FIELDS: Final = frozenset({"role", "content", "clear_at"})
_ROLES: Final = ("user", "assistant", "system")
_NOTHING: Final = {"type": "text", "text": ""}


@dataclass(frozen=True, slots=True)
class _Turn:
    """A turn; with ``is_cleared`` it is a system turn that holds until the next user turn."""

    role: str
    content: object
    path: str
    is_cleared: bool = False


def translate_turns(
    body: JsonObject, profile: Profile, approximations: Approximations
) -> list[JsonObject]:
    """Return the chat messages of a request's ``system`` and ``messages``.

    Raises BadRequest with the faulty field.
    """
    turns = _read_turns(body.get("messages"), approximations)
    _check_last(turns, profile)
    turns = _uncleared(turns)
    translation = _Translation(profile, approximations)
    system = translation.system_texts(body.get("system"))
    messages: list[JsonObject] = []
    if system:
        messages.append({"role": "system", "content": "\n".join(system)})
    newest = _newest(turns)
    for turn in turns:
        messages += translation.messages(turn, is_newest=turn is newest)
    return fit_messages(messages, profile, approximations)


def _read_turns(value: object, approximations: Approximations) -> list[_Turn]:
    """Return the turns from the last summary of the conversation on; see ``compacted_at``."""
    turns = []
    messages = read_list(value, "messages")
    first, first_block = compacted_at(messages)
    for index, element in enumerate(messages):
        if index < first:
            continue
        path = f"messages[{index}]"
        message = read_dict(element, path)
        role = read_string(message.get("role"), f"{path}.role")
        if role not in _ROLES and index == len(messages) - 1:
            raise refused(
                f"{path}.role", f"is {quoted(role)}; supported are 'user', 'assistant' and 'system'"
            )
        approximations.note_unknown(message, _MESSAGE_FIELDS, "messages")
        content = message.get("content")
        if index == first and first_block and isinstance(content, list):
            content = [_NOTHING] * first_block + content[first_block:]
        is_cleared = message.get("clear_at") == "next_user_message"
        turns.append(_Turn(role, content, path, is_cleared))
    return turns


def _uncleared(turns: list[_Turn]) -> list[_Turn]:
    """Return the turns without the system turns that hold only until the next user turn."""
    if not any(turn.is_cleared for turn in turns):
        return turns
    last_user = max((at for at, turn in enumerate(turns) if turn.role == "user"), default=-1)
    return [turn for at, turn in enumerate(turns) if not turn.is_cleared or at > last_user]


def _check_last(turns: list[_Turn], profile: Profile) -> None:
    """Reject a conversation that the model cannot answer; a hoisted turn is no end of it."""
    hoists = profile.mid_system is MidSystem.HOIST
    last = next((turn for turn in reversed(turns) if not hoists or turn.role != "system"), None)
    if last is None:
        raise refused("messages", "must contain at least one user turn")
    if last.role == "assistant" and not profile.continue_final_message:
        raise refused(
            last.path,
            "is an assistant turn at the end of the conversation: "
            "assistant prefill is not supported by this model; end with a user turn",
        )


def _thought(block: JsonObject) -> str:
    """Return the text of a block of thinking, which its signature carries if it was withheld."""
    shown = block.get("thinking")
    return shown if isinstance(shown, str) and shown else thinking_in(block.get("signature"))


def _newest(turns: list[_Turn]) -> _Turn | None:
    """Return the user's turn that the model shall answer, if the run has no results of tools."""
    newest: _Turn | None = None
    for turn in reversed(turns):
        if turn.role == "assistant":
            break
        if turn.role == "user":
            if _has_results(turn):
                return None
            newest = newest or turn
    return newest


def _has_results(turn: _Turn) -> bool:
    return isinstance(turn.content, list) and any(
        isinstance(block, dict) and block.get("type") == "tool_result" for block in turn.content
    )


class _Translation:
    """Translates the turns of one request into neutral messages (``dialects.fitting``)."""

    def __init__(self, profile: Profile, approximations: Approximations) -> None:
        self._approximations = approximations
        self._hygiene = profile.hygiene
        self._reader = BlockReader(profile, approximations)

    def system_texts(self, system: object) -> list[str]:
        """Return the texts of the system prompt."""
        if system is None:
            return []
        texts = self._reader.texts(system, "system", "a system prompt")
        if isinstance(system, str) or not self._hygiene:
            return texts
        kept = [text for text in texts if not text.startswith(BILLING_LINE)]
        if len(kept) < len(texts):
            self._approximations.left_out = (BILLING,)
        return kept

    def messages(self, turn: _Turn, *, is_newest: bool) -> list[JsonObject]:
        """Return the messages of a turn; only that of the newest turn are refused."""
        if turn.role == "assistant":
            return [self._answer(turn)]
        if turn.role == "system":
            path = f"{turn.path}.content"
            texts = self._reader.texts(turn.content, path, "a system turn", is_history=True)
            return [{"role": "system", "content": "\n".join(texts)}]
        return self._user_turn(turn, is_newest=is_newest)

    def _user_turn(self, turn: _Turn, *, is_newest: bool) -> list[JsonObject]:
        """Return the results of a turn, and what the user says beside them.

        A turn of an unknown role keeps it, for ``fit_messages``.
        """
        reader = self._reader
        read = reader.user_pieces if is_newest else reader.pieces_of_history
        results: list[JsonObject] = []
        pieces: list[Piece] = []
        for kind, block, path in reader.blocks(
            turn.content,
            f"{turn.path}.content",
            USER_BLOCKS,
            "a user turn",
            is_history=not is_newest,
        ):
            if kind == "tool_result":
                content = reader.tool_result(block, path)
                call_id = block.get("tool_use_id")
                results.append({"role": "tool", "tool_call_id": call_id, "content": content})
            else:
                pieces += read(kind, block, path)
        if pieces or not results:
            results.append({"role": turn.role, "content": of_pieces(pieces)})
        return results

    def _answer(self, turn: _Turn) -> JsonObject:
        texts: list[str] = []
        thinking: list[str] = []
        calls: list[JsonObject] = []
        blocks = self._reader.blocks(
            turn.content,
            f"{turn.path}.content",
            ASSISTANT_BLOCKS,
            "an assistant turn",
            is_history=True,
        )
        for kind, block, path in blocks:
            if kind == "text":
                if text := text_of(block, path):
                    texts.append(text)
                    if calls:
                        self._approximations.note("text_after_tool_use")
            elif kind == "tool_use":
                calls.append(_tool_call(block))
            elif kind == "redacted_thinking":
                self._approximations.note(kind)
            elif thought := _thought(block):
                thinking.append(thought)
        message: JsonObject = {"role": "assistant", "content": "\n".join(texts)}
        if thinking:
            message["reasoning_content"] = "\n".join(thinking)
        if calls:
            message["tool_calls"] = calls
        return message


def _tool_call(block: JsonObject) -> JsonObject:
    """Return a call, for which the fitting finds what it lacks."""
    name = block.get("name")
    return {
        "id": block.get("id"),
        "type": "function",
        "function": {
            "name": upstream_name(name) if isinstance(name, str) and name else None,
            "arguments": block.get("input"),
        },
    }
