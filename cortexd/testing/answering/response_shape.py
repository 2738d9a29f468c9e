"""The wire format of a response: whole, or as named events.

A node's streams differ from OpenAI's: an event inside an item has no `item_id`, no event marks the
end of a text, and a tool call is complete from its first event. On an older node the difference is
larger: an event has the call's arguments, but neither the stream nor the final response names the
function.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cortexd.testing.answering.answers import Answer, Token, ToolCall
from cortexd.testing.answering.wire import Heading, Json, Shape, Timings


@dataclass(frozen=True, kw_only=True)
class ResponseTerms:
    """The parts of a request that its response depends on.

    `tools` are returned unchanged. `namespaced` has name and namespace of each tool whose name for
    the model combines both. `call_ids` has as many ids as an answer may have calls.
    """

    id: str
    tools: Sequence[Json]
    namespaced: Mapping[str, tuple[str, str]]
    call_ids: Sequence[str]
    is_of_older_node: bool = False


class ResponseShape(Shape):
    """Responses: whole, or as named events. `keep` is called with the finished response."""

    def __init__(
        self, heading: Heading, terms: ResponseTerms, keep: Callable[[Json], None]
    ) -> None:
        super().__init__(heading)
        self._terms = terms
        self._keep = keep
        self._events = 0
        self._is_in_progress = False
        self._has_message = False

    def resource(self, status: str) -> Json:
        """Return the response before it has any output."""
        return {
            "id": self._terms.id,
            "object": "response",
            "created_at": self._heading.created,
            "model": self._heading.model,
            "status": status,
            "output": [],
            "error": None,
            "incomplete_details": None,
            "metadata": None,
            "tools": list(self._terms.tools),
            "tool_choice": "auto",
            "parallel_tool_calls": True,
        }

    def whole(self, answers: Sequence[Answer], timings: Timings) -> Json:
        """Return the finished response."""
        answer = answers[0]
        return self._finished(answer, self._calls(answer), has_message=not answer.tool_calls)

    def opening(self) -> list[Json]:
        """Return the event before the first token: the node has accepted the request."""
        return [self._event("response.created", response=self.resource("queued"))]

    def chunk(self, index: int, token: Token) -> list[Json]:
        """Return the events of one token; reasoning has none."""
        events = self._begun()
        if token.reasoning or not token.text:
            return events
        if not self._has_message:
            self._has_message = True
            item = self._message("in_progress", [])
            events += [
                self._event("response.output_item.added", output_index=0, item=item),
                self._part_event("response.content_part.added", part=_part("")),
            ]
        return [*events, self._part_event("response.output_text.delta", delta=token.text)]

    def last_chunk(
        self, index: int, answer: Answer, token: Token | None, timings: Timings
    ) -> list[Json]:
        """Return the events that end the response."""
        events = self.chunk(index, token) if token is not None else self._begun()
        calls = self._calls(answer)
        if self._terms.is_of_older_node:
            events += [
                self._call_event("response.function_call_arguments.delta", 0, call, "delta")
                for call in calls
            ]
            calls = []
        for output_index, call in enumerate(calls, start=int(self._has_message)):
            at = {"output_index": output_index}
            events += [
                self._event("response.output_item.added", **at, item=call),
                self._call_event(
                    "response.function_call_arguments.delta", output_index, call, "delta"
                ),
                self._call_event(
                    "response.function_call_arguments.done", output_index, call, "arguments"
                ),
                self._event("response.output_item.done", **at, item=call),
            ]
        response = self._finished(answer, calls, has_message=self._has_message)
        if self._has_message:
            item = self._message("completed", [_part(answer.content)])
            events += [
                self._part_event("response.content_part.done", part=_part(answer.content)),
                self._event("response.output_item.done", output_index=0, item=item),
            ]
        return [*events, self._event(f"response.{response['status']}", response=response)]

    def failure(self, message: str, *, refused: bool) -> Json:
        """Return an engine's error inside the stream, which clients ignore."""
        code = "validation_error" if refused else "internal_error"
        return self._event("error", error={"code": code, "message": message})

    def _begun(self) -> list[Json]:
        if self._is_in_progress:
            return []
        self._is_in_progress = True
        return [self._event("response.in_progress", response=self.resource("in_progress"))]

    def _finished(self, answer: Answer, calls: Sequence[Json], *, has_message: bool) -> Json:
        was_cut = answer.finish_reason == "length"
        message = self._message("completed", [_part(answer.content)])
        response = {
            **self.resource("incomplete" if was_cut else "completed"),
            "output": [*([message] if has_message else []), *calls],
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

    def _calls(self, answer: Answer) -> list[Json]:
        calls = zip(answer.tool_calls, self._terms.call_ids, strict=False)
        return [self._call(number, call, call_id) for number, (call, call_id) in enumerate(calls)]

    def _call(self, number: int, call: ToolCall, call_id: str) -> Json:
        name, namespace = self._terms.namespaced.get(call.name, (call.name, None))
        return {
            "id": f"fc_{self._suffix}_{number}",
            "type": "function_call",
            "call_id": call_id,
            "name": name,
            **({"namespace": namespace} if namespace is not None else {}),
            "arguments": call.arguments,
            "status": "completed",
        }

    @property
    def _suffix(self) -> str:
        return self._terms.id.removeprefix("resp_")

    def _message(self, status: str, content: list[Json]) -> Json:
        return {
            "id": f"msg_{self._suffix}",
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _part_event(self, kind: str, **fields: object) -> Json:
        return self._event(kind, output_index=0, content_index=0, **fields)

    def _call_event(self, kind: str, output_index: int, call: Json, key: str) -> Json:
        fields = {"call_id": call["call_id"], key: call["arguments"]}
        return self._event(kind, output_index=output_index, **fields)

    def _event(self, kind: str, **fields: object) -> Json:
        number, self._events = self._events, self._events + 1
        return {"type": kind, "sequence_number": number, **fields}


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": []}
