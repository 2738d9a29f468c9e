"""What holds of any chat body for a Messages upstream, whatever is in it."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.chat_to_messages.request import translate_chat
from cortexd.dialects.wire.json_values import JsonObject, decode, encode, read_object
from cortexd.dialects.wire.profile import MidSystem, Profile, Speaks, ToolIdFormat
from cortexd.errors import BadRequest
from tests.dialects.bodies import JSON_VALUES, bodies
from tests.dialects.chat_on_messages_bodies import (
    CHATS,
    HELLO,
    IMAGE_PART,
    UPSTREAM,
    WEATHER,
    WEATHER_FUNCTION,
    call,
    calling,
    check,
    found,
)

_PROFILES = st.builds(
    Profile,
    speaks=st.just(Speaks.MESSAGES),
    max_output=st.none() | st.integers(1, 9_000),
    mid_system=st.sampled_from(MidSystem),
    vision=st.booleans(),
    fetches_images=st.booleans(),
    tool_id_format=st.sampled_from(ToolIdFormat),
)
_ODD_TEXTS = st.text(max_size=4) | JSON_VALUES
_FUNCTIONS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["weather", "a.b", ""]) | JSON_VALUES,
        "arguments": st.sampled_from(["", "{}", "[", '{"a":1}']) | _ODD_TEXTS,
        "parameters": JSON_VALUES,
        "description": _ODD_TEXTS,
        "strict": JSON_VALUES,
    },
)
_IMAGES = st.fixed_dictionaries(
    {"url": st.sampled_from(["data:", "data:image/png;base64,", "https://a", "x:"]) | _ODD_TEXTS}
)
_PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "refusal", "input_audio", "file"])},
    optional={"text": _ODD_TEXTS, "refusal": _ODD_TEXTS, "image_url": _IMAGES | JSON_VALUES},
)
_CALLS = st.fixed_dictionaries(
    {"id": st.sampled_from(["a", "b"]) | _ODD_TEXTS},
    optional={
        "type": st.sampled_from(["function", "custom"]) | JSON_VALUES,
        "function": _FUNCTIONS | JSON_VALUES,
    },
)
_MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(
                ["system", "developer", "user", "assistant", "tool", "function", "x"]
            )
        },
        optional={
            "content": _ODD_TEXTS | st.lists(_PARTS | st.just(IMAGE_PART), max_size=3),
            "tool_calls": st.lists(st.just(call("a")) | _CALLS, max_size=2) | JSON_VALUES,
            "tool_call_id": st.sampled_from(["a", "b"]) | JSON_VALUES,
            "function_call": _FUNCTIONS | JSON_VALUES,
            "name": st.just("weather") | JSON_VALUES,
            "reasoning_content": _ODD_TEXTS,
            "signature": st.just("cortex") | JSON_VALUES,
            "refusal": _ODD_TEXTS,
            "audio": JSON_VALUES,
        },
    ),
    max_size=5,
)
_CHOICES = st.sampled_from(
    [
        "auto",
        "none",
        "required",
        {"type": "function", "function": {"name": "weather"}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [WEATHER]}},
    ]
)
_GOOD: dict[str, st.SearchStrategy[Any]] = {
    "model": st.just("m"),
    "messages": CHATS,
    "max_tokens": st.none() | st.integers(1, 10_000),
    "max_completion_tokens": st.none() | st.integers(1, 10_000),
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1),
    "top_k": st.integers(0, 9),
    "stop": st.text(min_size=1) | st.lists(st.text(min_size=1), max_size=2),
    "user": st.text(),
    "tools": st.just([WEATHER]),
    "tool_choice": st.none() | _CHOICES,
    "parallel_tool_calls": st.booleans(),
    "functions": st.just([WEATHER_FUNCTION | {"name": "time of day"}]),
    "function_call": st.sampled_from(["auto", "none", {"name": "weather"}]),
    "reasoning_effort": st.sampled_from(["none", "minimal", "high", "x"]),
    "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
    "n": st.just(1),
    "logit_bias": st.just({}),
    "modalities": st.just(["text"]),
    "presence_penalty": st.just(0),
    "seed": st.integers(),
    "stream": st.booleans(),
    "stream_options": st.none() | st.just({"include_usage": True}),
}
_ODD: dict[str, st.SearchStrategy[Any]] = {
    "messages": _MESSAGES,
    "tools": st.lists(
        st.fixed_dictionaries({"type": st.just("function"), "function": _FUNCTIONS}), max_size=2
    ),
    "functions": st.lists(_FUNCTIONS, max_size=2),
    "tool_choice": st.fixed_dictionaries(
        {"type": st.sampled_from(["function", "allowed_tools", "custom"])},
        optional={
            "function": _FUNCTIONS,
            "allowed_tools": st.fixed_dictionaries(
                {"mode": st.sampled_from(["auto", "x"])},
                optional={"tools": st.lists(st.just(WEATHER) | JSON_VALUES, max_size=2)},
            ),
        },
    ),
    "response_format": st.fixed_dictionaries(
        {"type": st.just("json_schema")}, optional={"json_schema": JSON_VALUES}
    ),
}
_BODIES = bodies(_GOOD) | st.sampled_from(sorted(_ODD)).flatmap(
    lambda name: bodies(_GOOD | {name: _ODD[name]})
)


def assert_sendable_or_refused(fields: JsonObject, profile: Profile) -> None:
    """Assert that what comes out is a Messages body, or the client's mistake and nothing else."""
    try:
        body = decode(translate_chat(fields, profile).encoded("org/target"))
    except BadRequest:
        return
    assert "org/target" == body.pop("model")
    check(body)


