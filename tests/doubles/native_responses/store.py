"""The responses that a process of a node stores, in its memory (nodes.md 6.4)."""

from collections.abc import Sequence
from typing import Any

from cortexd.testing.answering.requests import Message
from cortexd.testing.answering.wire import Json


class ResponseStore:
    """The responses, conversations and background tasks of a process, by id, without a limit."""

    def __init__(self) -> None:
        self._responses: dict[str, Json] = {}
        self._conversations: dict[str, list[Message]] = {}
        self._tasks: dict[str, Json] = {}

    def keep(self, response: Json) -> None:
        """Store a response."""
        self._responses[response["id"]] = response

    def keep_conversation(self, name: str, conversation: Sequence[Message]) -> None:
        """Store the conversation up to a response, whether the response itself is stored or not."""
        self._conversations[name] = list(conversation)

    def set_task(self, response: Json) -> None:
        """Store the state of background work, unless its response was deleted meanwhile."""
        if response["status"] == "queued" or response["id"] in self._tasks:
            self._tasks[response["id"]] = response

    def conversation(self, name: str | None) -> list[Message]:
        """Return the conversation up to a response, empty for an unknown id."""
        return self._conversations.get(name or "", [])

    def find(self, name: str) -> Json | None:
        """Return a response; the state of background work comes first."""
        return self._tasks.get(name) or self._responses.get(name)

    def delete(self, name: str) -> bool:
        """Delete a response; False if neither it nor its conversation exists."""
        stores: tuple[dict[str, Any], ...] = (self._tasks, self._responses, self._conversations)
        found = [store.pop(name, None) for store in stores]
        return found != [None] * len(found)

    def cancel(self, name: str) -> Json | None:
        """Mark unfinished work as cancelled, although it continues; None if there is none.

        Its result replaces the mark when it ends.
        """
        task = self._tasks.get(name)
        if task is None or task["status"] not in ("queued", "in_progress"):
            return None
        self._tasks[name] = {**task, "status": "cancelled"}
        return self._tasks[name]
