"""What is said in a request for a response: as every node takes it."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.routes.responses import read_request
from cortexd.dialects.wire.json_values import decode
from cortexd.dialects.wire.profile import Profile
from tests.covers import covers
from tests.dialects.bodies import refusal, upstream_body
from tests.dialects.response_events import NATIVE, exchange

CALL = {"type": "function_call", "id": "fc_1", "call_id": "c", "arguments": "{}"}
HELLO = {"role": "user", "content": "hi"}


def sent(**fields: object) -> dict[str, Any]:
    body: dict[str, Any] = decode(exchange(**fields).first.body)
    return body


def noted(**fields: object) -> tuple[str, ...]:
    return exchange(**fields).first.approximations


class ItemTests(SynchronousTestCase):
    def test_calls_of_before(self) -> None:
        """A call in the conversation has the name that the node gave it."""
        items = [CALL | {"name": "wait", "namespace": "agents"}, CALL | {"name": "echo"}]

        assert [CALL | {"name": "agents.wait"}, CALL | {"name": "echo"}] == sent(input=items)[
            "input"
        ]

    def test_texts_in_parts(self) -> None:
        """They are one text but for the user's, and where there is more than text."""
        two = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
        said = {"type": "output_text", "text": "a"}
        image = {"type": "input_image", "image_url": "data:,"}
        for item, joined in (
            ({"role": "developer", "content": two}, {"content": "a\n\nb"}),
            ({"role": "assistant", "content": [said] * 2}, {"content": "a\n\na"}),
            ({"role": "user", "content": two}, {}),
            ({"role": "developer", "content": two[:1]}, {"content": "a"}),
            ({"role": "developer", "content": [*two, image]}, {}),
            ({"role": "developer", "content": "ab"}, {}),
            ({"type": "function_call_output", "call_id": "c", "output": two[:1]}, {"output": "a"}),
        ):
            assert [item | joined] == sent(input=[item])["input"], item

    def test_what_the_model_said(self) -> None:
        """It is one text, however it came: nodes know no part of the kinds that answers have."""
        said = {"type": "output_text", "text": "a", "annotations": []}
        refused = {"type": "refusal", "refusal": "no"}
        for content, text in (([said], "a"), ([said, refused], "a\n\nno"), ([], "")):
            item = {"type": "message", "role": "assistant", "id": "msg_1", "content": content}
            assert [item | {"content": text}] == sent(input=[item])["input"]

    def test_an_image_that_a_tool_gave(self) -> None:
        """It is told in words: refused, it would end the conversation of which it is a part."""
        image = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
        seen = {"type": "input_text", "text": "screenshot"}
        words = "[image omitted: the result of a tool can only be text here]"
        for parts, told in (([image], words), ([seen, image], f"screenshot\n\n{words}")):
            item = {"type": "function_call_output", "call_id": "c", "output": parts}
            assert [item | {"output": told}] == sent(input=[item])["input"]
            assert ("tool_output_image",) == noted(input=[item])
        shown = {"role": "user", "content": [seen, image]}
        assert [shown] == sent(input=[shown])["input"]
        assert () == noted(input=[shown])

    def test_a_file_that_a_tool_gave(self) -> None:
        """It is told in words too, as the whole body would be refused for it."""
        file = {"type": "input_file", "file_id": "file_1"}
        item = {"type": "function_call_output", "call_id": "c", "output": [file]}
        words = "[file omitted: the result of a tool can only be text here]"
        assert [item | {"output": words}] == sent(input=[item])["input"]
        assert ("tool_output_file",) == noted(input=[item])
        odd = item | {"output": [{"type": ["input_file"]}, 7]}
        assert [odd] == sent(input=[odd])["input"]

    def test_thinking_of_before(self) -> None:
        """It is left out and named: newer nodes skip it, older ones refuse the whole body."""
        thought: dict[str, object] = {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "encrypted_content": None,
        }

        assert [HELLO, HELLO] == sent(input=[HELLO, thought, HELLO])["input"]
        assert ("input.reasoning",) == noted(input=[HELLO, thought])

    @covers("T50")
    def test_kinds_that_no_node_takes(self) -> None:
        """They are left out and named, such as what a node's own tools did; the others stay."""
        shell = {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}}
        output = {"type": "shell_call_output", "call_id": "c", "output": []}
        others = [HELLO, {"type": "item_reference", "id": "m"}, {"type": 7}, {"x": 1}]

        assert others == sent(input=[shell, *others, output])["input"]
        assert ("input.shell_call", "input.shell_call_output") == noted(input=[shell, output])


class WordTests(SynchronousTestCase):
    @covers("3 C->C minimal")
    def test_effort(self) -> None:
        """``minimal``, which no node knows, becomes ``low``; all else stays."""
        wanted = {"effort": "minimal", "summary": "auto"}
        assert wanted | {"effort": "low"} == sent(reasoning=wanted)["reasoning"]
        others: tuple[object, ...] = (wanted | {"effort": "high"}, {"effort": 7}, "x", None)
        for other in others:
            assert other == sent(reasoning=other)["reasoning"]

    def test_include(self) -> None:
        """What nodes cannot include is left out and named."""
        taken, unknown = "reasoning.encrypted_content", "web_search_call.action.sources"
        assert [taken, 7] == sent(include=[unknown, taken, 7])["include"]
        assert (f"include.{unknown}",) == noted(include=[taken, unknown])
        assert "x" == sent(include="x")["include"]


class MediaTests(SynchronousTestCase):
    def test_what_nodes_would_fetch(self) -> None:
        """Where the operator does not let nodes fetch, what is named by address is refused."""
        strict = Profile(native_responses=True, fetches_images=False)
        cases = (
            ({"type": "input_image", "image_url": "http://h/cat.png"}, "image_url"),
            ({"type": "image_url", "image_url": {"url": "https://h/cat.png"}}, "image_url"),
            ({"type": "input_file", "file_url": "http://h/a.txt"}, "file_url"),
        )
        for part, field in cases:
            items = [HELLO, {"role": "user", "content": [part]}]
            error = refusal(read_request, strict, input=items)
            assert f"input[1].content[0].{field}" == error.param
            assert items == upstream_body(read_request, NATIVE, input=items)["input"]
        inside = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]
        assert inside == upstream_body(read_request, strict, input=inside)["input"]

    def test_images_for_a_model_without_vision(self) -> None:
        """An image is refused by its path, and not one that a tool gave, which is told in words."""
        blind, image = (
            Profile(native_responses=True, vision=False),
            {"type": "input_image", "image_url": "data:,"},
        )
        error = refusal(read_request, blind, input=[{"role": "user", "content": [image]}])
        assert "input[0].content[0]" == error.param
        assert "model has no vision" in error.message
        given = {"type": "function_call_output", "call_id": "c", "output": [image]}
        upstream_body(read_request, blind, input=[given])
