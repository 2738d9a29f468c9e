"""Responses: conversations that the node itself stores, in the memory of its process.

An answer equals that of the same conversation as a chat. An unknown id of a previous response is
not an error: the conversation then silently lacks its beginning.
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

# Tools that the node runs itself, if it was started with them: the client gets no calls of them.
_TOOLS_OF_THE_NODE = ("web_search", "web_search_preview", "code_interpreter", "shell")
_UNKNOWN_TO_OLDER_NODES = ("namespace", "web_search", "web_search_preview")
_BETWEEN_TEXTS = "\n\n"

Kind = TypeVar("Kind")


class ResponsesRequest(Struct, kw_only=True):
    """The body of POST /v1/responses; unknown fields are ignored."""

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
        """Return the new turns; only the texts of a message's parts count.

        Raises BodyRefusedError for an item of an unknown kind.
        """
        if isinstance(self.input, str):
            return [Message(role="user", content=self.input)]
        return [turn for item in self.input for turn in _turns_of(item, is_older_node)]

    def as_chat(self, before: Sequence[Message], *, is_older_node: bool = False) -> ChatRequest:
        """Return the request as a chat that continues the conversation ``before``.

        Raises BodyRefusedError for a tool or an item of an unknown kind.
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
        """Return name and namespace of each tool whose name for the model combines both.

        Raises BodyRefusedError as `as_chat` does.
        """
        return {
            f"{tool['name']}.{function.name}": (function.name, tool["name"])
            for place, tool in enumerate(self.tools or ())
            if tool.get("type") == "namespace"
            for function in _functions_of(tool, place)
        }


def new_id() -> str:
    """Return a globally unique id for a new response."""
    return f"resp_{uuid.uuid4()}"


def said_in(response: Json) -> Message:
    """Return a response's output as a turn, for the conversation that continues it."""
    texts = [item["content"][0]["text"] for item in response["output"] if "content" in item]
    calls = [_call_in(item) for item in response["output"] if item["type"] == "function_call"]
    return Message(role="assistant", content="".join(texts) or None, tool_calls=calls or None)


def _turns_of(item: Json, is_older_node: bool) -> Iterator[Message]:
    kind = item.get("type", "message")
    if kind == "message" and "content" in item:
        role = str(item.get("role", "user"))
        parts = _texts(item["content"])
        if is_older_node and len(parts) > 1:
            # The resulting chat rejects parts of any role but the user.
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
    """Return a call in a chat's format, with the function's name for the model."""
    name = str(item.get("name"))
    if item.get("namespace") is not None:
        name = f"{item['namespace']}.{name}"
    function = {"name": name, "arguments": str(item.get("arguments"))}
    return {"id": item.get("call_id"), "type": "function", "function": function}


def _functions_in(tool: Json, place: int, is_older_node: bool) -> Iterator[Function]:
    """Yield the functions that the model gets for a tool."""
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
    """Return the functions in a namespace; ignore its other tools."""
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
    """Return the framework's error for a whole body, which does not name the unknown kind."""
    return BodyRefusedError(
        422,
        "Failed to deserialize the JSON body into the target type: "
        f"{field}: data did not match any variant of untagged enum {enumeration}",
    )


class ResponseStore:
    """The responses, conversations and tasks of a process, by id, without a limit."""

    def __init__(self) -> None:
        self._responses: dict[str, Json] = {}
        self._conversations: dict[str, list[Message]] = {}
        self._tasks: set[str] = set()

    def keep(self, response: Json, conversation: Sequence[Message] = ()) -> None:
        """Store a response and the conversation up to it."""
        self._responses[response["id"]] = response
        self._conversations[response["id"]] = list(conversation)

    def begin_task(self, response: Json) -> None:
        """Store a background response."""
        self._tasks.add(response["id"])
        self._responses[response["id"]] = response

    def conversation(self, name: str | None) -> list[Message]:
        """Return the conversation up to a response, empty for an unknown id."""
        return self._conversations.get(name or "", [])

    def find(self, name: str) -> Json | None:
        """Return a response."""
        return self._responses.get(name)

    def delete(self, name: str) -> bool:
        """Delete a response; False if it does not exist."""
        self._conversations.pop(name, None)
        self._tasks.discard(name)
        return self._responses.pop(name, None) is not None

    def cancel(self, name: str) -> Json | None:
        """Mark a task as cancelled, although it continues; None if the id is not that of a task."""
        if name not in self._tasks:
            return None
        self._responses[name]["status"] = "cancelled"
        return self._responses[name]
