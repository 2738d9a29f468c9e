"""What holds of any Messages body, whatever is in it."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.routes.messages import read_request
from cortexd.dialects.wire.profile import MidSystem, Profile
from tests.dialects.anthropic_bodies import CONVERSATIONS, WEATHER, text
from tests.dialects.bodies import JSON_VALUES, assert_read_or_refused, bodies

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
_KINDS = [
    "text",
    "image",
    "document",
    "search_result",
    "tool_use",
    "tool_result",
    "thinking",
    "redacted_thinking",
    "tool_reference",
    "server_tool_use",
]
_SOURCES = st.fixed_dictionaries(
    {"type": st.sampled_from(["base64", "url", "file", "text", "content"])},
    optional={
        "media_type": st.just("image/png") | JSON_VALUES,
        "data": st.text() | JSON_VALUES,
        "url": st.just("https://example.org/a.png") | JSON_VALUES,
        "content": st.text() | JSON_VALUES,
    },
)
_BLOCKS: st.SearchStrategy[Any] = st.deferred(
    lambda: st.fixed_dictionaries(
        {"type": st.sampled_from(_KINDS)},
        optional={
            "text": st.text() | JSON_VALUES,
            "thinking": st.text() | JSON_VALUES,
            "source": _SOURCES | JSON_VALUES,
            "title": st.text() | JSON_VALUES,
            "content": st.text() | JSON_VALUES | st.lists(_BLOCKS, max_size=2),
            "citations": JSON_VALUES,
            "id": st.just("toolu_1") | JSON_VALUES,
            "tool_use_id": st.just("toolu_1") | JSON_VALUES,
            "name": st.just("weather") | JSON_VALUES,
            "tool_name": st.just("weather") | JSON_VALUES,
            "input": st.dictionaries(st.text(), JSON_VALUES, max_size=2) | JSON_VALUES,
            "is_error": st.booleans() | JSON_VALUES,
        },
    )
)
_MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool"])},
        optional={"content": st.text() | st.lists(_BLOCKS | JSON_VALUES, max_size=3)},
    ),
    max_size=4,
)
_TOOLS = st.lists(
    st.just(WEATHER)
    | st.fixed_dictionaries(
        {"name": st.text(), "input_schema": st.just(SCHEMA) | JSON_VALUES},
        optional={
            "type": st.sampled_from(["custom", "bash_20250124"]) | JSON_VALUES,
            "description": st.text() | JSON_VALUES,
            "strict": st.booleans() | JSON_VALUES,
            "defer_loading": JSON_VALUES,
            "allowed_callers": st.just(["direct"]) | JSON_VALUES,
            "input_examples": JSON_VALUES,
        },
    ),
    max_size=3,
)
_GOOD: dict[str, st.SearchStrategy[Any]] = {
    "model": st.just("m"),
    "max_tokens": st.integers(1, 9),
    "messages": CONVERSATIONS,
    "system": st.text() | st.lists(st.builds(text, st.text()), max_size=2),
    "stream": st.booleans(),
    "stop_sequences": st.lists(st.text(min_size=1), max_size=2),
    "temperature": st.floats(0, 1),
    "top_p": st.floats(0, 1),
    "top_k": st.integers(0, 9),
    "thinking": st.fixed_dictionaries(
        {
            "type": st.sampled_from(["enabled", "disabled", "adaptive"]),
            "budget_tokens": st.integers(1, 32_000),
        },
        optional={"display": st.sampled_from(["summarized", "omitted"])},
    ),
    "output_config": st.fixed_dictionaries(
        {},
        optional={
            "effort": st.sampled_from(["low", "max"]),
            "format": st.just({"type": "json_schema", "schema": SCHEMA}),
        },
    ),
    "tools": st.just([WEATHER]),
    "tool_choice": st.fixed_dictionaries(
        {"type": st.sampled_from(["auto", "any", "tool", "none"]), "name": st.just("weather")},
        optional={"disable_parallel_tool_use": st.booleans()},
    ),
    "context_management": st.just({"edits": []}),
    "metadata": st.just({"user_id": "u"}),
}
_ODD: dict[str, st.SearchStrategy[Any]] = {
    "messages": _MESSAGES,
    "system": st.lists(_BLOCKS, max_size=2),
    "stop_sequences": st.lists(st.text(), max_size=2),
    "thinking": st.fixed_dictionaries(
        {"type": st.text()},
        optional={"budget_tokens": JSON_VALUES, "display": JSON_VALUES},
    ),
    "output_config": st.fixed_dictionaries(
        {}, optional={"effort": JSON_VALUES, "format": JSON_VALUES}
    ),
    "tools": _TOOLS,
    "tool_choice": st.fixed_dictionaries(
        {"type": st.sampled_from(["auto", "tool"])}, optional={"name": JSON_VALUES}
    ),
}
BODIES = bodies(_GOOD) | st.sampled_from(sorted(_ODD)).flatmap(
    lambda name: bodies(_GOOD | {name: _ODD[name]})
)


class PropertyTests(SynchronousTestCase):
    @settings(max_examples=600)
    @given(BODIES)
    def test_any_body(self, body: bytes) -> None:
        """Any body is a request that can be sent, or a mistake of the client's."""
        assert_read_or_refused(read_request, body)

    def test_any_depth(self) -> None:
        """What is read can be sent: no depth is too deep for only the second."""
        for depth in range(880, 1_000):
            nest = b"[" * depth + b"]" * depth
            for field in (
                b'"tools":[{"name":"f","input_schema":{"a":' + nest + b"}}]",
                b'"output_config":{"format":{"type":"json_schema","schema":{"a":' + nest + b"}}}",
                b'"metadata":' + nest,
            ):
                body = b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"hi"}],'
                assert_read_or_refused(read_request, body + field + b"}")

    @settings(max_examples=200)
    @given(CONVERSATIONS, st.sampled_from(MidSystem), st.booleans())
    def test_any_conversation(
        self, turns: list[Any], mid_system: MidSystem, alternate: bool
    ) -> None:
        """A good conversation is never refused, and the same bytes make the same bytes."""
        body = json.dumps({"model": "m", "max_tokens": 9, "messages": turns}).encode()
        profile = Profile(mid_system=mid_system, alternate=alternate)
        first, second = (
            read_request(body).exchange("m", [profile], random_id="x", now=0).first.body
            for _ in range(2)
        )

        assert first == second
