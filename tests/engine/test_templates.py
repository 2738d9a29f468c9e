"""Conversations through a daemon to the real engine, with chat templates that are strict.

A token of the tiny models is one byte, so that the tokens of a prompt tell whether all was said: a
conversation of a client costs as many as the same one in plain strings at the node itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cortexd.dialects.fitting.contents import BETWEEN_PARTS
from cortexd.dialects.wire.arguments import RAW_ARGUMENTS
from tests.engine.contract import Caller, Json
from tests.engine.processes import engine_node
from tests.engine.tiny_model import write_chat_model
from tests.live.daemons import running_daemon

OWN = Path(__file__).parents[1] / "templates" / "own"
STRICT = (
    "string_or_lost",
    "string_or_raises",
    "string_or_printed",
    "system_first_dropped",
    "system_first_raises",
    "developer_dropped",
    "developer_raises",
)
"""The templates that lose words, or raise, for what clients send and no template must get."""

BROKEN = '{"zone": "UT'


def parts(*texts: str) -> list[Json]:
    return [{"type": "text", "text": text} for text in texts]


def said(role: str, content: object, **fields: object) -> Json:
    return {"role": role, "content": content, **fields}


def called(arguments: str) -> Json:
    function = {"name": "clock", "arguments": arguments}
    call = {"id": "call_1", "type": "function", "function": function}
    return said("assistant", None, tool_calls=[call])


HISTORY = [said("user", "what time is it?"), said("tool", "noon", tool_call_id="call_1")]

CASES: Mapping[str, tuple[Sequence[Json], Sequence[Json]]] = {
    "arrays of users": (
        [
            said("system", parts("be kind")),
            said("user", parts("hello")),
            said("assistant", parts("yes?")),
            said("user", parts("one two", "three")),
        ],
        [
            said("system", "be kind"),
            said("user", "hello"),
            said("assistant", "yes?"),
            said("user", f"one two{BETWEEN_PARTS}three"),
        ],
    ),
    "two systems": (
        [said("system", "be kind"), said("system", "be brief"), said("user", "hello")],
        [said("system", f"be kind{BETWEEN_PARTS}be brief"), said("user", "hello")],
    ),
    "developer": (
        [said("developer", "be kind"), said("user", "hello")],
        [said("system", "be kind"), said("user", "hello")],
    ),
    "no arguments": (
        [HISTORY[0], called(""), HISTORY[1]],
        [HISTORY[0], called("{}"), HISTORY[1]],
    ),
    "broken arguments": (
        [HISTORY[0], called(BROKEN), HISTORY[1]],
        [
            HISTORY[0],
            called(json.dumps({RAW_ARGUMENTS: BROKEN}, separators=(",", ":"))),
            HISTORY[1],
        ],
    ),
}
"""A conversation as a client sends it, and as plain strings, by name."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Caller, Caller]]:
    """Run an engine node with a model of each template behind a daemon; give a client of each."""
    with serving(tmp_path_factory.mktemp("templates")) as callers:
        yield callers


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Caller, Caller]]:
    models = {
        f"tiny/{name}": write_chat_model(
            folder / name, seed=1, template=(OWN / f"{name}.jinja").read_text(encoding="utf-8")
        )
        for name in STRICT
    }
    with (
        engine_node(models) as running,
        running_daemon(folder, {"node": running.base_url}) as daemon,
        Caller(running) as node,
        Caller(replace(running, base_url=daemon.base_url)) as client,
    ):
        yield client, node


def prompt_tokens(caller: Caller, template: str, messages: Sequence[Json], stream: bool) -> int:
    """Return the tokens of a prompt, of an answer that must be there."""
    body = caller.chat_body(model=f"tiny/{template}", messages=list(messages), max_tokens=1)
    if stream:
        chunks = caller.stream(body | {"stream_options": {"include_usage": True}}).chunks
        return int(chunks[-1]["usage"]["prompt_tokens"])
    response = caller.post("/v1/chat/completions", **body)
    assert 200 == response.status_code, response.text
    return int(response.json()["usage"]["prompt_tokens"])


@pytest.mark.parametrize("template", STRICT)
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_lost(served: tuple[Caller, Caller], case: str, template: str) -> None:
    """A client's conversation costs the tokens of the same one in plain strings, streamed too."""
    client, node = served
    theirs, plain = CASES[case]
    expected = prompt_tokens(node, template, plain, stream=False)
    for stream in (False, True):
        assert expected == prompt_tokens(client, template, theirs, stream)
