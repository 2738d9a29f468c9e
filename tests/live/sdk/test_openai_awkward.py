"""Both SDKs before a node that answers in ways they do not take, or refuses in its own."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.covers import covers
from tests.live.daemons import Daemon, running_daemon
from tests.live.sdk import anthropic_sdk, awkward_node, openai_sdk
from tests.live.sdk.clients import said


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run a daemon before the awkward node."""
    with (
        awkward_node.awkward_node() as base_url,
        running_daemon(tmp_path_factory.mktemp("awkward"), {"awkward": base_url}) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def sdk(daemon: Daemon) -> Iterator[OpenAI]:
    """Give an openai client of the daemon."""
    with openai_sdk.client(daemon) as client:
        yield client


@pytest.fixture(scope="module")
def messages_sdk(daemon: Daemon) -> Iterator[Anthropic]:
    """Give an anthropic client of the daemon."""
    with anthropic_sdk.client(daemon) as client:
        yield client


def strict(tool: Any) -> Any:
    """Return a tool as the stream helper wants it to parse the arguments itself."""
    function = tool["function"]
    parameters = {**function["parameters"], "additionalProperties": False}
    return {"type": "function", "function": {**function, "parameters": parameters, "strict": True}}


@covers("T15")
def test_the_strict_helper_parses_parallel_calls(sdk: OpenAI) -> None:
    """Calls that the node sends by turns come one after the other: the helper parses both.

    It parses the arguments of a call as soon as another begins, and falls over what is incomplete.
    """
    choice = openai_sdk.asked_of(
        sdk,
        streamed=True,
        model=awkward_node.INTERLEAVED,
        messages=said("the weather and the tides in Bergen"),
        tools=[strict(openai_sdk.WEATHER), strict(openai_sdk.TIDES)],
    )
    functions = [call.function for call in choice.message.tool_calls]
    assert [
        ("get_weather", {"city": "Bergen", "days": 2}),
        ("get_tides", {"harbour": "Bergen"}),
    ] == [(function.name, function.parsed_arguments) for function in functions]
    assert "tool_calls" == choice.finish_reason


@covers("T15")
def test_parallel_calls_are_told_one_after_the_other(sdk: OpenAI) -> None:
    """No piece of a call comes after the next has begun, and each begins with its id and name."""
    with sdk.chat.completions.create(
        model=awkward_node.INTERLEAVED, messages=said("hi"), stream=True
    ) as stream:
        deltas = [
            call for chunk in stream for c in chunk.choices for call in c.delta.tool_calls or []
        ]
    indexes = [delta.index for delta in deltas]
    assert sorted(indexes) == indexes
    assert {0, 1} == set(indexes)
    first, second = deltas[0], deltas[indexes.index(1)]
    assert ("call-0", "call-1") == (first.id, second.id)


@pytest.mark.parametrize("streamed", [False, True])
def test_parallel_calls_are_whole_blocks(messages_sdk: Anthropic, streamed: bool) -> None:
    """The same calls are two blocks of a message, each with its whole input."""
    message = anthropic_sdk.asked_of(
        messages_sdk,
        streamed=streamed,
        model=awkward_node.INTERLEAVED,
        max_tokens=100,
        messages=said("hi"),
        tools=[anthropic_sdk.WEATHER, anthropic_sdk.TIDES],
    )
    calls = [(block.name, block.input) for block in message.content]
    assert [
        ("get_weather", {"city": "Bergen", "days": 2}),
        ("get_tides", {"harbour": "Bergen"}),
    ] == calls
    assert "tool_use" == message.stop_reason


def test_parallel_calls_are_whole_without_a_stream(sdk: OpenAI) -> None:
    """An answer in one piece has both calls, with arguments that parse."""
    choice = openai_sdk.asked_of(
        sdk, streamed=False, model=awkward_node.INTERLEAVED, messages=said("hi")
    )
    arguments = [json.loads(call.function.arguments) for call in choice.message.tool_calls]
    assert [{"city": "Bergen", "days": 2}, {"harbour": "Bergen"}] == arguments


@covers("T48")
def test_base64_is_made_of_plain_numbers(sdk: OpenAI) -> None:
    """The SDK asks for base64 unasked: a node that knows numbers alone serves it all the same."""
    asked: Any = {"model": awkward_node.FLOATS, "input": "one"}
    (parsed,) = sdk.embeddings.create(**asked).data
    assert awkward_node.VECTOR == parsed.embedding
    raw = sdk.embeddings.with_raw_response.create(**asked, encoding_format="base64")
    packed = json.loads(raw.content)["data"][0]["embedding"]
    numbers = struct.unpack(f"<{len(awkward_node.VECTOR)}f", base64.b64decode(packed))
    assert awkward_node.VECTOR == list(numbers)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (401, openai.AuthenticationError, "invalid_api_key"),
        (402, openai.RateLimitError, "insufficient_quota"),
        (403, openai.PermissionDeniedError, None),
        (422, openai.BadRequestError, None),
        (429, openai.RateLimitError, "rate_limit_exceeded"),
    ],
)
@covers("5 bad key", "5 budget", "5 not allowed", "5 node 422", "5 policy rate limit")
def test_a_refusal_has_its_class_in_openai(
    sdk: OpenAI, status: int, kind: type[openai.APIStatusError], code: str | None, streamed: bool
) -> None:
    """What the node refuses raises the SDK's error of that kind, in the node's own words."""
    with pytest.raises(kind) as raised:
        sdk.chat.completions.create(
            model=f"{awkward_node.REFUSES}{status}",
            messages=said("hi"),
            stream=streamed,
        )
    assert code == raised.value.code
    assert awkward_node.WORDS in raised.value.message


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("status", "kind", "told", "word"),
    [
        (401, anthropic.AuthenticationError, 401, "authentication_error"),
        (402, anthropic.APIStatusError, 402, "billing_error"),
        (403, anthropic.PermissionDeniedError, 403, "permission_error"),
        (422, anthropic.BadRequestError, 400, "invalid_request_error"),
        (429, anthropic.RateLimitError, 429, "rate_limit_error"),
    ],
)
@covers("5 bad key", "5 budget", "5 not allowed", "5 node 422", "5 policy rate limit")
def test_a_refusal_has_its_class_in_anthropic(
    messages_sdk: Anthropic,
    status: int,
    kind: type[anthropic.APIStatusError],
    told: int,
    word: str,
    streamed: bool,
) -> None:
    """What the node refuses raises the SDK's error of that kind, in the node's own words."""
    with pytest.raises(kind) as raised:
        messages_sdk.messages.create(
            model=f"{awkward_node.REFUSES}{status}",
            max_tokens=4,
            messages=said("hi"),
            stream=streamed,
        )
    assert (told, word) == (raised.value.status_code, raised.value.type)
    assert awkward_node.WORDS in raised.value.message
