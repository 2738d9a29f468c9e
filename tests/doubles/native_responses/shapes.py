"""The wire format of a response: whole, or as named events.

A node's responses differ from OpenAI's. `reasoning` is a string, a text has no annotations, usage
has no details, and no response is `incomplete`. In a stream, reasoning has no part, no event marks
the end of a text, a call is complete from its first event and done before the message, and its
index leaves room for a message that may not come. On an older node the difference is larger: an
event has the call's arguments, but neither the stream nor the final response names the function.

Checked against `responses.rs` and `responses_types` of mistral.rs 9e922623 (nodes.md 6.1, 6.2, 6.9
to 6.13).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cortexd.testing.answering.answers import Answer, Token, ToolCall
from cortexd.testing.answering.wire import Cause, Heading, Json, Shape, Timings


@dataclass(frozen=True, kw_only=True)
class ResponseTerms:
    """The parts of a request that its response depends on.

    `echoed` has the request's fields that the response repeats. `namespaced` has name and
    namespace of each tool whose name for the model combines both. `call_ids` has as many ids as an
    answer may have calls.
    """

    id: str
    echoed: Json
    namespaced: Mapping[str, tuple[str, str]]
    call_ids: Sequence[str]
    is_of_older_node: bool = False


class ResponseShape(Shape):
    """Responses: whole, or as named events.

    `keep` is called with the finished response, None for a streamed one, and with the answer.
    """

    def __init__(
        self,
        heading: Heading,
        terms: ResponseTerms,
        keep: Callable[[Json | None, Answer], None],
    ) -> None:
        super().__init__(heading)
        self._terms = terms
        self._keep = keep
        self._events = 0
        self._is_in_progress = False
        self._thoughts = ""
        self._has_thoughts = False
        self._are_thoughts_done = False
        self._text = ""
        self._has_message = False

    def bare(self, status: str, **fields: object) -> Json:
        """Return a response with nothing of its request, as background work has it."""
        return {
            "id": self._terms.id,
            "object": "response",
            "created_at": self._heading.created,
            "model": self._heading.model,
            "status": status,
            "output": [],
            **fields,
        }

    def whole(self, answers: Sequence[Answer], timings: Timings) -> Json:
        """Return the finished response."""
        answer = answers[0]
        response = self._finished(answer, self._calls(answer))
        self._keep(response, answer)
        return response

    def opening(self) -> list[Json]:
        """Return the event before the first token: the node has accepted the request."""
        return [self._event("response.created", response=self._resource("queued"))]

    def chunk(self, index: int, token: Token) -> list[Json]:
        """Return the events of one token."""
        events = self._begun()
        if token.reasoning:
            return [*events, *self._reasoning_delta(token.text)]
        if token.call is None:
            events += [*self._thoughts_ended(), *self._text_delta(token.text)]
        return events

    def last_chunk(
        self, index: int, answer: Answer, token: Token | None, timings: Timings
    ) -> list[Json]:
        """Return the events that end the response."""
        last = token if token is not None else Token("")
        events = self._begun()
        calls = self._calls(answer)
        if last.reasoning:
            events += self._reasoning_delta(last.text)
        elif not calls:
            events += [*self._thoughts_ended(), *self._text_delta(last.text)]
        events += self._thoughts_ended()
        if self._terms.is_of_older_node:
            events += [
                self._call_event("response.function_call_arguments.delta", 0, call, "delta")
                for call in calls
            ]
            calls = []
        first = int(self._has_thoughts) + 1
        for output_index, call in enumerate(calls, start=first):
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
        if self._has_message:
            item = self._message("completed", [_part(self._text)])
            events += [
                self._part_event("response.content_part.done", part=_part(self._text)),
                self._event("response.output_item.done", output_index=first - 1, item=item),
            ]
        response = self._finished(answer, calls)
        self._keep(None, answer)
        return [*events, self._event("response.completed", response=response)]

    def failure(self, message: str, cause: Cause) -> Json:
        """Return an error inside the stream: a failed response, or an event that clients ignore."""
        error = {"type": f"{cause}_error", "message": message}
        if cause == "model":
            return self._event("response.failed", response=self._resource("failed", error=error))
        return self._event("error", error=error)

    def _begun(self) -> list[Json]:
        if self._is_in_progress:
            return []
        self._is_in_progress = True
        return [self._event("response.in_progress", response=self._resource("in_progress"))]

    def _reasoning_delta(self, text: str) -> list[Json]:
        events: list[Json] = []
        if not self._has_thoughts:
            self._has_thoughts = True
            item = self._reasoning("in_progress", "")
            events.append(self._event("response.output_item.added", output_index=0, item=item))
        self._thoughts += text
        return [*events, self._thought_event("response.reasoning_text.delta", delta=text)]

    def _thoughts_ended(self) -> list[Json]:
        if not self._has_thoughts or self._are_thoughts_done:
            return []
        self._are_thoughts_done = True
        item = self._reasoning("completed", self._thoughts)
        return [
            self._thought_event("response.reasoning_text.done", text=self._thoughts),
            self._event("response.output_item.done", output_index=0, item=item),
        ]

    def _text_delta(self, text: str) -> list[Json]:
        events: list[Json] = []
        if not self._has_message:
            self._has_message = True
            at = {"output_index": int(self._has_thoughts)}
            item = self._message("in_progress", [])
            events += [
                self._event("response.output_item.added", **at, item=item),
                self._part_event("response.content_part.added", part=_part("")),
            ]
        self._text += text
        return [*events, self._part_event("response.output_text.delta", delta=text)]

    def _resource(self, status: str, **fields: object) -> Json:
        return self.bare(status, **self._terms.echoed, **fields)

    def _finished(self, answer: Answer, calls: Sequence[Json]) -> Json:
        text, thoughts = answer.content, answer.reasoning
        response = self._resource("completed", completed_at=self._heading.created)
        output = [self._reasoning("completed", thoughts)] if thoughts else []
        output += calls
        if text:
            output.append(self._message("completed", [_part(text)]))
            response["output_text"] = text
        if thoughts:
            response["reasoning"] = thoughts
        usage = {
            "input_tokens": answer.prompt.tokens,
            "output_tokens": len(answer.tokens),
            "total_tokens": answer.prompt.tokens + len(answer.tokens),
        }
        return {**response, "output": output, "usage": usage}

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

    def _reasoning(self, status: str, text: str) -> Json:
        return {
            "id": f"rs_{self._suffix}",
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": text}] if text else [],
            "status": status,
        }

    def _thought_event(self, kind: str, **fields: object) -> Json:
        at = {"item_id": f"rs_{self._suffix}", "output_index": 0, "content_index": 0}
        return self._event(kind, **at, **fields)

    def _part_event(self, kind: str, **fields: object) -> Json:
        at = {"output_index": int(self._has_thoughts), "content_index": 0}
        return self._event(kind, **at, **fields)

    def _call_event(self, kind: str, output_index: int, call: Json, key: str) -> Json:
        fields = {"call_id": call["call_id"], key: call["arguments"]}
        return self._event(kind, output_index=output_index, **fields)

    def _event(self, kind: str, **fields: object) -> Json:
        number, self._events = self._events, self._events + 1
        return {"type": kind, "sequence_number": number, **fields}


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text}
