"""How the contract is asked of a node over HTTP, and the shapes that its answers must have."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.engine.processes import RunningNode

Json = dict[str, Any]

# No answer of a tiny or simulated model takes a tenth of this, even on a busy machine.
ANSWER_SECONDS = 20.0

CHUNK_KEYS = {"id", "object", "created", "model", "system_fingerprint", "usage", "choices"}
CHOICE_KEYS = {"index", "finish_reason", "logprobs"}
COMPLETION_CHUNK_KEYS = CHUNK_KEYS - {"usage"}
MESSAGE_KEYS = {"role", "content", "tool_calls"}
# Omitted by the node when there is no reasoning.
OPTIONAL_MESSAGE_KEYS = {"reasoning_content"}
TOKEN_COUNTS = {"completion_tokens", "prompt_tokens", "total_tokens"}
USAGE_FIGURES = {
    "avg_tok_per_sec",
    "avg_prompt_tok_per_sec",
    "avg_compl_tok_per_sec",
    "total_time_sec",
    "total_prompt_time_sec",
    "total_completion_time_sec",
}
# Sent from 0.9.5 on, null without a cache hit.
OPTIONAL_USAGE_KEYS = {"prompt_tokens_details"}

WEATHER_TOOL: Json = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}


@dataclass
class Stream:
    """A stream read to its end: JSON data lines, other data lines, and whether [DONE] came."""

    chunks: list[Json] = field(default_factory=list)
    plain_lines: list[str] = field(default_factory=list)
    done: bool = False

    @property
    def text(self) -> str:
        """The content of all chat chunks together."""
        return "".join(chunk["choices"][0]["delta"]["content"] or "" for chunk in self.chunks)

    @property
    def finish_reasons(self) -> list[str]:
        """The finish reasons of all chunks that have one."""
        reasons = [chunk["choices"][0]["finish_reason"] for chunk in self.chunks]
        return [reason for reason in reasons if reason is not None]


class Caller:
    """A client of one node."""

    def __init__(self, node: RunningNode) -> None:
        self.node = node
        self.http = httpx2.Client(base_url=node.base_url, timeout=ANSWER_SECONDS)

    def __enter__(self) -> Caller:
        """Open; leaving closes the connections."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.http.close()

    def post(self, path: str, **body: Any) -> httpx2.Response:
        """POST a JSON body."""
        return self.http.post(path, json=body)

    def chat(self, content: str = "hi", **fields: Any) -> httpx2.Response:
        """Ask the first chat model a question of one user turn; `fields` add to the body."""
        return self.post("/v1/chat/completions", **self.chat_body(content, **fields))

    def chat_body(self, content: str = "hi", **fields: Any) -> Json:
        """Give the body that `chat` sends."""
        messages = [{"role": "user", "content": content}]
        body = {"model": self.node.chat_models[0], "messages": messages, "temperature": 0}
        return {**body, "max_tokens": 8, **fields}

    @contextmanager
    def streaming(self, body: Json, path: str = "/v1/chat/completions") -> Iterator[Iterator[str]]:
        """Open a stream and give the data of its events one by one; leaving the block closes it."""
        with self.http.stream("POST", path, json={**body, "stream": True}) as response:
            assert 200 == response.status_code
            assert response.headers["content-type"].startswith("text/event-stream")
            yield (
                line.removeprefix("data:").strip()
                for line in response.iter_lines()
                if line.startswith("data:")
            )

    def stream(self, body: Json, path: str = "/v1/chat/completions") -> Stream:
        """Read a whole stream."""
        with self.streaming(body, path) as events:
            return read(events)

    def operate(self, operation: str, model_id: str) -> str:
        """POST /v1/models/{status,reload,unload} for a model and give the status in the answer."""
        response = self.post(f"/v1/models/{operation}", model_id=model_id)
        answer = response.json()
        assert (200, model_id) == (response.status_code, answer["model_id"])
        return str(answer["status"])

    def outcome(self, operation: str, model_id: str) -> Json:
        """As `operate`, with everything the answer says."""
        answer: Json = self.post(f"/v1/models/{operation}", model_id=model_id).json()
        return answer

    def free_bytes(self) -> int:
        """Give the free memory of the node's last device."""
        device = self.http.get("/v1/system/info").json()["devices"][-1]
        return int(device["available_memory_bytes"])

    def gauge(self) -> dict[str, float]:
        """Give the node's gauge of requests in flight, by the labels as they are written."""
        lines = self.http.get("/metrics").text.splitlines()
        pairs = (
            line.removeprefix("http_requests_in_flight").rsplit(" ", 1)
            for line in lines
            if line.startswith("http_requests_in_flight{")
        )
        return {labels: float(count) for labels, count in pairs}

    def listed(self, model_id: str) -> list[str]:
        """Give the statuses under which the model list has an id, sorted; empty without it."""
        entries = self.http.get("/v1/models").json()["data"]
        return sorted(entry["status"] for entry in entries if entry["id"] == model_id)

    def in_flight(self, model_id: str) -> float:
        """Give how many chat requests for a model the node's own gauge counts."""
        labels = f'{{method="POST",path="/v1/chat/completions",model="{model_id}"}}'
        return self.gauge().get(labels, 0.0)


def read(events: Iterator[str]) -> Stream:
    """Read events to the end of their stream."""
    stream = Stream()
    for data in events:
        if data == "[DONE]":
            stream.done = True
            continue
        try:
            stream.chunks.append(json.loads(data))
        except ValueError:
            stream.plain_lines.append(data)
    return stream


def wait_until(condition: Callable[[], bool]) -> bool:
    """Ask again and again until the condition holds; False if it does not within 20 seconds."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def assert_usage(usage: Json) -> None:
    """Check the shape of a usage object and that its counts add up."""
    assert TOKEN_COUNTS | USAGE_FIGURES == usage.keys() - OPTIONAL_USAGE_KEYS
    assert all(isinstance(usage[name], int) for name in TOKEN_COUNTS)
    assert all(usage[name] >= 0 for name in USAGE_FIGURES)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def assert_text(response: httpx2.Response, status: int) -> None:
    """Check an error of the web framework: plain text, not JSON."""
    assert status == response.status_code
    assert response.headers["content-type"].startswith("text/plain")
    assert response.text


def assert_message(response: httpx2.Response, status: int) -> str:
    """Check an error of the handler and give its message."""
    assert status == response.status_code
    body = response.json()
    assert {"message"} == body.keys()
    return str(body["message"])
