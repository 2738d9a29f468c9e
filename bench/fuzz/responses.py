"""Responses: good bodies, and the answers to them of a node that gets them as they are."""

from __future__ import annotations

import json

from bench.fuzz.answers import EVENT_STREAM, JSON, Answers, AnswerWriter, NodeAnswer
from bench.fuzz.bodies import MODEL, SCHEMAS, Grammar, Json
from bench.fuzz.mutations import damage, encode, mutate
from bench.simulator.fleets import seeded


class ResponsesGrammar(Grammar):
    """Makes bodies of the OpenAI responses dialect."""

    def body(self) -> Json:
        """Return the body of a request for a response."""
        body: Json = {"model": MODEL, "input": self.text() if self.likely(0.3) else self._items()}
        if self.likely(0.4):
            body["tools"] = [self._tool(), *self.some(self._tool, 3)]
            if self.likely(0.3):
                body["tool_choice"] = self._choice(body["tools"][0])
        for field, values in (
            ("stream", (True, True, True, False, None)),
            ("instructions", ("Be brief.", None)),
            ("store", (False, True, None)),
            ("max_output_tokens", (1, 100)),
            ("parallel_tool_calls", (False, True, None)),
            ("temperature", (0, 0.7, 2)),
            ("reasoning", ({"effort": "high"}, {"effort": "max", "summary": "auto"}, None)),
            ("text", (_FORMAT, {"verbosity": "low"}, {"format": {"type": "text"}})),
            ("include", (["reasoning.encrypted_content"],)),
            ("metadata", ({"a": "b"}, None)),
            ("client_metadata", ({"turn": "1"},)),
            ("brand_new_field", ({"a": 1}, "on", 5)),
        ):
            if self.likely(0.6 if field in ("stream", "store") else 0.15):
                body[field] = self.pick(values)
        return body

    def _items(self) -> list[Json]:
        items: list[Json] = []
        for _ in range(1 + self.count(3)):
            items.append(self._message())
            if self.likely(0.5):
                items += self._turn()
        if not items[-1]["type"].endswith("_output") or self.likely(0.3):
            items.append(self._message())
        last = items[-1]
        if last.get("role") in ("system", "developer") and not last["content"].strip():
            last["role"] = "user"  # blank words of the developer would be no turn to answer
        return items

    def _message(self) -> Json:
        if self.likely(0.3):
            role = self.pick(("user", "system", "developer"))
            return {"type": "message", "role": role, "content": self.text()}
        content: list[Json] = [{"type": "input_text", "text": self.text()}]
        if self.likely(0.1):
            content.append({"type": "input_image", "image_url": _PICTURE, "detail": "auto"})
        return {"type": "message", "role": "user", "content": content}

    def _turn(self) -> list[Json]:
        """Return a turn of the model, with results of its calls."""
        turn: list[Json] = []
        results: list[Json] = []
        if self.likely(0.4):
            turn.append(self._thoughts())
        if self.likely(0.5):
            text = {"type": "output_text", "text": self.text(), "annotations": []}
            turn.append({"type": "message", "role": "assistant", "id": "msg_1", "content": [text]})
        for _ in range(self.count(3)):
            call, result = self._call()
            turn.append(call)
            results.append(result)
        if self.likely(0.15):
            turn.append(self.pick(_RECORDS))
        return [*turn, *results] if self.likely(0.9) else [*turn, *reversed(results)]

    def _thoughts(self) -> Json:
        summary = [{"type": "summary_text", "text": self.text()}] if self.likely(0.6) else []
        thoughts: Json = {"type": "reasoning", "id": "rs_1", "summary": summary}
        if self.likely(0.5):
            thoughts["encrypted_content"] = self.pick(("gAAAAB", "cortex1.aGk="))
        return thoughts

    def _call(self) -> tuple[Json, Json]:
        call_id = self.call_id()
        output: object = self.text()
        if self.likely(0.3):
            output = [{"type": "input_text", "text": self.text()}]
        if self.likely(0.1):
            output = [{"type": "input_image", "image_url": _PICTURE}]
        if self.likely(0.2):
            call = {"call_id": call_id, "name": "patch", "input": self.text()}
            result = {"type": "custom_tool_call_output", "call_id": call_id, "output": output}
            return {"type": "custom_tool_call", **call}, result
        call = {"call_id": call_id, "name": self.name(), "arguments": "{}"}
        result = {"type": "function_call_output", "call_id": call_id, "output": output}
        return {"type": "function_call", **call}, result

    def _tool(self) -> Json:
        if self.likely(0.1):
            return {"type": "custom", "name": "patch", "format": self.pick(_FORMATS)}
        if self.likely(0.1):
            return {"type": "web_search", "external_web_access": False}
        function = {"type": "function", "name": self.name(), "parameters": self.pick(SCHEMAS)}
        if self.likely(0.2):
            return {"type": "namespace", "name": "files", "tools": [function]}
        return function

    def _choice(self, tool: Json) -> object:
        if tool["type"] in ("function", "custom"):
            named = {"type": tool["type"], "name": tool["name"]}
            allowed = {"type": "allowed_tools", "mode": "auto", "tools": [named]}
            return self.pick((named, allowed, "auto", "none", "required"))
        return self.pick(("auto", "none"))