class PropertyTests(SynchronousTestCase):
    @settings(max_examples=600)
    @given(_BODIES, _PROFILES)
    def test_any_body(self, body: bytes, profile: Profile) -> None:
        """Any body becomes a well-formed Messages body, or is a mistake of the client's."""
        try:
            fields = read_object(body)
        except BadRequest:
            return
        assert_sendable_or_refused(fields, profile)

    @settings(max_examples=300)
    @given(
        st.fixed_dictionaries({}, optional=_GOOD | _ODD)
        | st.dictionaries(st.sampled_from(sorted(_GOOD)), JSON_VALUES),
        _PROFILES,
    )
    def test_any_fields(self, fields: Any, profile: Profile) -> None:
        """Fields that no body of ours could bring, as lone surrogates and NaN, do no harm."""
        assert_sendable_or_refused({"messages": HELLO} | fields, profile)

    def test_lone_surrogates(self) -> None:
        """What is not Unicode is the client's mistake, wherever it stands."""
        wrong = "\ud800"
        cases: list[JsonObject] = [
            {"messages": wrong},
            {"messages": HELLO, "user": wrong},
            {"messages": HELLO, "tools": [{"type": "function", "function": {"name": wrong}}]},
            {"messages": [*HELLO, calling(call("a", wrong)), found("a")]},
        ]
        for fields in cases:
            with self.assertRaises(BadRequest):
                translate_chat(fields, UPSTREAM).encoded("m")

    def test_too_deep(self) -> None:
        """A body that is nested too deeply to be sent is the client's mistake."""
        nest: list[Any] = []
        for _ in range(2_000):
            nest = [nest]
        schema = {"type": "json_schema", "json_schema": {"schema": {"enum": nest}}}
        translated = translate_chat({"messages": HELLO, "response_format": schema}, UPSTREAM)

        with self.assertRaisesRegex(BadRequest, "nested too deeply"):
            translated.encoded("m")

    def test_any_depth(self) -> None:
        """What is read can be sent or is refused, arguments of calls included."""
        for depth in range(900, 1_000):
            nest = b"[" * depth + b"]" * depth
            schema = b'{"type":"function","function":{"name":"f","parameters":{"a":' + nest + b"}}}"
            for field in (b'"tools":[' + schema + b"]", b'"seed":' + nest):
                body = b'{"messages":[{"role":"user","content":"hi"}],' + field + b"}"
                try:
                    fields = read_object(body)
                except BadRequest:
                    continue
                assert_sendable_or_refused(fields, UPSTREAM)
            arguments = f'{{"a":{nest.decode()}}}'
            messages = [*HELLO, calling(call("a", arguments)), found("a")]
            assert_sendable_or_refused({"messages": messages}, UPSTREAM)

    @settings(max_examples=300)
    @given(CHATS, st.sampled_from(MidSystem), st.booleans())
    def test_any_chat(self, messages: list[Any], mid_system: MidSystem, fetches: bool) -> None:
        """A good chat is never refused, loses no call, and the same makes the same bytes."""
        profile = Profile(mid_system=mid_system, fetches_images=fetches)
        fields = json.loads(json.dumps({"messages": messages}))
        first, second = (translate_chat(fields, profile) for _ in range(2))

        assert encode(first.body) == encode(second.body)
        check(first.body)
        calls = [made["id"] for each in messages for made in each.get("tool_calls") or ()]
        assert calls == [
            block["id"]
            for each in first.body["messages"]
            for block in each["content"]
            if block["type"] == "tool_use"
        ]
