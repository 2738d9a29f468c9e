"""Checks of the responses that the gateway makes of another dialect, whole or as events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bench.fuzz.answers import Said
from bench.fuzz.hearing import Heard, Wrong, need

ENDS_OF_RESPONSES: Final = ("response.completed", "response.incomplete", "response.failed")

_FIELDS = (
    "id",
    "object",
    "created_at",
    "status",
    "error",
    "incomplete_details",
    "instructions",
    "metadata",
    "model",
    "output",
    "parallel_tool_calls",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
    "usage",
)
_FIELDS_OF_A_SIGN = ("id", "object", "created_at", "model", "output", "tools", "tool_choice")
_COUNTS = ("input_tokens", "output_tokens", "total_tokens")
_PREFIXES = {
    "message": "msg_",
    "reasoning": "rs_",
    "function_call": "fc_",
    "custom_tool_call": "ctc_",
}
_DELTAS = {
    "response.output_text.delta": "message",
    "response.reasoning_summary_text.delta": "reasoning",
    "response.function_call_arguments.delta": "function_call",
    "response.custom_tool_call_input.delta": "custom_tool_call",
}
_PARTS = ("response.content_part", "response.reasoning_summary_part")


def check_response(response: Any, said: Said | None) -> None:
    """Raise Wrong if a whole response is not one of the dialect, or not what the node ``said``."""
    need(isinstance(response, dict), "a response that is no object")
    need(all(name in response for name in _FIELDS), "a response without its fields")
    need(response["object"] == "response", "no response")
    need(response["id"].startswith("resp_"), "a response without our id")
    need(type(response["created_at"]) is int, "a response without its time")
    need(response["status"] in ("completed", "incomplete"), "a response that has not ended")
    is_cut = response["status"] == "incomplete"
    need((response["incomplete_details"] is not None) is is_cut, "no reason of the end")
    usage = response["usage"]
    need(all(type(usage[count]) is int for count in _COUNTS), "usage without its counts")
    details = usage["input_tokens_details"] | usage["output_tokens_details"]
    need(all(type(count) is int for count in details.values()), "usage without its details")
    for item in response["output"]:
        _check_item(item)
    heard = Heard()
    for item in response["output"]:
        _hear(heard, item)
    heard.check(said, drops_blanks=True)


def _check_item(item: dict[str, Any]) -> None:
    need(item["id"].startswith(_PREFIXES[item["type"]]), "an item without our id")
    if item["type"] == "message":
        (part,) = item["content"]
        need(part["annotations"] == [] == part["logprobs"], "a text without its lists")
    elif item["type"] == "reasoning":
        (part,) = item["summary"]
        need(isinstance(part["text"], str), "thinking that is no text")
    else:
        need(item["call_id"] and item["name"], "a call without id or name")


def _hear(heard: Heard, item: dict[str, Any]) -> None:
    if item["type"] == "message":
        heard.take_delta({"content": item["content"][0]["text"]})
    elif item["type"] == "reasoning":
        heard.take_delta({"reasoning_content": item["summary"][0]["text"]})
    elif item["type"] == "function_call":
        function = {"name": item["name"], "arguments": item["arguments"]}
        heard.take_delta({"tool_calls": [{"id": item["call_id"], "function": function}]})


def read_response_stream(events: Sequence[tuple[str, dict[str, Any]]], said: Said | None) -> bool:
    """Check events by their names; return whether the response has not failed. Raises Wrong."""
    reader = _ResponseEvents()
    for number, (name, event) in enumerate(events):
        need(event.get("type") == name, "an event whose name is not its type")
        need(event["sequence_number"] == number, "a sequence_number out of order")
        need(not reader.has_ended, "an event after the end")
        reader.take(name, event)
    need(reader.has_ended, "a stream without an end")
    response = events[-1][1]["response"]
    need(response["output"] == reader.done, "another output than the items")
    if response["status"] == "failed":
        need(response["error"]["code"] and response["error"]["message"], "no reason of the failure")
        return False
    need(reader.item is None, "an item that is never done")
    check_response(response, said)
    return True


class _ResponseEvents:
    """Follows the events of a response: one open item with one part, each done before the next."""

    def __init__(self) -> None:
        self.has_ended = False
        self.done: list[Any] = []
        self.item: dict[str, Any] | None = None
        self._id: str | None = None
        self._has_part = False
        self._text = ""

    def take(self, kind: str, event: dict[str, Any]) -> None:
        """Take the next event. Raises Wrong."""
        if "response" in event:
            self._take_response(kind, event["response"])
            return
        need(event["output_index"] == len(self.done), "an output_index out of order")
        if kind == "response.output_item.added":
            need(self.item is None, "two open items")
            self.item, self._text = event["item"], ""
        elif kind == "response.output_item.done":
            need(self.item is not None and not self._has_part, "an item that is done too early")
            need(event["item"]["id"] == (self.item or {})["id"], "an item that has changed its id")
            self.done.append(event["item"])
            self.item = None
        else:
            need(self.item is not None, "an event outside an item")
            need(event["item_id"] == (self.item or {})["id"], "an event of another item")
            self._take_inner(kind, event)

    def _take_response(self, kind: str, response: dict[str, Any]) -> None:
        need((self._id is None) is (kind == "response.created"), "response.created elsewhere")
        need(self._id in (None, response["id"]), "a response that has changed its id")
        self._id = response["id"]
        need(all(name in response for name in _FIELDS_OF_A_SIGN), "a response without its fields")
        self.has_ended = kind in ENDS_OF_RESPONSES
        is_beginning = kind in ("response.created", "response.in_progress")
        need(self.has_ended or is_beginning, "an event of a response that OpenAI has not")
        status = "in_progress" if is_beginning else kind.removeprefix("response.")
        need(response["status"] == status, "an event whose name is not the status")

    def _take_inner(self, kind: str, event: dict[str, Any]) -> None:
        name, _, step = kind.rpartition(".")
        if name in _PARTS:
            need(self._has_part is (step == "done"), "a part that is added or done twice")
            self._has_part = step == "added"
        elif step == "delta":
            need(_DELTAS.get(kind) == (self.item or {})["type"], "a delta of another item")
            self._text += event["delta"]
        elif step == "done":
            told = next(event[each] for each in ("text", "arguments", "input") if each in event)
            need(told == self._text, "another text than that of the deltas")
        else:
            raise Wrong("an event that OpenAI has not")