_PICTURE = "data:image/png;base64,iVBORw0KGgo="
_FORMAT = {
    "format": {"type": "json_schema", "name": "n", "schema": SCHEMAS[1], "strict": True},
}
_FORMATS = (
    {"type": "text"},
    {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
)
_RECORDS: tuple[Json, ...] = (
    {"type": "compaction", "encrypted_content": "x"},
    {"type": "item_reference", "id": "msg_9"},
    {"type": "web_search_call", "id": "ws_1", "action": {"type": "search", "query": "rain"}},
    {"type": "local_shell_call", "id": "s", "call_id": "s1", "action": {"command": ["ls"]}},
    {"type": "mcp_call", "id": "mcp_1", "name": "get", "arguments": "{}", "output": "7"},
)


def responses_answers(seed: int) -> Answers:
    """Return a mistral.rs node's answers to requests for a response."""
    return Answers.of(_ResponsesWriter(seeded("responses answers", seed)))


class _ResponsesWriter(AnswerWriter):
    def stream(self) -> NodeAnswer:
        written = b"".join(_frame(event) for event in self._events())
        return NodeAnswer(200, EVENT_STREAM, self.cut(written), is_fault=False)

    def body(self) -> NodeAnswer:
        body = json.dumps(self._response("completed")).encode()
        return NodeAnswer(200, JSON, (body,), is_fault=False)

    def bad_stream(self) -> NodeAnswer:
        if self.likely(0.1):
            return self.error()
        chance, events = self._chance, self._events()
        place = int(chance.random() * len(events))
        frames = [_frame(event) for event in events]
        is_broken = True
        match int(chance.random() * 4):
            case 0:
                frames[place:] = []
            case 1:
                is_broken = False
                changed = encode(mutate(events[place], chance), chance).replace(b"\n", b" ")
                name = str(events[place]["type"]).encode()
                frames[place] = b"event: " + name + b"\ndata: " + changed + b"\n\n"
            case 2:
                words = (b"No response received from the model.", b'{"error":"OOM"}', b"[DONE]")
                frames.insert(place, b"data: " + chance.choice(words) + b"\n\n")
            case _:
                is_broken = False
                frames = [damage(b"".join(frames), chance)]
        pieces = self.cut(b"".join(frames))
        return NodeAnswer(200, EVENT_STREAM, pieces, True, self.likely(0.4), is_broken)

    def bad_body(self) -> NodeAnswer:
        return self.error() if self.likely(0.3) else self.spoilt_body(self._response("completed"))

    def _response(self, status: str) -> Json:
        counts = {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
        response: Json = {"id": "resp_7", "object": "response", "created_at": 1_790_000_000}
        return {**response, "model": MODEL, "status": status, "output": [], "usage": counts}

    def _events(self) -> list[Json]:
        events: list[Json] = [
            {"type": "response.created", "response": self._response("queued")},
            {"type": "response.in_progress", "response": self._response("in_progress")},
        ]
        item: Json = {"id": "msg_7", "type": "message", "role": "assistant", "content": []}
        at: Json = {"output_index": 0, "item": item}
        events.append({"type": "response.output_item.added", **at})
        for _ in range(self.count(5)):
            within = {"output_index": 0, "content_index": 0, "delta": self.text()}
            events.append({"type": "response.output_text.delta", **within})
        events.append({"type": "response.output_item.done", **at})
        if self.likely(0.4):
            events += self._call()
        end = self.pick(("completed", "completed", "incomplete"))
        events.append({"type": f"response.{end}", "response": self._response(end)})
        return [{**event, "sequence_number": number} for number, event in enumerate(events)]

    def _call(self) -> list[Json]:
        item: Json = {"id": "fc_7", "type": "function_call", "call_id": self.call_id()}
        item |= {"name": "weather", "arguments": '{"city":"Rome"}', "status": "completed"}
        at: Json = {"output_index": 1}
        arguments = "response.function_call_arguments"
        return [
            {"type": "response.output_item.added", **at, "item": item},
            {"type": f"{arguments}.delta", **at, "delta": item["arguments"]},
            {"type": f"{arguments}.done", **at, "arguments": item["arguments"]},
            {"type": "response.output_item.done", **at, "item": item},
        ]


def _frame(event: Json) -> bytes:
    data = json.dumps(event, ensure_ascii=False).encode()
    return b"event: " + str(event["type"]).encode() + b"\ndata: " + data + b"\n\n"
