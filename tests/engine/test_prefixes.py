"""What the real engine does not read again: the rules that the simulated node is stricter than."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.contract import Caller
from tests.engine.processes import engine_node

LONG = " ".join(f"word{place}" for place in range(40))


@pytest.fixture(scope="module")
def engine(tiny_models: dict[str, Path]) -> Iterator[Caller]:
    """Give a client of an engine node whose cache only these tests fill."""
    with engine_node(tiny_models) as running, Caller(running) as calling:
        yield calling


def read(engine: Caller, *texts: str) -> tuple[int, int]:
    """Give the tokens of a conversation with these texts, and how many of them were cached."""
    turns = [
        {"role": "assistant" if place % 2 else "user", "content": text}
        for place, text in enumerate(texts)
    ]
    model = engine.node.chat_models[0]
    usage = engine.post("/v1/chat/completions", model=model, messages=turns, max_tokens=4).json()[
        "usage"
    ]
    return usage["prompt_tokens"], (usage["prompt_tokens_details"] or {"cached_tokens": 0})[
        "cached_tokens"
    ]


def test_a_conversation_that_goes_on_is_read_from_where_it_went_on(engine: Caller) -> None:
    """Nearly all tokens of the turn before are cached, and never more than there were."""
    before, _ = read(engine, LONG)
    longer, cached = read(engine, LONG, "yes", "go on")
    assert 0.9 * before <= cached <= before
    assert before < read(engine, LONG, "yes", "go on", "and", "on")[1] <= longer


def test_a_repeated_prompt_and_one_with_another_front_are_read_whole(engine: Caller) -> None:
    """Without paged attention a prompt that is wholly cached gets nothing (nodes.md 7.10)."""
    first = f"another {LONG}"
    read(engine, first)
    assert 0 == read(engine, first)[1]
    _, cached = read(engine, f"now {LONG}")
    assert cached < 20


def test_an_unload_drops_what_was_cached(engine: Caller) -> None:
    """The engine that is loaded again reads the whole conversation."""
    read(engine, LONG)
    model = engine.node.chat_models[0]
    assert "unloaded" == engine.operate("unload", model)
    assert "loaded" == engine.operate("reload", model)
    assert 0 == read(engine, LONG, "yes", "go on")[1]
