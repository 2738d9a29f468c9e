"""What every node answers on listing and inference routes, simulated or with a real engine."""

from __future__ import annotations

import base64
import json
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.engine.contract import (
    CHOICE_KEYS,
    CHUNK_KEYS,
    COMPLETION_CHUNK_KEYS,
    MESSAGE_KEYS,
    OPTIONAL_MESSAGE_KEYS,
    WEATHER_TOOL,
    Caller,
    Json,
    assert_message,
    assert_text,
    assert_usage,
)

# Longer than the context of any of the models, in characters and in words.
LONG_PROMPT = "too long " * 6000


def test_the_list_begins_with_the_pseudo_model_default_which_has_no_status(caller: Caller) -> None:
    """`default` comes first, with a creation time and a root but no status."""
    listing = caller.http.get("/v1/models").json()
    assert "list" == listing["object"]
    assert {"id", "object", "created", "owned_by", "root"} == listing["data"][0].keys()
    assert "default" == listing["data"][0]["id"]


def test_the_list_gives_every_model_a_status_and_one_creation_time(caller: Caller) -> None:
    """Real models are listed with a status, and all with the start of the process."""
    entries = caller.http.get("/v1/models").json()["data"]
    expected = {"id", "object", "created", "owned_by", "root", "status"}
    assert all(expected == entry.keys() for entry in entries[1:])
    assert {"model"} == {entry["object"] for entry in entries}
    assert {entries[0]["created"]} == {entry["created"] for entry in entries}
    again = caller.http.get("/v1/models").json()["data"]
    assert entries[0]["created"] == again[0]["created"]


def test_a_request_id_is_echoed_and_made_up_where_there_is_none(caller: Caller) -> None:
    """The client's x-request-id comes back; without one the node invents one."""
    given = caller.http.get("/v1/models", headers={"x-request-id": "from-the-client"})
    assert "from-the-client" == given.headers["x-request-id"]
    assert caller.http.get("/v1/models").headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("path", ["/", "/health"])
def test_health_is_a_plain_ok(caller: Caller, path: str) -> None:
    """Both health routes answer OK as text."""
    response = caller.http.get(path)
    assert (200, "OK") == (response.status_code, response.text)
    assert response.headers["content-type"].startswith("text/plain")


def test_system_info_has_the_cpu_first_and_memory_in_bytes(caller: Caller) -> None:
    """The first device is the CPU without an ordinal; memory and version are told."""
    info = caller.http.get("/v1/system/info").json()
    assert ("cpu", None) == (info["devices"][0]["kind"], info["devices"][0]["ordinal"])
    assert 0 < info["memory"]["available_bytes"] <= info["memory"]["total_bytes"]
    for device in info["devices"]:
        assert 0 <= device["available_memory_bytes"] <= device["total_memory_bytes"]
    assert all(part.isdigit() for part in info["build"]["version"].split("."))


def test_a_chat_answer_has_the_openai_shape_and_the_node_s_usage(caller: Caller) -> None:
    """A non-streaming chat answer has one choice with a message, and usage that adds up."""
    response = caller.chat("hello there")
    answer = response.json()
    assert (200, "application/json") == (response.status_code, response.headers["content-type"])
    assert CHUNK_KEYS == answer.keys()
    assert ("chat.completion", "local") == (answer["object"], answer["system_fingerprint"])
    assert caller.node.chat_models[0] == answer["model"]
    (choice,) = answer["choices"]
    assert CHOICE_KEYS | {"message"} == choice.keys()
    assert MESSAGE_KEYS == choice["message"].keys() - OPTIONAL_MESSAGE_KEYS
    assert ("assistant", None) == (choice["message"]["role"], choice["message"]["tool_calls"])
    assert choice["message"]["content"]
    assert_usage(answer["usage"])


def test_answer_ids_are_small_numbers_as_strings(caller: Caller) -> None:
    """Ids count up and so collide between nodes."""
    first, second = (caller.chat().json()["id"] for _ in range(2))
    assert int(first) < int(second) < 10_000


def test_max_tokens_is_honoured_and_ends_with_length(caller: Caller) -> None:
    """An answer cut at its limit says so, and counts exactly that many tokens."""
    answer = caller.chat("hello there", max_tokens=3, ignore_eos=True).json()
    assert "length" == answer["choices"][0]["finish_reason"]
    assert 3 == answer["usage"]["completion_tokens"]


def test_max_completion_tokens_is_an_alias_of_max_tokens(caller: Caller) -> None:
    """The newer name of the limit does the same; both at once are a duplicate field."""
    body = caller.chat_body(max_completion_tokens=2, ignore_eos=True)
    both = caller.post("/v1/chat/completions", **body)
    del body["max_tokens"]
    answer = caller.post("/v1/chat/completions", **body).json()
    assert 2 == answer["usage"]["completion_tokens"]
    assert 422 == both.status_code


