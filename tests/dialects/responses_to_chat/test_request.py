"""The fields of a response's request, by translation.md 10.1."""

import contextlib
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.routes.responses import read_count, read_request
from cortexd.dialects.wire.json_values import decode, encode
from cortexd.dialects.wire.profile import MISTRALRS, ReasoningControl
from cortexd.errors import BadRequest
from tests.covers import covers
from tests.dialects.response_bodies import exchange, noted, refused, sent

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


class FieldTests(SynchronousTestCase):
    @covers("10.1 model, stream", "10.1 instructions", "10.1 input")
    def test_a_request(self) -> None:
        """It is a streamed chat of the catalogue's model, whose instructions come first."""
        found = exchange(input="hello", instructions="Be brief.")

        assert {
            "model": "org/target",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "hello"},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
        } == decode(found.first.body)
        assert ("/v1/chat/completions", True, False, ()) == (
            found.first.path,
            found.first.streams,
            found.streams,
            found.follows,
        )

    @covers("10.1 input")
    def test_nesting(self) -> None:
        """However deep an item is nested, it is read or refused."""
        for depth in range(800, 1000):
            content = b'{"a":' * depth + b"1" + b"}" * depth
            body = b'{"model":"m","input":[{"role":"user","content":' + content + b"}]}"
            with contextlib.suppress(BadRequest):  # never a RecursionError
                read_request(body)

    @covers("10.1 input")
    def test_input(self) -> None:
        """It must be there, have messages, and be of objects."""
        for given, param in ((None, "input"), ([], "input"), (7, "input"), (["x"], "input[0]")):
            assert param == refused(input=given), given

    @covers("10.1 max_output_tokens", "10.1 temperature and top_p", "10.1 fields of a chat")
    def test_numbers(self) -> None:
        """The limit has the chat's name, and sampling goes up as it is, within its bounds."""
        body = sent(max_output_tokens=50, temperature=2, top_p=0.5, top_k=4, stop=["x"], seed=None)
        names = ("max_tokens", "temperature", "top_p", "top_k", "stop")
        assert [50, 2, 0.5, 4, ["x"]] == [body[name] for name in names]
        assert "seed" not in body
        small = replace(MISTRALRS, max_output=9)
        assert 9 == sent(small, max_output_tokens=50)["max_tokens"]
        assert ["max_output_tokens"] == noted(small, max_output_tokens=50)
        for name, value in (("max_output_tokens", 0), ("temperature", 2.5), ("top_p", 1.1)):
            assert name == refused(**{name: value})

    @covers("10.1 text.format", "10.1 text.verbosity")
    def test_text(self) -> None:
        """A schema and any object become the chat's format; verbosity is named."""
        given = {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}
        expected = {"name": "n", "schema": SCHEMA, "strict": True}
        for form, response_format in (
            (given, {"type": "json_schema", "json_schema": expected}),
            ({"type": "json_object"}, {"type": "json_object"}),
            ({"type": "text"}, None),
        ):
            assert response_format == sent(text={"format": form}).get("response_format")
        assert [] == noted(text={"verbosity": "medium", "format": None})
        assert ["text.verbosity"] == noted(text={"verbosity": "low"})
        for form, param in (
            ({"type": "xml"}, "text.format.type"),
            ({"type": "json_schema"}, "text.format.schema"),
        ):
            assert param == refused(text={"format": form})

    @covers("10.1 reasoning.effort", "10.1 reasoning.summary")
    def test_reasoning(self) -> None:
        """An effort goes up in the words of the node, and none switches thinking off."""
        effort = replace(MISTRALRS, reasoning_control=ReasoningControl.EFFORT)
        none = replace(MISTRALRS, reasoning_control=ReasoningControl.NONE)
        few = replace(MISTRALRS, efforts=("low", "medium"))
        for profile, asked, field, value, words in (
            (MISTRALRS, "high", "reasoning_effort", "high", []),
            (MISTRALRS, "minimal", "reasoning_effort", "low", []),
            (MISTRALRS, "max", "reasoning_effort", "xhigh", []),
            (MISTRALRS, "none", "enable_thinking", False, []),
            (MISTRALRS, "odd", "reasoning_effort", None, ["effort"]),
            (effort, "xhigh", "reasoning_effort", "high", ["effort"]),
            (none, "low", "reasoning_effort", None, ["effort"]),
            (effort, "none", "reasoning_effort", None, ["effort"]),
            (few, "high", "reasoning_effort", "medium", ["effort"]),
            (few, "low", "reasoning_effort", "low", []),
        ):
            reasoning = {"effort": asked, "summary": "auto"}
            assert value == sent(profile, reasoning=reasoning).get(field), asked
            assert words == noted(profile, reasoning=reasoning), asked
        assert [] == noted(reasoning={"summary": "detailed", "effort": None})

    @covers("10.1 include", "10.1 truncation", "10.1 top_logprobs")
    def test_wishes(self) -> None:
        """What no node does is named, unless the request asks for nothing."""
        assert [] == noted(
            include=["reasoning.encrypted_content"], truncation="disabled", top_logprobs=0
        )
        assert ["include.message.output_text.logprobs", "truncation", "top_logprobs"] == noted(
            include=["message.output_text.logprobs"], truncation="auto", top_logprobs=5
        )
        assert "top_logprobs" == refused(top_logprobs=21)

    @covers(
        "10.1 max_tool_calls",
        "10.1 repeated strings",
        "10.1 service fields",
        "10.1 unknown field",
        "10.1 prompt, conversation",
    )
    def test_other_fields(self) -> None:
        """Some have no effect, some are named, and a few cannot be."""
        harmless = {
            "max_tool_calls": 3,
            "user": "u",
            "metadata": {"a": "b"},
            "service_tier": "auto",
            "stream_options": {"include_obfuscation": False},
            "client_metadata": {},
            "prompt_cache_key": "k",
        }
        assert sent() == sent(**harmless)
        assert [] == noted(**harmless)
        assert ["brand_new"] == noted(brand_new=1, other=None)
        for name, value in (
            ("max_tool_calls", 0),
            ("user", 7),
            ("metadata", []),
            ("prompt", {"id": "p"}),
            ("conversation", "c"),
        ):
            assert name == refused(**{name: value}), name


