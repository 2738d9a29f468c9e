"""The messages of a chat, converted to the turns of a Messages request.

translation.md 3 has the rules and their grades. A *run* is the sequence of messages between two
answers of the model, or a sequence of such answers: a chat has a message for each tool result, but
in Messages a run is one turn, with the tool results before the text of the user.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from cortexd.dialects.chat_to_messages.content import ContentReader, text_blocks
from cortexd.dialects.fitting import words
from cortexd.dialects.fitting.contents import BETWEEN_PARTS, joined
from cortexd.dialects.fitting.reading import MessageReader, newest_turn
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.arguments import RAW_ARGUMENTS
from cortexd.dialects.wire.contents import reminder
from cortexd.dialects.wire.fields import (
    quoted,
    read_dict,
    read_list,
    read_name,
    read_optional_string,
    read_string,
    refused,
)
from cortexd.dialects.wire.json_values import NOT_JSON, JsonObject, decode
from cortexd.dialects.wire.profile import MidSystem, Profile
from cortexd.dialects.wire.thoughts import SIGNATURE
from cortexd.dialects.wire.tool_names import messages_id, upstream_name
from cortexd.errors import BadRequest

_COMMON: Final = frozenset({"role", "content", "name"})
_REASONING: Final = ("reasoning_content", "reasoning")
_KNOWN: Final = {
    "system": _COMMON,
    "developer": _COMMON,
    "user": _COMMON,
    "assistant": _COMMON
    | {"tool_calls", "function_call", "refusal", "audio", "signature", *_REASONING},
    "tool": _COMMON | {"tool_call_id"},
    "function": _COMMON,
}
_SYSTEM_ROLES: Final = ("system", "developer")
_KNOWN_OF_A_CALL: Final = frozenset({"id", "type", "index", "function"})
_KNOWN_OF_A_FUNCTION: Final = frozenset({"name", "arguments"})


@dataclass(frozen=True, slots=True)
class _Call:
    """A tool call and its block; ``function`` is the name of an old call, which has no id."""

    call_id: str
    block: JsonObject
    function: str | None = None


@dataclass(frozen=True, slots=True)
class _Result:
    """A tool result; it names its call by id, or by the name of an old function."""

    call_id: str | None
    function: str | None
    path: str
    content: str | list[JsonObject]


@dataclass(slots=True)
class _Message:
    """A message of the chat; ``role`` is its role in Messages."""

    role: str
    path: str
    blocks: list[JsonObject] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    result: _Result | None = None


def translate_turns(
    body: JsonObject, profile: Profile, approximations: Approximations
) -> JsonObject:
    """Return the fields ``system`` and ``messages`` for a chat's ``messages``.

    Raises BadRequest with the faulty field.
    """
    given = body.get("messages")
    if isinstance(given, str):  # for mistral.rs, a string is one user turn (nodes.md 4.1)
        given = [{"role": "user", "content": given}]
    given = read_list(given, "messages")
    if not given:
        raise refused("messages", "must contain at least one message")
    reader = _MessageReader(profile, approximations)
    newest = newest_turn(given)
    messages = [
        message
        for index, value in enumerate(given)
        if (message := reader.read(value, index, is_newest=index >= newest)) is not None
    ]
    conversation = _Conversation(profile, approximations)
    for is_assistant, run in groupby(messages, lambda message: message.role == "assistant"):
        if is_assistant:
            conversation.add_answers(run)
        else:
            turn = list(run)
            conversation.add_user_run(turn, is_last=turn[-1] is messages[-1])
    turns = conversation.end()
    if not turns or turns[0]["role"] != "user":
        approximations.note("opening_turn")
        turns = [{"role": "user", "content": text_blocks(words.OPENING)}, *turns]
    system = {"system": reader.system} if reader.system else {}
    return {**system, "messages": turns}


class _MessageReader:
    """Reads the messages of one chat, in order."""

    def __init__(self, profile: Profile, approximations: Approximations) -> None:
        self._profile = profile
        self._approximations = approximations
        self._contents = ContentReader(profile, approximations)
        self._mender = MessageReader(profile, approximations)
        self._has_begun = False
        self.system: list[JsonObject] = []

    def read(self, value: object, index: int, *, is_newest: bool) -> _Message | None:
        """Return a message, or None if it is empty or goes into the system prompt.

        Raises BadRequest for one of the newest turn. What this upstream does not take of an earlier
        one becomes words, or is left out and noted.
        """
        try:
            return self._read(value, index)
        except BadRequest:
            if is_newest:
                raise
        try:
            return self._read(self._mended(value, index), index)
        except BadRequest:
            self._approximations.note("messages")
            return None

    def _mended(self, value: object, index: int) -> object:
        if not isinstance(value, dict):
            return value
        message = self._mender.mended(value)
        if calls := message.get("tool_calls"):
            numbered = enumerate(calls)
            calls = [{**call, "id": call["id"] or f"call_{index}_{n}"} for n, call in numbered]
            message = {**message, "tool_calls": calls}
        if message["role"] == "tool" and not message["tool_call_id"]:
            self._approximations.note("unmatched_result")
            told = words.unasked(message.get("name", ""))
            content = joined([told, message["content"]], BETWEEN_PARTS)
            return {"role": "user", "content": content}
        return message

    def _read(self, value: object, index: int) -> _Message | None:
        path = f"messages[{index}]"
        message = read_dict(value, path)
        role = read_string(message.get("role"), f"{path}.role")
        if role not in _KNOWN:
            raise refused(
                f"{path}.role", f"is {quoted(role)}; supported are {', '.join(sorted(_KNOWN))}"
            )
        self._approximations.note_unknown(message, _KNOWN[role], "messages")
        if message.get("name") and role != "function":
            self._approximations.note("name")
        if role in _SYSTEM_ROLES:
            return self._system(message, path)
        self._has_begun = True
        if role == "assistant":
            return self._assistant(message, path, index)
        content, content_path = message.get("content"), f"{path}.content"
        if role == "user":
            return _Message("user", path, self._contents.user_blocks(content, content_path))
        found = self._contents.result_content(content, content_path)
        if role == "tool":
            call_id = read_name(message.get("tool_call_id"), f"{path}.tool_call_id")
            result = _Result(call_id, None, f"{path}.tool_call_id", found)
        else:
            self._approximations.note("function_call")
            name = read_name(message.get("name"), f"{path}.name")
            result = _Result(None, name, f"{path}.name", found)
        return _Message("user", path, result=result)

    def _system(self, message: JsonObject, path: str) -> _Message | None:
        """Translate a system message in the middle of a conversation."""
        blocks = self._contents.system_blocks(message.get("content"), f"{path}.content")
        if not self._has_begun:
            self.system += blocks
            return None
        if not blocks:
            return None
        if self._profile.mid_system is MidSystem.PASS:
            return _Message("system", path, blocks)
        self._approximations.note("mid_system")
        if self._profile.mid_system is MidSystem.HOIST:
            self.system += blocks
            return None
        text = "\n".join(block["text"] for block in blocks)
        return _Message("user", path, text_blocks(reminder(text)))

    # Messages of the assistant.

    def _assistant(self, message: JsonObject, path: str, index: int) -> _Message | None:
        if message.get("audio") is not None:
            raise refused(f"{path}.audio", "is not supported by this model: it accepts no audio")
        answer = _Message("assistant", path, self._thinking(message))
        if message.get("content") is not None:
            answer.blocks += self._contents.assistant_blocks(message["content"], f"{path}.content")
        if refusal := read_optional_string(message.get("refusal"), f"{path}.refusal"):
            self._approximations.note("refusal")
            answer.blocks += text_blocks(refusal)
        calls = message.get("tool_calls")
        calls_path = f"{path}.tool_calls"
        for number, call in enumerate(read_list(calls, calls_path) if calls is not None else ()):
            self._add_call(answer, call, f"{calls_path}[{number}]")
        if message.get("function_call") is not None:
            self._approximations.note("function_call")
            self._add_function_call(answer, message["function_call"], index)
        if not answer.blocks:
            self._approximations.note("empty_turn")
            return None
        return answer

    def _thinking(self, message: JsonObject) -> list[JsonObject]:
        """Return the thinking with our signature; the upstream accepts no other."""
        for name in _REASONING:
            if thought := message.get(name):
                if isinstance(thought, str) and message.get("signature") == SIGNATURE:
                    return [{"type": "thinking", "thinking": thought, "signature": SIGNATURE}]
                self._approximations.note("reasoning")
        return []

    def _add_call(self, answer: _Message, value: object, path: str) -> None:
        call = read_dict(value, path)
        kind = call.get("type")
        if kind is not None and kind != "function":
            raise refused(
                f"{path}.type",
                f"is {quoted(read_string(kind, f'{path}.type'))}, "
                "which is not supported by this model; supported is 'function'",
            )
        self._approximations.note_unknown(call, _KNOWN_OF_A_CALL, "tool_calls")
        call_id = read_name(call.get("id"), f"{path}.id")
        self._add_tool_use(answer, call_id, call.get("function"), f"{path}.function")
        answer.calls.append(_Call(call_id, answer.blocks[-1]))

    def _add_function_call(self, answer: _Message, value: object, index: int) -> None:
        path = f"{answer.path}.function_call"
        call_id = f"function_call_{index}"
        name = self._add_tool_use(answer, call_id, value, path)
        answer.calls.append(_Call(call_id, answer.blocks[-1], name))

    def _add_tool_use(self, answer: _Message, call_id: str, value: object, path: str) -> str:
        """Add a call to an answer, and return the client's name of the tool."""
        function = read_dict(value, path)
        self._approximations.note_unknown(function, _KNOWN_OF_A_FUNCTION, "tool_calls.function")
        name = read_name(function.get("name"), f"{path}.name")
        arguments = read_optional_string(function.get("arguments"), f"{path}.arguments")
        answer.blocks.append(
            {
                "type": "tool_use",
                "id": messages_id(call_id, self._profile.tool_id_format),
                "name": upstream_name(name),
                "input": self._input(arguments),
            }
        )
        return name

    def _input(self, arguments: str) -> JsonObject:
        if not arguments or arguments.isspace():
            return {}
        try:
            given = decode(arguments)
        except NOT_JSON:
            given = None
        if isinstance(given, dict):
            return given
        self._approximations.note("arguments")
        return {RAW_ARGUMENTS: arguments}