def test_an_answer_ends_by_itself_with_stop(caller: Caller) -> None:
    """Without a limit in its way an answer ends with the finish reason stop."""
    answer = caller.chat("hello", max_tokens=4000).json()
    assert "stop" == answer["choices"][0]["finish_reason"]
    assert answer["usage"]["completion_tokens"] < 4000


def test_a_stop_string_ends_an_answer_before_it(caller: Caller) -> None:
    """The answer is what comes before the stop string, which is left out."""
    free = caller.chat("hello").json()["choices"][0]["message"]["content"]
    stop = free[3:5]
    choice = caller.chat("hello", stop=[stop]).json()["choices"][0]
    assert free.partition(stop)[0] == choice["message"]["content"]
    assert "stop" == choice["finish_reason"]


def test_greedy_answers_repeat_and_depend_on_the_prompt(caller: Caller) -> None:
    """At temperature 0 the same question has the same answer, and another one another."""
    first, same, other = (
        caller.chat(text, max_tokens=16).json()["choices"][0]["message"]["content"]
        for text in ("one question", "one question", "another matter")
    )
    assert first == same
    assert first != other


def test_every_chunk_has_the_same_keys_and_the_role(caller: Caller) -> None:
    """Chunks are alike from the first to the last: id, model, keys, and the role in each."""
    stream = caller.stream(caller.chat_body("hello there"))
    assert stream.plain_lines == []
    assert len(stream.chunks) > 1
    for chunk in stream.chunks:
        assert CHUNK_KEYS == chunk.keys()
        assert "chat.completion.chunk" == chunk["object"]
        assert caller.node.chat_models[0] == chunk["model"]
        (choice,) = chunk["choices"]
        assert CHOICE_KEYS | {"delta"} == choice.keys()
        assert MESSAGE_KEYS == choice["delta"].keys() - OPTIONAL_MESSAGE_KEYS
        assert "assistant" == choice["delta"]["role"]
    assert 1 == len({chunk["id"] for chunk in stream.chunks})


def test_usage_comes_on_the_finish_chunk_alone_and_done_after_it(caller: Caller) -> None:
    """The last chunk has the finish reason and the usage; all others have neither; [DONE] ends."""
    stream = caller.stream(caller.chat_body("hello there", max_tokens=3, ignore_eos=True))
    *others, last = stream.chunks
    assert {None} == {chunk["usage"] for chunk in others}
    assert {None} == {chunk["choices"][0]["finish_reason"] for chunk in others}
    assert "length" == last["choices"][0]["finish_reason"]
    assert_usage(last["usage"])
    assert 3 == last["usage"]["completion_tokens"]
    assert stream.done


def test_stream_options_change_nothing(caller: Caller) -> None:
    """Usage is sent whether the client asks for it or asks for none."""
    for wanted in (True, False):
        body = caller.chat_body(stream_options={"include_usage": wanted})
        stream = caller.stream(body)
        assert_usage(stream.chunks[-1]["usage"])
        assert all(chunk["choices"] for chunk in stream.chunks)


def test_a_stream_adds_up_to_the_answer_without_streaming(caller: Caller) -> None:
    """Text, finish reason and token counts are the same streamed and not."""
    body = caller.chat_body("hello there", max_tokens=20)
    whole = caller.post("/v1/chat/completions", **body).json()
    stream = caller.stream(body)
    (choice,) = whole["choices"]
    assert choice["message"]["content"] == stream.text
    assert [choice["finish_reason"]] == stream.finish_reasons
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert whole["usage"][name] == stream.chunks[-1]["usage"][name]


def test_streams_at_the_same_time_do_not_disturb_each_other(caller: Caller) -> None:
    """Four streams at once give what each gives alone."""
    bodies = [caller.chat_body(f"question {number}", max_tokens=40) for number in range(4)]
    alone = [caller.stream(body).text for body in bodies]
    with ThreadPoolExecutor(4) as pool:
        together = [stream.text for stream in pool.map(caller.stream, bodies)]
    assert alone == together


def test_messages_may_be_a_bare_string(caller: Caller) -> None:
    """A string for messages is one user turn."""
    answer = caller.chat(messages="hello").json()
    assert caller.chat("hello").json()["choices"] == answer["choices"]


def test_text_parts_of_a_user_are_joined_with_a_space(caller: Caller) -> None:
    """A user's content may be an array of texts."""
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    answer = caller.chat(messages=[{"role": "user", "content": parts}]).json()
    assert caller.chat("one two").json()["choices"] == answer["choices"]


