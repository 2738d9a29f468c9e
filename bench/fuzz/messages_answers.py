"""A simulated node's answers to Messages: as a mistral.rs node sends them, as the full API sends
them, and as neither should.
"""

from __future__ import annotations

import json
from random import Random

from bench.fuzz.answers import EVENT_STREAM, JSON, Answers, AnswerWriter, NodeAnswer, Said
from bench.fuzz.bodies import INPUTS, TEXTS, Json
from bench.fuzz.mutations import damage, encode, mutate
from bench.simulator.fleets import seeded
from tests.doubles.messages_api.requests import envelope

_STOP_REASONS = (
    *("end_turn", "end_turn", "end_turn", "max_tokens", "stop_sequence", "pause_turn", "refusal"),
    *("model_context_window_exceeded", "a_reason_of_next_year"),
)
_ERRORS = (
    (400, "prompt is too long: 212 tokens > 128 maximum"),
    (400, "messages: text content blocks must be non-empty"),
    (401, "invalid x-api-key"),
    (402, "Your credit balance is too low"),
    (403, "Your key may not use this model"),
    (404, "model: acme/chat"),
    (413, "Request exceeds the maximum size"),
    (429, "This request would exceed your rate limit"),
    (500, "Internal server error"),
    (503, ""),
    (504, "Request timed out"),
    (529, "Overloaded"),
)
_LINES_OF_ERRORS = (
    b"No response received from the model.",
    b'{"error":"OOM"}',
    b'{"type":"error"}',
    b'{"type":"error","error":{"type":[],"message":5}}',
    b"[]",
    b"5",
    b"[DONE]",
)
_CHAT_CHUNK = b'{"id":"7","object":"chat.completion.chunk","choices":[{"index":0,"delta":{}}]}'
_PING: Json = {"type": "ping"}
_FULL_USAGE: Json = {
    "input_tokens": 11,
    "cache_creation_input_tokens": 3,
    "cache_read_input_tokens": 4,
    "output_tokens": 7,
}
_CITATIONS: tuple[Json, ...] = (
    {"type": "web_search_result_location", "url": "https://a", "title": "a", "cited_text": "b"},
    {"type": "char_location", "cited_text": "b", "document_index": 0},
)


def messages_answers(seed: int) -> Answers:
    """Return the answers of nodes that speak Messages."""
    return Answers.of(_MessagesWriter(seeded("messages answers", seed)))


