"""Streams of messages from simulated nodes keep the protocol's rules, whatever is said."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing import SimulatedModel
from tests.doubles.messages_api.client import (
    CLOCK_TOOL,
    SAY_TOOL,
    FullBench,
    MessagesBench,
    events_of,
    read_by_sdk,
)
from tests.doubles.messages_api.shapes import signature_of

WORDS = st.lists(st.sampled_from(["call:say", "call:clock", "hi", "grüße", "👋", '"', "\\"]))
LIMITS = st.integers(1, 25)


def blocks_of(events: list[Any]) -> list[tuple[str, list[str]]]:
    """Return type and delta types of each block; at most one is open, and none is left open."""
    blocks: list[tuple[str, list[str]]] = []
    is_open = False
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert (False, len(blocks)) == (is_open, event["index"])
                is_open = True
                blocks.append((event["content_block"]["type"], []))
            case "content_block_delta":
                assert (True, len(blocks) - 1) == (is_open, event["index"])
                blocks[-1][1].append(event["delta"]["type"])
            case "content_block_stop":
                assert (True, len(blocks) - 1) == (is_open, event["index"])
                is_open = False
    assert not is_open
    return blocks


class ShapeTests(SynchronousTestCase):
    def check(self, bench_kind: type[MessagesBench], words: list[str], limit: int) -> None:
        """See that a stream is well made, and that the SDK reads the same of a whole answer."""
        fields: dict[str, Any] = {
            "content": " ".join(["say", *words]),
            "tools": [SAY_TOOL, CLOCK_TOOL],
            "thinking": {"type": "adaptive"},
            "max_tokens": limit,
        }
        model = SimulatedModel(id="acme/chat", thinks=True)
        streamed = bench_kind(model).ask(stream=True, **fields)
        whole = read_by_sdk(bench_kind(model).ask(**fields))
        events = events_of(streamed)
        kinds = [event["type"] for event in events]
        read = read_by_sdk(streamed)

        assert ["message_start", "message_delta", "message_stop"] == [kinds[0], *kinds[-2:]]
        assert (1, 1, 1) == tuple(kinds.count(kinds[place]) for place in (0, -2, -1))
        for kind, deltas in blocks_of(events):
            if kind == "thinking" and bench_kind is FullBench:
                assert "signature_delta" == deltas.pop()
            delta = "input_json_delta" if kind == "tool_use" else f"{kind}_delta"
            assert {delta} >= set(deltas)
        assert whole.stop_reason == read.stop_reason == events[-2]["delta"]["stop_reason"]
        assert whole.usage.output_tokens == read.usage.output_tokens <= limit
        assert [block.type for block in whole.content] == [block.type for block in read.content]
        for one, other in zip(whole.content, read.content, strict=True):
            if read.stop_reason != "max_tokens" or one.type != "tool_use":
                assert one.to_dict(exclude_none=True) == other.to_dict(exclude_none=True)

    @settings(max_examples=60)
    @given(WORDS, LIMITS)
    def test_full(self, words: list[str], limit: int) -> None:
        """That of a Messages-only node is well made, wherever the limit cuts it."""
        self.check(FullBench, words, limit)

    @settings(max_examples=60)
    @given(WORDS, LIMITS)
    def test_mistralrs(self, words: list[str], limit: int) -> None:
        """That of a mistral.rs node is well made too."""
        self.check(MessagesBench, words, limit)

    @given(st.text(), st.text())
    def test_signatures(self, thought: str, other: str) -> None:
        """A signature is that of its thought, and of no other."""
        assert (signature_of(thought) == signature_of(other)) is (thought == other)