@pytest.mark.parametrize("role", ["system", "assistant", "tool"])
def test_an_array_as_content_is_refused_for_every_role_but_user(caller: Caller, role: str) -> None:
    """Even a pure text array is refused, under 500."""
    turn = {"role": role, "content": [{"type": "text", "text": "one"}]}
    response = caller.chat(messages=[turn, {"role": "user", "content": "hi"}])
    assert 500 == response.status_code
    assert "Role for an image message must be `user`" in response.json()["message"]


def test_all_roles_and_tool_results_are_taken(caller: Caller) -> None:
    """A conversation with every role, a call without content and its result is answered."""
    call = {
        "id": "call-1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Oslo", "days": 2}'},
    }
    messages: list[Json] = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "What is the weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "rain", "tool_call_id": "call-1"},
    ]
    response = caller.chat(messages=messages, tools=[WEATHER_TOOL])
    assert 200 == response.status_code
    assert response.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_a_demanded_tool_is_called_in_whole_with_the_finish_reason(
    caller: Caller, choice: Any
) -> None:
    """Streamed, the one call comes complete on the finish chunk; not streamed, in the message."""
    body = caller.chat_body(tools=[WEATHER_TOOL], tool_choice=choice, max_tokens=300)
    *others, last = caller.stream(body).chunks
    assert [] == [chunk for chunk in others if chunk["choices"][0]["delta"]["tool_calls"]]
    assert "tool_calls" == last["choices"][0]["finish_reason"]
    message = caller.post("/v1/chat/completions", **body).json()["choices"][0]["message"]
    for calls in (last["choices"][0]["delta"]["tool_calls"], message["tool_calls"]):
        (call,) = calls
        assert {"index", "id", "type", "function"} == call.keys()
        assert (0, "function") == (call["index"], call["type"])
        assert call["id"].startswith("call-")
        assert "get_weather" == call["function"]["name"]
        arguments = json.loads(call["function"]["arguments"])
        assert (str, int) == (type(arguments["city"]), type(arguments["days"]))


def test_a_response_format_makes_the_answer_json(caller: Caller) -> None:
    """A JSON schema is followed."""
    schema = {
        "type": "object",
        "properties": {"sure": {"type": "boolean"}},
        "required": ["sure"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema}}
    answer = caller.chat(response_format=wanted, max_tokens=300).json()
    assert bool is type(json.loads(answer["choices"][0]["message"]["content"])["sure"])


def test_several_choices_come_without_streaming(caller: Caller) -> None:
    """With n = 2 there are two choices, each with its index."""
    answer = caller.chat(n=2).json()
    assert [0, 1] == sorted(choice["index"] for choice in answer["choices"])
    assert_usage(answer["usage"])


def test_a_completion_continues_a_prompt_with_usage(caller: Caller) -> None:
    """A text completion has text in its choice, and usage."""
    model = caller.node.chat_models[0]
    response = caller.post("/v1/completions", model=model, prompt="Once upon", max_tokens=5)
    answer = response.json()
    assert CHUNK_KEYS == answer.keys()
    assert "text_completion" == answer["object"]
    assert CHOICE_KEYS | {"text"} == answer["choices"][0].keys()
    assert answer["choices"][0]["text"]
    assert_usage(answer["usage"])


def test_a_completion_stream_never_has_usage(caller: Caller) -> None:
    """No chunk of a streamed completion has usage; it ends with a finish reason and [DONE]."""
    body = {"model": caller.node.chat_models[0], "prompt": "Once upon", "max_tokens": 5}
    stream = caller.stream(body, "/v1/completions")
    whole = caller.post("/v1/completions", **body).json()
    assert all(COMPLETION_CHUNK_KEYS == chunk.keys() for chunk in stream.chunks)
    text = "".join(chunk["choices"][0]["text"] for chunk in stream.chunks)
    assert whole["choices"][0]["text"] == text
    assert [whole["choices"][0]["finish_reason"]] == stream.finish_reasons
    assert stream.done


def test_a_completion_takes_one_prompt_only(caller: Caller) -> None:
    """An array of prompts is not the route's type."""
    model = caller.node.chat_models[0]
    response = caller.post("/v1/completions", model=model, prompt=["one", "two"])
    assert_text(response, 422)


@pytest.mark.parametrize(
    ("given", "expected"), [("one", 1), (["one", "two"], 2), ([1, 2], 1), ([[1], [2], [3]], 3)]
)
def test_embeddings_take_text_and_tokens_one_or_many(
    caller: Caller, given: object, expected: int
) -> None:
    """Every input has a vector of the same length, in order."""
    answer = embeddings(caller, given).json()
    assert {"object", "data", "model", "usage"} == answer.keys()
    assert caller.node.embedding_model == answer["model"]
    assert list(range(expected)) == [item["index"] for item in answer["data"]]
    assert all({"object", "embedding", "index"} == item.keys() for item in answer["data"])
    assert 1 == len({len(item["embedding"]) for item in answer["data"]})
    assert {"prompt_tokens", "total_tokens"} == answer["usage"].keys()
    assert expected <= answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"]


