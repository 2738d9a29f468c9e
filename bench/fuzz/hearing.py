"""What a client hears of an answer, gathered from its pieces, and how a fault is raised."""

from __future__ import annotations

import json
import sys
from typing import Any

from bench.fuzz.answers import Said


class Wrong(Exception):
    """A client got a forbidden answer; the message names the fault, without any content."""


def need(holds: object, words: str) -> None:
    """Raise Wrong with these words unless something holds."""
    if not holds:
        raise Wrong(words)


def read_object(data: bytes, what: str) -> dict[str, Any]:
    """Return the object in ``data``, which the words for a fault call ``what``. Raises Wrong."""
    # What the client has sent comes back in it, nested as deeply as our own parser allows.
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(2 * limit)
    try:
        value = json.loads(data)
    except ValueError:
        raise Wrong(f"{what} is not JSON") from None
    finally:
        sys.setrecursionlimit(limit)
    need(isinstance(value, dict), f"{what} is not an object")
    found: dict[str, Any] = value
    return found


class Heard:
    """Gathers what a client hears of an answer."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[tuple[str, str, list[str]]] = []

    def take_block(self, block: dict[str, Any]) -> None:
        """Take a content block as it starts, or whole."""
        kind = block["type"]
        if kind == "text":
            self._texts.append(block["text"])
        elif kind == "thinking":
            self._thoughts.append(block["thinking"])
        elif kind == "tool_use":
            given = json.dumps(block["input"]) if block["input"] else ""
            self._calls.append((block["id"], block["name"], [given]))

    def take_block_delta(self, open_kind: str, delta: dict[str, Any]) -> None:
        """Take a delta of the block that is open."""
        if open_kind == "tool_use":
            self._calls[-1][2].append(delta.get("partial_json", ""))
        self._texts.append(delta["text"] if open_kind == "text" and "text" in delta else "")
        self._thoughts.append(delta.get("thinking", "") if open_kind == "thinking" else "")

    def take_delta(self, delta: dict[str, Any]) -> None:
        """Take a delta of a chat's choice, or its message."""
        self._texts.append(delta.get("content") or "")
        self._thoughts.append(delta.get("reasoning_content", ""))
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                self._calls.append((call["id"], call["function"]["name"], []))
            self._calls[-1][2].append(call["function"]["arguments"])

    def check(self, said: Said | None, *, drops_blanks: bool = False) -> None:
        """Raise Wrong where it is not what the node ``said``, as far as that is known.

        With ``drops_blanks``, texts of white space alone may be missing.
        """
        if said is None:
            return
        heard, text = "".join(self._texts), said.text
        if drops_blanks:
            heard, text = "".join(heard.split()), "".join(text.split())
        need(heard == text, "another text than the node's")
        need("".join(self._thoughts) == said.thinking, "other thoughts than the node's")
        calls = tuple(
            (call_id, name, json.dumps(json.loads("".join(pieces) or "{}"), sort_keys=True))
            for call_id, name, pieces in self._calls
        )
        need(calls == said.calls, "other calls than the node's")
