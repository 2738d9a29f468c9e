import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.messages_to_chat.tokens import (
    COUNT_HEADER,
    IMAGE_TOKENS,
    TokenSizes,
    measure_prompt,
    read_count,
)
from cortexd.dialects.wire.json_values import decode
from cortexd.errors import BadRequest
from tests.covers import covers
from tests.dialects.anthropic_bodies import HELLO, IMAGE, WEATHER, result, terms, text, user
from tests.dialects.bodies import JSON_VALUES, bodies

WORDS = "x" * 3_600


def tokens_of(body: dict[str, Any], **wishes: Any) -> int:
    return measure_prompt(body, TokenSizes(**wishes)).tokens


def image(size: int) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/png", "data": "A" * size}
    return {"type": "image", "source": source}


def refusal(body: bytes) -> BadRequest:
    try:
        found = read_count(body).estimate()
    except BadRequest as error:
        return error
    raise AssertionError(found)


class EstimateTests(SynchronousTestCase):
    def test_bytes_by_ratio(self) -> None:
        """The prompt and the turns count by their bytes, a byte of UTF-8 like any other."""
        bare = tokens_of({"messages": [user(text(""))]})

        assert 1_000 == tokens_of({"messages": [user(text(WORDS))]}) - bare
        assert 1_000 == tokens_of({"messages": [user(text("東" * 1_200))]}) - bare
        assert tokens_of({"system": WORDS, "messages": HELLO}) - 1_000 in (
            tokens_of({"messages": HELLO}),
            tokens_of({"messages": HELLO}) + 1,  # its quotation marks
        )
        assert 1_800 == tokens_of({"messages": WORDS[2:]}, bytes_per_token=2)

    @covers("T33")
    def test_t33_tools(self) -> None:
        """T33: with tools the count is greater by about their bytes by the ratio."""
        tools = [WEATHER | {"name": f"weather_{number}"} for number in range(24)]
        without = tokens_of({"messages": HELLO})
        size = len(json.dumps(tools, separators=(",", ":")))

        difference = tokens_of({"messages": HELLO, "tools": tools}) - without
        assert abs(difference - size / 3.6) <= 1

    def test_images(self) -> None:
        """An image counts the same whatever its size, wherever it is, and by what it is told."""
        for content in ([image(4)], [image(40_000)]):
            for blocks in (
                content,
                [result("toolu_1", *content)],
                [{"type": "document", "source": {"type": "content", "content": content}}],
            ):
                found = tokens_of({"messages": [user(*blocks)]})
                assert IMAGE_TOKENS < found < IMAGE_TOKENS + 80
        elsewhere = {"type": "image", "source": {"type": "url", "url": "https://example.org/a"}}
        assert 200 < tokens_of({"messages": [user(elsewhere, image(9))]}, image_tokens=90)
        assert 2 * IMAGE_TOKENS < tokens_of({"messages": [user(image(9), image(9))]})

    def test_nothing(self) -> None:
        """What says nothing is one token."""
        cases: tuple[dict[str, Any], ...] = ({}, {"messages": []}, {"system": None, "tools": None})
        for body in cases:
            assert 1 == tokens_of(body)

    def test_the_request_has_it(self) -> None:
        """A request tells its estimate, of which its usage is made until the node counts."""
        body = {"messages": [user(text(WORDS), IMAGE)], "system": "be brief", "tools": [WEATHER]}

        assert tokens_of(body) == terms(**body).asked.prompt_estimate


class CountTests(SynchronousTestCase):
    @covers("T32")
    def test_t32_answer(self) -> None:
        """T32: the answer is the number alone, of any model, and marked as a guess beside it."""
        body = {"model": "claude-unheard-of", "messages": HELLO, "betas": ["x"], "system": "a"}
        found = read_count(json.dumps(body).encode()).estimate()

        assert {"input_tokens": tokens_of(body)} == decode(found)
        assert ("X-Cortex-Token-Count", "estimate") == COUNT_HEADER

    def test_needs_no_max_tokens(self) -> None:
        """Nothing is refused that is not counted: a count has no max_tokens, and may hold a PDF."""
        document = {"type": "document", "source": {"type": "base64", "data": "JVBERi0="}}
        body = {"model": "m", "messages": [user(document)], "tools": [{"type": "web_search_1"}]}

        assert (
            IMAGE_TOKENS < decode(read_count(json.dumps(body).encode()).estimate())["input_tokens"]
        )

    def test_refusals(self) -> None:
        """What is no request is refused by the field at fault."""
        for body, param in (
            (b"", None),
            (b"[]", None),
            (b'{"messages":[],"model":""}', "model"),
            (b'{"model":"m"}', "messages"),
            (b'{"model":"m","messages":"hi"}', "messages"),
        ):
            assert param == refusal(body).param

    @settings(max_examples=200)
    @given(
        bodies(
            {
                "model": st.just("m"),
                "messages": st.just([user(IMAGE)]) | JSON_VALUES,
                "system": JSON_VALUES,
                "tools": JSON_VALUES,
            }
        )
    )
    def test_any_body(self, body: bytes) -> None:
        """Any body has a count of one at least, or is a mistake of the client's."""
        try:
            found = decode(read_count(body).estimate())
        except BadRequest:
            return
        assert {"input_tokens"} == set(found)
        assert found["input_tokens"] >= 1
