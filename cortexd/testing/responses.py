"""Responses: a conversation that the node itself keeps, in the memory of its process.

An answer is the one that the same conversation gets as a chat. An id of a response that the node
does not have is not refused as the previous one: the conversation is then without its beginning,
and nobody is told.
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from cortexd.testing.answers import Answer, Token
from cortexd.testing.requests import ChatRequest, Message, Unsigned
from cortexd.testing.wire import Heading, Json, Timings


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

    def turns(self) -> list[Message]:
        """Give what is said now; of a message's parts only their texts count."""
        if isinstance(self.input, str):
            return [Message(role="user", content=self.input)]
        return [
            Message(role=str(item.get("role", "user")), content=_text(item["content"]))
            for item in self.input
            if "content" in item
        ]

    def as_chat(self, before: Sequence[Message]) -> ChatRequest:
        """Give the chat that this is, after the turns of the conversation ``before``."""
        system = [Message(role="system", content=self.instructions)] if self.instructions else []
        return ChatRequest(
            model=self.model,
            messages=[*system, *before, *self.turns()],
            max_tokens=self.max_output_tokens,
        )


def new_id() -> str:
    """Give the id of a new response, which no other process gives."""
    return f"resp_{uuid.uuid4()}"


def _text(content: object) -> str:
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content)


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


class ResponseShape:
    """Responses: whole, or as named events. ``keep`` is called with the finished response."""

    def __init__(self, heading: Heading, response_id: str, keep: Callable[[Json], None]) -> None:
        self._heading = heading
        self._id = response_id
        self._keep = keep
        self._events = 0

    @property
    def model(self) -> str:
        """The real id of the model that answers."""
        return self._heading.model

    def resource(self, status: str) -> Json:
        """Give the response as it is before there is anything in it."""
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._heading.created,
            "model": self._heading.model,
            "status": status,
            "output": [],
            "error": None,
            "incomplete_details": None,
            "metadata": None,
            "tools": [],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
        }

    def whole(self, answers: Sequence[Answer], timings: Timings) -> Json:
        """Give the finished response."""
        answer = answers[0]
        was_cut = answer.finish_reason == "length"
        response = {
            **self.resource("incomplete" if was_cut else "completed"),
            "output": [self._item("completed", [_part(answer.content)])],
            "usage": {
                "input_tokens": answer.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": len(answer.tokens),
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": answer.prompt_tokens + len(answer.tokens),
            },
        }
        self._keep(response)
        return response

    def opening(self) -> list[Json]:
        """Give the events before the first token."""
        return [
            self._event("response.created", response=self.resource("in_progress")),
            self._event("response.in_progress", response=self.resource("in_progress")),
            self._event(
                "response.output_item.added", output_index=0, item=self._item("in_progress", [])
            ),
            self._part_event("response.content_part.added", part=_part("")),
        ]

    def chunk(self, index: int, token: Token) -> list[Json]:
        """Give the event of one token."""
        return [
            self._part_event("response.output_text.delta", delta=token.text, logprobs=[])
            for _ in range(1 if token.text and not token.reasoning else 0)
        ]

    def last_chunk(
        self, index: int, answer: Answer, token: Token | None, timings: Timings
    ) -> list[Json]:
        """Give the events that end the response."""
        events = self.chunk(index, token) if token is not None else []
        response = self.whole([answer], timings)
        return [
            *events,
            self._part_event("response.output_text.done", text=answer.content, logprobs=[]),
            self._part_event("response.content_part.done", part=_part(answer.content)),
            self._event("response.output_item.done", output_index=0, item=response["output"][0]),
            self._event(f"response.{response['status']}", response=response),
        ]

    def failure(self, message: str) -> Json:
        """Give an error of the engine's inside the stream, which no client heeds."""
        return self._event("error", error={"code": "internal_error", "message": message})

    def _item(self, status: str, content: list[Json]) -> Json:
        return {
            "id": f"msg_{self._id.removeprefix('resp_')}",
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _part_event(self, kind: str, **fields: object) -> Json:
        item_id = self._item("", [])["id"]
        return self._event(kind, item_id=item_id, output_index=0, content_index=0, **fields)

    def _event(self, kind: str, **fields: object) -> Json:
        number, self._events = self._events, self._events + 1
        return {"type": kind, "sequence_number": number, **fields}


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": []}