class _Conversation:
    """Makes turns from the messages, run by run, and gives each call its one result."""

    def __init__(self, profile: Profile, approximations: Approximations) -> None:
        self._profile = profile
        self._approximations = approximations
        self._unanswered: dict[str, deque[str]] = {}  # the upstream's ids by the client's
        self._called_by_name: dict[str, deque[str]] = {}
        self._turns: list[JsonObject] = []
        self._last_answer_path = ""

    def add_answers(self, run: Iterable[_Message]) -> None:
        """Add a run of answers of the model, usually one, as one turn."""
        blocks: list[JsonObject] = []
        for message in run:
            self._last_answer_path = message.path
            blocks += message.blocks
            for call in message.calls:
                waiting = self._unanswered.setdefault(call.call_id, deque())
                if waiting:
                    again = f"{call.call_id}_{len(waiting)}"
                    call.block["id"] = messages_id(again, self._profile.tool_id_format)
                waiting.append(call.block["id"])
                if call.function is not None:
                    self._called_by_name.setdefault(call.function, deque()).append(call.call_id)
        self._turns.append({"role": "assistant", "content": blocks})

    def add_user_run(self, run: list[_Message], *, is_last: bool) -> None:
        """Add the messages between two answers: first the tool results, then the others."""
        results: list[JsonObject] = []
        said: list[tuple[str, list[JsonObject]]] = []
        for message in run:
            result = message.result and self._tool_result(message.result)
            if result:
                results.append(result)
            elif message.result:
                said.append((message.role, self._told(message.result)))
            else:
                said.append((message.role, message.blocks))
        results += self._missing_results()
        spoken = [(role, blocks) for role, blocks in [("user", results), *said] if blocks]
        if not spoken and not is_last:
            spoken = [("user", text_blocks(words.EMPTY))]
        if not spoken:
            raise refused(
                run[0].path, "is empty, and this model accepts no empty turn; leave it out"
            )
        for role, group in groupby(spoken, lambda each: each[0]):
            content = [block for _, blocks in group for block in blocks]
            self._turns.append({"role": role, "content": content})

    def _tool_result(self, result: _Result) -> JsonObject | None:
        """Return a result, None if no call before it still needs one."""
        call_id = result.call_id if result.function is None else self._called(result.function)
        waiting = self._unanswered.get(call_id) if call_id else None
        if not waiting:
            return None
        block: JsonObject = {"type": "tool_result", "tool_use_id": waiting.popleft()}
        return {**block, "content": result.content} if result.content else block

    def _called(self, function: str) -> str | None:
        """Return the id of the first call of an old function that has no result yet."""
        called = self._called_by_name.get(function)
        return called.popleft() if called else None

    def _told(self, result: _Result) -> list[JsonObject]:
        """Return a result without a call as what the user says."""
        self._approximations.note("unmatched_result")
        content = result.content
        blocks = text_blocks(content) if isinstance(content, str) else content
        return [*text_blocks(words.unasked(result.function or "")), *blocks]

    def _missing_results(self) -> list[JsonObject]:
        """Return a result for each call that has none."""
        ids = [each for waiting in self._unanswered.values() for each in waiting]
        if ids:
            self._approximations.note("missing_result")
        self._unanswered.clear()
        return [
            {"type": "tool_result", "tool_use_id": each, "content": words.NO_RESULT} for each in ids
        ]

    def end(self) -> list[JsonObject]:
        """Return all turns, after the last message."""
        if results := self._missing_results():
            self._turns.append({"role": "user", "content": results})
        is_prefilled = bool(self._turns) and self._turns[-1]["role"] == "assistant"
        if is_prefilled and not self._profile.continue_final_message:
            raise refused(
                self._last_answer_path,
                "is an assistant message at the end of the conversation: "
                "assistant prefill is not supported by this model; end with a user message",
            )
        return self._turns
