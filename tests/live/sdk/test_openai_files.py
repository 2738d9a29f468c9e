"""The openai SDK's files, and sessions and approvals beside them, before two simulated nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from tests.engine.processes import simulated_node
from tests.live.daemons import Daemon, running_daemon

MODEL = "acme/chat"
ANSWER_SECONDS = 30.0


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run two nodes and a daemon before them."""
    with ExitStack() as stack:
        nodes = {name: stack.enter_context(simulated_node(fast=True)).base_url for name in "ab"}
        yield stack.enter_context(running_daemon(tmp_path_factory.mktemp("files"), nodes))


@pytest.fixture(scope="module")
def sdk(daemon: Daemon) -> Iterator[OpenAI]:
    """Make a client of it."""
    with OpenAI(
        base_url=f"{daemon.base_url}/v1", api_key="any", max_retries=0, timeout=ANSWER_SECONDS
    ) as client:
        yield client


def test_files(sdk: OpenAI) -> None:
    """Files are uploaded to both nodes, shown, read, listed without an end, and deleted."""
    before = {file.id for file in sdk.files.list()}
    made = [
        sdk.files.create(file=(f"{number}.txt", b"line %d" % number), purpose="user_data")
        for number in range(4)
    ]
    assert before | {file.id for file in made} == {file.id for file in sdk.files.list()}
    for number, file in enumerate(made):
        assert f"{number}.txt" == sdk.files.retrieve(file.id).filename
        assert b"line %d" % number == sdk.files.content(file.id).content
        assert sdk.files.delete(file.id).deleted
        with pytest.raises(openai.NotFoundError) as caught:
            sdk.files.retrieve(file.id)
        assert "file_not_found" == caught.value.code
    assert before == {file.id for file in sdk.files.list()}


def test_a_chat_reads_a_file(sdk: OpenAI) -> None:
    """Whichever node has it, and as often as it is asked for."""
    for text in ("first", "second", "third"):
        file = sdk.files.create(
            file=("notes.txt", text.encode()), purpose="user_data", extra_query={"model": MODEL}
        )
        for _ in range(2):
            answer = sdk.chat.completions.create(
                model=MODEL,
                messages=[
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "read"},
                            {"type": "file", "file": {"file_id": file.id}},
                        ],
                    }
                ],
            )
            said = answer.choices[0].message.content
            assert said == f"You said: read [notes.txt: {text}]"


def test_an_agent(daemon: Daemon) -> None:
    """A tool waits for an approval, makes a file, and its session is there by its id."""
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "go"}],
        "stream": True,
        "agent_permission": "ask",
        "session_id": "work",
        "files": [{"name": "out.csv"}],
    }
    http, told = daemon.http, dict[str, Any]()
    with http.stream("POST", "/v1/chat/completions", json=body) as stream:
        assert 200 == stream.status_code
        for name, data in events(stream):
            told[name] = data
            if name == "agentic_tool_approval_required":
                answer = http.post(
                    f"/v1/agent/approvals/{data['approval_id']}", json={"decision": "approve"}
                )
                assert {"status": "resolved"} == answer.json()
    assert "work" == told["message"]["session_id"]
    assert b"out.csv" == http.get(f"/v1/files/{told['file_produced']['id']}/content").content
    roles = [turn["role"] for turn in http.get("/v1/sessions/work").json()["messages"]]
    assert ["user", "tool", "assistant"] == roles
    assert 200 == http.delete("/v1/sessions/work").status_code
    assert 404 == http.get("/v1/sessions/work").status_code
    assert [] == daemon.alarms()


def events(stream: httpx2.Response) -> Iterator[tuple[str, Any]]:
    """Yield name and decoded data of each event as it comes, but for the last."""
    name = "message"
    for line in stream.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: {"):
            yield name, json.loads(line.removeprefix("data: "))
        elif not line:
            name = "message"