class StoredTests(SynchronousTestCase):
    @covers("10.1 store, previous_response_id, background")
    def test_what_the_gateway_decides_by(self) -> None:
        """It reads what to continue, and whether to store; ``store`` is true if it is absent."""
        for fields, expected in (
            ({}, (None, True, False)),
            ({"store": False, "previous_response_id": "resp_1"}, ("resp_1", False, False)),
            ({"store": None, "background": True}, (None, True, True)),
        ):
            request = read_request(encode({"model": "m", "input": "x", **fields}))
            assert expected == (request.previous_id, request.stores, request.in_background)

    def test_a_response_that_is_nowhere(self) -> None:
        """A request that continues one refers to it, until its items stand before the request's."""
        request = read_request(
            encode({"model": "m", "input": "and?", "previous_response_id": "resp_1"})
        )
        found = request.exchange("m", random_id="x", now=0)
        assert ["resp_1"] == [each.kept.id for each in found.follows]
        text = {"type": "output_text", "text": "Yes.", "annotations": []}
        said = {"type": "message", "id": "msg_1", "role": "assistant", "content": [text]}
        before = read_request(encode({"model": "m", "input": "why?"})).input_items

        continued = request.continuing([*before, said])
        found = continued.exchange("m", random_id="x", now=0)
        assert () == found.follows
        assert [("user", "why?"), ("assistant", "Yes."), ("user", "and?")] == [
            (each["role"], each["content"]) for each in decode(found.first.body)["messages"]
        ]

    @covers("10.2 item_reference")
    def test_references(self) -> None:
        """An item that is only referred to comes from before, or from what the gateway finds."""
        reference = {"type": "item_reference", "id": "msg_1"}
        request = read_request(encode({"model": "m", "input": [reference, {"id": "msg_2"}]}))
        known = {
            name: {"type": "message", "id": name, "role": "user", "content": name}
            for name in ("msg_1", "msg_2")
        }
        assert ["msg_1", "msg_2"] == request.references
        found = request.with_items(known)
        assert [] == found.references
        body = decode(found.exchange("m", random_id="x", now=0).first.body)
        assert ["msg_1\n\nmsg_2"] == [each["content"] for each in body["messages"]]

    def test_ids_of_items(self) -> None:
        """Each has one, the same for the same request, and another for each place in it."""
        body = encode({"model": "m", "input": [{"role": "user", "content": "a"}] * 2})
        ids = [item["id"] for item in read_request(body).input_items]
        assert ids == [item["id"] for item in read_request(body).input_items]
        assert 2 == len(set(ids))
        assert all(each.startswith("msg_") for each in ids)


class CountTests(SynchronousTestCase):
    def test_an_estimate(self) -> None:
        """Instructions and tools count, and a picture counts as one, whatever its bytes."""
        picture = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 50_000}
        plain = {"model": "m", "input": [{"role": "user", "content": "x" * 360}]}
        shown = {"model": "m", "input": [{"role": "user", "content": [picture]}]}

        def count(body: object) -> int:
            answer = decode(read_count(encode(body)).estimate())
            assert "response.input_tokens" == answer["object"]
            tokens: int = answer["input_tokens"]
            return tokens

        assert 100 < count(plain) < 200
        assert count(plain) + 100 < count({**plain, "instructions": "y" * 400})
        assert 1_600 < count(shown) < 1_700
        assert 1 == count({"model": "m"})

    def test_ids_are_no_tokens(self) -> None:
        """The ids and states of a conversation's items, which no model reads, count nothing."""
        said = [{"role": "user", "content": "hi"}] * 100
        answer = decode(read_count(encode({"model": "m", "input": said})).estimate())
        assert 1_000 < answer["input_tokens"] < 2_500
