"""The openai SDK's responses before a daemon before two simulated nodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.responses import ResponseInputParam

from tests.engine.processes import simulated_node
from tests.live.daemons import eventually, running_daemon

MODEL = "acme/chat"
ANSWER_SECONDS = 30.0


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """Run two nodes, a daemon before them, and an SDK client of that."""
    with ExitStack() as stack:
        nodes = {name: stack.enter_context(simulated_node(fast=True)).base_url for name in "ab"}
        daemon = stack.enter_context(running_daemon(tmp_path_factory.mktemp("responses"), nodes))
        yield stack.enter_context(
            OpenAI(
                base_url=f"{daemon.base_url}/v1",
                api_key="any",
                max_retries=0,
                timeout=ANSWER_SECONDS,
            )
        )


def test_a_whole_response(sdk: OpenAI) -> None:
    """It has text, usage and an id by which it is found, and after its deletion is not."""
    response = sdk.responses.create(model=MODEL, input="hello there")
    assert ("completed", "You said: hello there") == (response.status, response.output_text)
    assert response.usage is not None
    assert 4 == response.usage.output_tokens

    assert response.output_text == sdk.responses.retrieve(response.id).output_text
    sdk.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.responses.retrieve(response.id)
    assert "response_not_found" == caught.value.code


def test_a_streamed_response(sdk: OpenAI) -> None:
    """Its pieces are its text, its events come in order, and it ends with the whole response."""
    events = list(sdk.responses.create(model=MODEL, input="hello there", stream=True))
    assert ("response.created", "response.completed") == (events[0].type, events[-1].type)
    assert list(range(len(events))) == [event.sequence_number for event in events]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.completed"
    assert "You said: hello there" == text == last.response.output_text


def test_the_stream_helper(sdk: OpenAI) -> None:
    """The SDK's own accumulator makes the same response of the events."""
    with sdk.responses.stream(model=MODEL, input="hello there") as stream:
        response = stream.get_final_response()
    assert "You said: hello there" == response.output_text


def test_a_conversation(sdk: OpenAI) -> None:
    """Each turn goes on from the one before, and what nobody keeps is not found."""
    response = sdk.responses.create(model=MODEL, input="one")
    for text in ("two", "three", "four"):
        before, response = (
            response,
            sdk.responses.create(model=MODEL, input=text, previous_response_id=response.id),
        )
        assert response.usage is not None
        assert before.usage is not None
        assert response.usage.input_tokens > before.usage.input_tokens
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.responses.create(model=MODEL, input="x", previous_response_id="resp_never")
    assert "previous_response_not_found" == caught.value.code


def test_in_the_background(sdk: OpenAI) -> None:
    """It is asked for until it is there, and can be cancelled before."""
    response = sdk.responses.create(model=MODEL, input="hello", background=True)
    assert "queued" == response.status
    assert sdk.responses.cancel(response.id).status in ("cancelled", "completed")
    response = sdk.responses.create(model=MODEL, input="hello", background=True)
    eventually(
        lambda: sdk.responses.retrieve(response.id).status == "completed", "the end of the work"
    )


def test_a_stream_in_the_background(sdk: OpenAI) -> None:
    """Its client may close it, and get the rest of the events later."""
    stream = sdk.responses.create(model=MODEL, input="one two", background=True, stream=True)
    first = next(iter(stream))
    stream.close()
    assert first.type == "response.created"
    rest = list(
        sdk.responses.retrieve(first.response.id, stream=True, starting_after=first.sequence_number)
    )
    assert rest[0].sequence_number == first.sequence_number + 1
    assert rest[-1].type == "response.completed"
    assert "You said: one two" == rest[-1].response.output_text


def test_its_input(sdk: OpenAI) -> None:
    """All of its items are listed, page by page, and its tokens are estimated before."""
    texts = [str(number) for number in range(25)]
    given: ResponseInputParam = [{"role": "user", "content": text} for text in texts]
    # Old majors have no method for it.
    asked = {"model": MODEL, "input": given}
    count: Any = sdk.post("/responses/input_tokens", cast_to=object, body=asked)
    response = sdk.responses.create(model=MODEL, input=given)
    items = list(sdk.responses.input_items.list(response.id, order="asc"))

    assert count["input_tokens"] > 25
    assert texts == [
        part.text
        for item in items
        if item.type == "message"
        for part in item.content
        if part.type == "input_text"
    ]
