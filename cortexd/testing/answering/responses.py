"""Responses: a conversation that the node itself keeps, in the memory of its process.

An answer is the one that the same conversation gets as a chat. An id of a response that the node
does not have is not refused as the previous one: the conversation is then without its beginning,
and nobody is told.
"""

import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct, structs

from cortexd.testing.answering.requests import (
    BodyRefusedError,
    ChatRequest,
    Function,
    FunctionTool,
    Message,
    Unsigned,
)
from cortexd.testing.answering.wire import Json

# What the node does itself, where it was started for it: nothing that a call comes back for.
_TOOLS_OF_THE_NODE = ("web_search", "web_search_preview", "code_interpreter", "shell")
_UNKNOWN_TO_OLDER_NODES = ("namespace", "web_search", "web_search_preview")
_BETWEEN_TEXTS = "\n\n"

Kind = TypeVar("Kind")


class ResponsesRequest(Struct, kw_only=True):
    """The body of POST /v1/responses; fields it does not know are ignored."""

    input: str | list[dict[str, Any]]
    model: str = "default"
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: Unsigned | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None

    def turns(self, *, is_older_node: bool = False) -> list[Message]:
        """Give what is said now; of a message's parts only their texts count.

        Raises BodyRefusedError for an item of a kind that the node does not know.
        """
        if isinstance(self.input, str):
            return [Message(role="user", content=self.input)]
        return [turn for item in self.input for turn in _turns_of(item, is_older_node)]

    def as_chat(self, before: Sequence[Message], *, is_older_node: bool = False) -> ChatRequest:
        """Give the chat that this is, after the turns of the conversation ``before``.

        Raises BodyRefusedError for a tool or an item of a kind that the node does not know.
        """
        system = [Message(role="system", content=self.instructions)] if self.instructions else []
        functions = [
            FunctionTool(function)
            for place, tool in enumerate(self.tools or ())
            for function in _functions_in(tool, place, is_older_node)
        ]
        choice = self.tool_choice
        if isinstance(choice, dict) and "function" not in choice:
            choice = {**choice, "function": {"name": choice.get("name")}}
        return ChatRequest(
            model=self.model,
            messages=[*system, *before, *self.turns(is_older_node=is_older_node)],
            max_tokens=self.max_output_tokens,
            tools=[*functions] or None,
            tool_choice=choice if functions else None,
        )

    def namespaced(self) -> dict[str, tuple[str, str]]:
        """Give name and namespace of each tool that the model knows by both in one.

        Raises BodyRefusedError as `as_chat` does.
        """
        return {
            f"{tool['name']}.{function.name}": (function.name, tool["name"])
            for place, tool in enumerate(self.tools or ())
            if tool.get("type") == "namespace"
            for function in _functions_of(tool, place)
        }


def new_id() -> str:
    """Give the id of a new response, which no other process gives."""
    return f"resp_{uuid.uuid4()}"


def said_in(response: Json) -> Message:
    """Give what a response says as a turn of the conversation that goes on from it."""
    texts = [item["content"][0]["text"] for item in response["output"] if "content" in item]
    calls = [_call_in(item) for item in response["output"] if item["type"] == "function_call"]
    return Message(role="assistant", content="".join(texts) or None, tool_calls=calls or None)


def _turns_of(item: Json, is_older_node: bool) -> Iterator[Message]:
    kind = item.get("type", "message")
    if kind == "message" and "content" in item:
        role = str(item.get("role", "user"))
        parts = _texts(item["content"])
        if is_older_node and len(parts) > 1:
            # The chat it becomes refuses that of anyone but the user.
            yield Message(role=role, content=[{"type": "text", "text": text} for text in parts])
        else:
            yield Message(role=role, content=_BETWEEN_TEXTS.join(parts))
    elif kind == "function_call":
        yield Message(role="assistant", tool_calls=[_call_in(item)])
    elif kind == "function_call_output" and isinstance(item.get("output"), str):
        yield Message(role="tool", content=item["output"], tool_call_id=str(item.get("call_id")))
    elif kind != "item_reference" and (kind != "reasoning" or is_older_node):
        raise _no_variant("input", "OpenResponsesInput")


def _texts(content: object) -> list[str]:
    if isinstance(content, list):
        return [str(part.get("text", "")) for part in content if isinstance(part, dict)]
    return [str(content)]


def _call_in(item: Json) -> Json:
    """Give a call as a chat has it, under the name by which the model knows the function."""
    name = str(item.get("name"))
    if item.get("namespace") is not None:
        name = f"{item['namespace']}.{name}"
    function = {"name": name, "arguments": str(item.get("arguments"))}
    return {"id": item.get("call_id"), "type": "function", "function": function}


def _functions_in(tool: Json, place: int, is_older_node: bool) -> Iterator[Function]:
    """Yield the functions that a tool is for the model."""
    kind = tool.get("type")
    if is_older_node and kind in _UNKNOWN_TO_OLDER_NODES:
        raise _no_variant(f"tools[{place}]", "OpenAiTool")
    if kind == "namespace":
        for function in _functions_of(tool, place):
            yield structs.replace(function, name=f"{tool['name']}.{function.name}")
    elif kind == "function":
        yield _function(tool.get("function", tool), place)
    elif kind not in _TOOLS_OF_THE_NODE:
        raise _no_variant(f"tools[{place}]", "OpenAiTool")


class _Namespace(Struct):
    name: str
    tools: list[dict[str, Any]]


def _functions_of(namespace: Json, place: int) -> list[Function]:
    """Give the functions in a namespace, whatever else is in it."""
    entries = _converted(namespace, _Namespace, place).tools
    return [_function(entry, place) for entry in entries if entry.get("type") == "function"]


def _function(fields: object, place: int) -> Function:
    return _converted(fields, Function, place)


def _converted(tool: object, into: type[Kind], place: int) -> Kind:
    try:
        return msgspec.convert(tool, into)
    except msgspec.ValidationError:
        raise _no_variant(f"tools[{place}]", "OpenAiTool") from None


def _no_variant(field: str, enumeration: str) -> BodyRefusedError:
    """Give the refusal of a whole body, as the framework words it: it does not say the kind."""
    return BodyRefusedError(
        422,
        "Failed to deserialize the JSON body into the target type: "
        f"{field}: data did not match any variant of untagged enum {enumeration}",
    )


class ResponseStore:
    """What a process keeps, without bound: responses, conversations and tasks, by id."""

    def __init__(self) -> None:
        self._responses: dict[str, Json] = {}
        self._conversations: dict[str, list[Message]] = {}
        self._tasks: set[str] = set()

    def keep(self, response: Json, conversation: Sequence[Message] = ()) -> None:
        """Keep a response and what was said up to it."""
        self._responses[response["id"]] = response
        self._conversations[response["id"]] = list(conversation)

    def begin_task(self, response: Json) -> None:
        """Keep a response that is made in the background."""
        self._tasks.add(response["id"])
        self._responses[response["id"]] = response

    def conversation(self, name: str | None) -> list[Message]:
        """Give what was said up to a response, nothing where there is none of the id."""
        return self._conversations.get(name or "", [])

    def find(self, name: str) -> Json | None:
        """Give a response."""
        return self._responses.get(name)

    def delete(self, name: str) -> bool:
        """Forget a response; False where there was none."""
        self._conversations.pop(name, None)
        self._tasks.discard(name)
        return self._responses.pop(name, None) is not None

    def cancel(self, name: str) -> Json | None:
        """Mark a task as cancelled, though it runs on; None where the id is of no task."""
        if name not in self._tasks:
            return None
        self._responses[name]["status"] = "cancelled"
        return self._responses[name]