def test_embeddings_repeat_and_depend_on_the_text(caller: Caller) -> None:
    """The same text has the same vector, another text another."""
    answer = embeddings(caller, ["one", "one", "two"]).json()
    first, same, other = (item["embedding"] for item in answer["data"])
    # The engine's batching moves the seventh digit.
    assert pytest.approx(first, abs=1e-5) == same
    assert pytest.approx(first, abs=1e-5) != other


def test_embeddings_in_base64_are_the_same_numbers(caller: Caller) -> None:
    """The base64 form holds little-endian 32-bit floats."""
    numbers = embeddings(caller, "one").json()["data"][0]["embedding"]
    packed = embeddings(caller, "one", encoding_format="base64").json()["data"][0]["embedding"]
    unpacked = struct.unpack(f"<{len(numbers)}f", base64.b64decode(packed))
    assert pytest.approx(numbers, abs=1e-5) == list(unpacked)


def test_embedding_dimensions_are_refused(caller: Caller) -> None:
    """A wish for another vector length is a 422 with a message."""
    assert_message(embeddings(caller, "one", dimensions=4), 422)


@pytest.mark.parametrize("content", [b'{"model": ', b"no json at all"])
def test_broken_json_is_a_400_in_plain_text(caller: Caller, content: bytes) -> None:
    """A body that does not parse is refused before the handler."""
    headers = {"content-type": "application/json"}
    assert_text(caller.http.post("/v1/chat/completions", content=content, headers=headers), 400)


def test_another_content_type_is_a_415_in_plain_text(caller: Caller) -> None:
    """JSON under a form's content type, curl's default, is refused."""
    content = json.dumps(caller.chat_body()).encode()
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert_text(caller.http.post("/v1/chat/completions", content=content, headers=headers), 415)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "teleport"}]},
        {"max_tokens": -1},
        {"temperature": "warm"},
        {"messages": None},
        {"model": 7},
        {"top_k": -1},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_wrong_type_is_a_422_in_plain_text(caller: Caller, fields: Json) -> None:
    """What is JSON but not the route's type is refused before the handler."""
    assert_text(caller.chat(**fields), 422)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 0},
        {"tool_choice": "required"},
        {"reasoning_effort": "minimal"},
        {"enable_thinking": False, "reasoning_effort": "high"},
        {
            "grammar": {"type": "regex", "value": "[a-z]"},
            "response_format": {"type": "json_object"},
        },
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_makes_no_sense_is_a_500_with_a_message(caller: Caller, fields: Json) -> None:
    """A client's mistake in the values is answered like a fault of the node."""
    assert_message(caller.chat(**fields), 500)


def test_an_unknown_model_is_a_500_that_names_it_and_those_there_are(caller: Caller) -> None:
    """Chat with an unknown model tells the loaded ones."""
    message = assert_message(caller.chat(model="no/such"), 500)
    assert message.startswith("Requested model 'no/such' is not available.")
    assert all(model in message for model in caller.node.chat_models)


def test_an_unknown_embedding_model_is_a_422(caller: Caller) -> None:
    """The embedding route differs from the others in the status."""
    message = assert_message(caller.post("/v1/embeddings", model="no/such", input="one"), 422)
    assert "no/such" in message


def test_a_prompt_beyond_the_context_is_a_422_with_a_message(caller: Caller) -> None:
    """Not streamed, the engine's finding has a status of its own."""
    assert "greater than" in assert_message(caller.chat(LONG_PROMPT), 422)


def test_a_prompt_beyond_the_context_is_an_error_inside_a_stream(caller: Caller) -> None:
    """Streamed, it comes after the 200, as an object or as bare text, and then [DONE]."""
    stream = caller.stream(caller.chat_body(LONG_PROMPT))
    errors = stream.plain_lines + [chunk["error"]["message"] for chunk in stream.chunks]
    assert 1 == len(errors)
    assert "greater than" in errors[0]
    assert stream.done


def test_unknown_routes_and_wrong_methods_have_empty_bodies(caller: Caller) -> None:
    """404 and 405 say nothing."""
    answers = [caller.http.get("/v1/no-such-route"), caller.http.get("/v1/chat/completions")]
    assert [(404, ""), (405, "")] == [(answer.status_code, answer.text) for answer in answers]


def embeddings(caller: Caller, given: object, **fields: Any) -> httpx2.Response:
    """Ask the embedding model for vectors."""
    return caller.post("/v1/embeddings", model=caller.node.embedding_model, input=given, **fields)