class _MessagesWriter(AnswerWriter):
    def __init__(self, chance: Random) -> None:
        super().__init__(chance)
        self._said = Said()
        self._index = 0
        self._step = 1

    def stream(self) -> NodeAnswer:
        frames = [_frame(event) for event in self._events()]
        if self.likely(0.03):  # names are for browsers; the data say what it is
            frames = [b"data: " + frame.partition(b"\ndata: ")[2] for frame in frames]
        written = b"".join(frames)
        said = self._said
        return NodeAnswer(200, EVENT_STREAM, self.cut(written), is_fault=False, said=said)

    def body(self) -> NodeAnswer:
        return NodeAnswer(200, JSON, (json.dumps(self._message()).encode(),), is_fault=False)

    def bad_stream(self) -> NodeAnswer:
        if self.likely(0.1):
            return self.error()
        chance, events = self._chance, self._events()
        place = int(chance.random() * len(events))
        frames = [_frame(event) for event in events]
        is_broken = False
        match int(chance.random() * 10):
            case 0 | 1:
                is_broken = True
                frames[place:] = [b"data: [DONE]\n\n"] if self.likely(0.2) else []
            case 2 | 3 | 4:
                changed = encode(mutate(events[place], chance), chance).replace(b"\n", b" ")
                frames[place] = _named(str(events[place]["type"]), changed)
            case 5:
                is_broken = True
                frames.insert(place, self._error_event())
            case 6:
                frames[place : place + 2] = frames[place : place + 2][:: self.pick((-1, 2))]
            case 7:
                frames.insert(int(chance.random() * len(frames)), frames[place])
            case 8:
                is_broken = True
                if self.likely(0.5):
                    events[-2]["delta"]["stop_reason"] = self.pick((None, "", 5, ["end_turn"]))
                    frames = [_frame(event) for event in events]
                else:
                    frames[0] = b"data: " + _CHAT_CHUNK + b"\n\n"
            case _:
                frames = [damage(b"".join(frames), chance)]
        pieces = self.cut(b"".join(frames))
        return NodeAnswer(200, EVENT_STREAM, pieces, True, self.likely(0.4), is_broken)

    def bad_body(self) -> NodeAnswer:
        return self.error() if self.likely(0.3) else self.spoilt_body(self._message())

    def error(self) -> NodeAnswer:
        if self.likely(0.3):
            return super().error()
        status, words = self.pick(_ERRORS)
        said = {**envelope(status, words), "request_id": "req_1"}
        return NodeAnswer(status, JSON, (json.dumps(said).encode(),), is_fault=True)

    def _error_event(self) -> bytes:
        if self.likely(0.6):
            return _frame(envelope(*self.pick(_ERRORS)))
        line = self.pick(_LINES_OF_ERRORS)
        return _named("error", line) if self.likely(0.5) else b"data: " + line + b"\n\n"

    def _message(self) -> Json:
        content: list[Json] = [{"type": "text", "text": self.pick(TEXTS)}]
        ending = {"stop_reason": "end_turn", "stop_sequence": None, "usage": _FULL_USAGE}
        return {**_HEAD, "content": content, **ending}

    def _events(self) -> list[Json]:
        """Return the events of a good answer; what it says is then in ``_said``."""
        self._said, self._index = Said(), 0
        self._step = 1 if self.likely(0.95) else 3
        is_full = self.likely(0.6)
        usage = _FULL_USAGE if is_full else {"input_tokens": 0, "output_tokens": 0}
        ending: Json = {"stop_reason": None, "stop_sequence": None}
        events: list[Json] = [
            {"type": "message_start", "message": {**_HEAD, "content": [], **ending, "usage": usage}}
        ]
        if self.likely(0.4):
            events += self._thinking(is_signed=is_full)
        if self.likely(0.05):
            events += self._block({"type": "redacted_thinking", "data": "abc"}, [])
        if self.likely(0.8):
            events += self._text_block()
            if self.likely(0.08):
                events += self._searched() + self._text_block()
        reason = self.pick(_STOP_REASONS)
        if self.likely(0.4):
            reason = "tool_use"
            for _ in range(1 + self.count(2)):
                events += self._call()
        events = [event for each in events for event in self._with_company(each)]
        ending = {
            "stop_reason": reason,
            "stop_sequence": "a" if reason == "stop_sequence" else None,
        }
        if reason == "refusal":
            ending["stop_details"] = self.pick((None, {"type": "refusal", "explanation": "no"}))
        told = _FULL_USAGE if is_full else {"output_tokens": 7}
        if self.likely(0.05):
            events.append({"type": "message_delta", "delta": {}, "usage": told})
        events.append({"type": "message_delta", "delta": ending, "usage": told})
        return [*events, {"type": "message_stop"}]

    def _with_company(self, event: Json) -> list[Json]:
        """Return an event, with one before it that says nothing."""
        if event["type"] == "message_start" or self.likely(0.93):
            return [event]
        return [self.pick((_PING, {"type": "brand_new_event", "index": 0})), event]

    def _block(self, start: Json, deltas: list[Json]) -> list[Json]:
        at = {"index": self._index}
        self._index += self._step
        return [
            {"type": "content_block_start", **at, "content_block": start},
            *({"type": "content_block_delta", **at, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", **at},
        ]

    def _thinking(self, *, is_signed: bool) -> list[Json]:
        thoughts = [self.text() for _ in range(self.count(3))]
        self._said = self._said._replace(thinking=self._said.thinking + "".join(thoughts))
        deltas: list[Json] = [{"type": "thinking_delta", "thinking": each} for each in thoughts]
        start: Json = {"type": "thinking", "thinking": ""}
        if is_signed:
            start["signature"] = ""
            deltas.append({"type": "signature_delta", "signature": "EqQBCg"})
        return self._block(start, deltas)

    def _text_block(self) -> list[Json]:
        begun = self.text() if self.likely(0.05) else ""
        texts = [self.text() for _ in range(self.count(6))]
        self._say("".join([begun, *texts]))
        deltas: list[Json] = [{"type": "text_delta", "text": text} for text in texts]
        if self.likely(0.1):
            deltas.append({"type": "citations_delta", "citation": self.pick(_CITATIONS)})
        return self._block({"type": "text", "text": begun}, deltas)

    def _say(self, text: str) -> None:
        self._said = self._said._replace(text=self._said.text + text)

    def _searched(self) -> list[Json]:
        """Return what a server's own tool did: blocks that nobody but its own clients know."""
        query = {"type": "input_json_delta", "partial_json": '{"query":"a"}'}
        asked = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
        found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
        self._say("found")
        said = {"type": "text_delta", "text": "found"}
        return [
            *self._block(asked, [query]),
            *self._block(found, []),
            *self._block({"type": "text", "text": ""}, [said]),
        ]

    def _call(self) -> list[Json]:
        call_id, name = self.call_id(), self.pick(("weather", "Read", "mcp__files__read-file"))
        start: Json = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
        given, pieces = self.pick(INPUTS), [""]
        arguments = json.dumps(given)
        middle = int(self._chance.random() * len(arguments))
        if self.likely(0.1):
            start["input"] = given
        elif self.likely(0.8):
            pieces += [arguments[:middle], arguments[middle:]]
        else:
            given, pieces = {}, []
        called = (call_id, name, json.dumps(given, sort_keys=True))
        self._said = self._said._replace(calls=(*self._said.calls, called))
        return self._block(
            start, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        )


_HEAD: Json = {"id": "msg_1", "type": "message", "role": "assistant", "model": "acme/chat"}


def _frame(event: Json) -> bytes:
    return _named(event["type"], json.dumps(event, ensure_ascii=False).encode())


def _named(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


def count_answers(seed: int) -> Answers:
    """Return a Messages node's answers to a count of tokens."""
    return Answers.of(_CountWriter(seeded("count answers", seed)))


class _CountWriter(_MessagesWriter):
    """Writes counts; nobody asks for a stream of them."""

    def _message(self) -> Json:
        return {"input_tokens": 1 + self.count(100_000)}
