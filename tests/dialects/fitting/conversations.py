"""Conversations as clients may send them, in any order, and what must hold of the fitted ones."""

from typing import Any

from hypothesis import strategies as st

from cortexd.dialects.wire.profile import MidSystem, Profile, ToolIdFormat
from tests.dialects.bodies import JSON_VALUES

URL = "data:image/png;base64,AA"
IMAGE: dict[str, Any] = {"type": "image_url", "image_url": {"url": URL}}

_TEXTS = st.integers(0, 999).map("w{}.".format)
_PARTS = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text, "cache_control": None}, _TEXTS),
    st.builds(lambda text: {"type": "refusal", "refusal": text}, _TEXTS),
    st.sampled_from(
        [
            IMAGE,
            {"type": "image_url", "image_url": URL, "index": 0},
            {"type": "video_url", "video_url": {"url": "https://a.example/b", "fps": 2}},
            {"type": "tool_use", "annotations": []},
        ]
    ),
    JSON_VALUES,
)
_CONTENTS = st.one_of(_TEXTS, st.none(), st.lists(_PARTS, max_size=3), JSON_VALUES)
_IDS = st.sampled_from(["a", "b", "abcdefghi", "", None, 7])
_ARGUMENTS = st.sampled_from(
    ["", None, "{}", '{"x": 1}', '{"x": ', "[1]", {"x": 1}, [1], 7]
) | st.builds('{{"q":"{}"}}'.format, _TEXTS)
_CALLS = st.one_of(
    st.builds(
        lambda call_id, arguments: {
            "id": call_id,
            "function": {"name": "f", "arguments": arguments},
        },
        _IDS,
        _ARGUMENTS,
    ),
    JSON_VALUES,
)
_MESSAGES = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "odd"]), "content": _CONTENTS},
        optional={"name": st.just("n")},
    ),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": _CONTENTS},
        optional={
            "tool_calls": st.lists(_CALLS, max_size=3),
            "function_call": st.just({"name": "f", "arguments": "{}"}),
            "reasoning": _TEXTS | st.none(),
            "reasoning_content": _TEXTS | JSON_VALUES,
        },
    ),
    st.fixed_dictionaries(
        {"role": st.sampled_from(["tool", "function"]), "content": _CONTENTS},
        optional={"tool_call_id": _IDS, "name": st.sampled_from(["f", "g"])},
    ),
)
ANSWER: dict[str, Any] = {"role": "assistant", "content": "so"}
HISTORIES = st.lists(_MESSAGES, max_size=7).map(lambda messages: [*messages, ANSWER])
"""Conversations that were answered, so that nothing in them is the newest turn."""

PROFILES = st.builds(
    Profile,
    mid_system=st.sampled_from(MidSystem),
    alternate=st.booleans(),
    vision=st.booleans(),
    fetches_images=st.booleans(),
    tool_id_format=st.sampled_from(ToolIdFormat),
    system_role=st.booleans(),
    tool_turns=st.booleans(),
    parallel_calls=st.booleans(),
    text_beside_calls=st.booleans(),
    user_after_tool=st.booleans(),
)
