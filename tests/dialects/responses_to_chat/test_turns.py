"""The items of a response's input, by translation.md 10.2."""

import base64
import json
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.responses_to_chat.thoughts import conceal
from cortexd.dialects.responses_to_chat.turns import NO_RESULT
from cortexd.dialects.routes.responses import read_request
from cortexd.dialects.wire.json_values import NOT_JSON, decode
from cortexd.dialects.wire.profile import MISTRALRS
from cortexd.errors import BadRequest
from tests.covers import covers
from tests.dialects.bodies import JSON_VALUES, assert_read_or_refused, bodies
from tests.dialects.response_bodies import messages, noted, refused

PNG = "data:image/png;base64,AAAA"
BLIND = replace(MISTRALRS, vision=False)
USER: dict[str, Any] = {"role": "user", "content": "go on"}


def said(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "role": "assistant", "id": "msg_1", "content": content}


def called(name: str, call_id: str, **fields: object) -> dict[str, Any]:
    return {
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": "{}",
        **fields,
    }


def result(call_id: str, output: object) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": list(parts)}


def calls_of(message: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in message["tool_calls"]
    ]


class MessageTests(SynchronousTestCase):
    @covers("10.2 message", "10.2 text parts")
    def test_roles_and_texts(self) -> None:
        """Each role stays, ``developer`` as ``system``, and the texts of a message are one."""
        texts = [{"type": "input_text", "text": "a"}, {"type": "text", "text": "b"}]
        found = messages(
            {"role": "developer", "content": texts},
            {"role": "user", "content": texts},
            said("c"),
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            {"role": "user", "content": "d"},
        )
        assert [
            ("system", "a\nb"),
            ("user", "a\nb"),
            ("assistant", "c\n\nNo."),
            ("user", "d"),
        ] == [(each["role"], each["content"]) for each in found]

    @covers("10.2 message", "10.2 unknown part")
    def test_what_nobody_knows(self) -> None:
        """In the newest turn it is refused; in a history it becomes words."""
        odd = user({"type": "hologram"}, {"type": "input_text", "text": "x"})
        critic = {"role": "critic", "content": "Weak."}
        assert "input[1].content[0].type" == refused(input=[USER, odd])
        assert "input[0].role" == refused(input=[critic])
        found = messages(odd, critic, said("ok"), USER)
        words = "[hologram omitted: it cannot be shown to the model]\nx\n\nWeak."
        assert ("user", words) == (found[0]["role"], found[0]["content"])
        assert ["input.hologram", "role"] == noted(input=[odd, critic, said("ok"), USER])

    @covers("10.2 input_image")
    def test_images(self) -> None:
        """They go up by URL; what cannot be sent is refused, and told in a history."""
        image = user({"type": "input_image", "image_url": PNG, "detail": "high"})
        part = {"type": "image_url", "image_url": {"url": PNG}}
        (found,) = messages(image)
        assert [part] == found["content"]
        by_id = user({"type": "input_image", "file_id": "file_1"})
        strict = replace(MISTRALRS, fetches_images=False)
        linked = user({"type": "input_image", "image_url": "https://x/y.png"})
        for profile, item, words in (
            (BLIND, image, "[image omitted: model has no vision]"),
            (MISTRALRS, by_id, "[image omitted: images by 'file_id' are not supported]"),
            (strict, linked, "[image omitted: images are not fetched here]"),
        ):
            assert str(refused(profile, input=[item])).startswith("input[0].content[0]")
            assert words == messages(item, said("ok"), USER, profile=profile)[0]["content"]

    @covers("10.2 input_file", "10.2 input_audio")
    def test_files_and_audio(self) -> None:
        """A file of text is its text, audio has the node's form, and others are refused."""
        text = base64.b64encode("héllo".encode()).decode()
        file = {"type": "input_file", "filename": "a.txt"}
        (found,) = messages(user({**file, "file_data": f"data:text/plain;base64,{text}"}))
        assert "File: a.txt\nhéllo" == found["content"]
        (found,) = messages(user({**file, "file_data": PNG}))
        assert PNG == found["content"][0]["image_url"]["url"]
        audio = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
        (found,) = messages(user(audio))
        assert "data:audio/wav;base64,AAAA" == found["content"][0]["audio_url"]["url"]
        for bad in ({"file_data": "data:application/pdf;base64,AA"}, {"file_id": "file_1"}):
            assert "input[0].content[0]" == refused(input=[user({**file, **bad})])
            (first, *_) = messages(user({**file, **bad}), said("ok"), USER)
            assert first["content"].startswith("[file omitted: ")


class TurnTests(SynchronousTestCase):
    @covers("10.2 text before its calls", "10.2 function_call", "10.2 function_call_output")
    def test_a_turn_with_calls(self) -> None:
        """Thinking, text and calls are one message, in any order, and results follow at once."""
        thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
        for items in (
            [thought, said("Look."), called("f", "c1"), called("g", "c2")],
            [called("f", "c1"), thought, called("g", "c2"), said("Look.")],
        ):
            found = messages(USER, *items, result("c2", "two"), result("c1", "one"), USER)
            assert ["user", "assistant", "tool", "tool", "user"] == [m["role"] for m in found]
            assert ("Look.", "Hm.") == (found[1]["content"], found[1]["reasoning_content"])
            assert [("c1", "f", "{}"), ("c2", "g", "{}")] == calls_of(found[1])
            assert [("c1", "one"), ("c2", "two")] == [
                (m["tool_call_id"], m["content"]) for m in found[2:4]
            ]

    def test_turns_one_after_the_other(self) -> None:
        """A result ends the turn of its call, so that the next call begins another."""
        found = messages(
            USER, called("f", "c1"), result("c1", "1"), called("f", "c2"), result("c2", "2")
        )
        assert ["user", "assistant", "tool", "assistant", "tool"] == [m["role"] for m in found]
        assert "" == found[1]["content"]

    def test_a_message_between_call_and_result(self) -> None:
        """The result comes first, as chat templates need it."""
        found = messages(USER, called("f", "c1"), {**USER, "content": "wait"}, result("c1", "1"))
        assert ["user", "assistant", "tool", "user"] == [m["role"] for m in found]

    @covers("10.2 function_call_output")
    def test_ids_that_repeat(self) -> None:
        """A result stays with the newest call of its id, never with one of another turn."""
        call = called("f", "c")
        cut = messages(result("c", "old"), USER, call, result("c", "new"))
        assert ["new"] == [each["content"] for each in cut if each["role"] == "tool"]
        assert "old" in cut[0]["content"]

        stopped = messages(USER, call, USER, call, call, result("c", "1"), result("c", "2"))
        assert [NO_RESULT, "1", "2"] == [
            each["content"] for each in stopped if each["role"] == "tool"
        ]

    def test_outputs_with_media(self) -> None:
        """Images follow the result; what cannot be sent is told, even in the newest turn."""
        parts = [
            {"type": "input_text", "text": "see"},
            {"type": "input_image", "image_url": PNG},
            {"type": "hologram"},
        ]
        items = [USER, called("f", "c1"), result("c1", parts)]
        *_, told, shown = messages(*items)
        assert told["content"].startswith("see\n[image 1 attached below]\n[hologram")
        assert ["image_url"] == [part["type"] for part in shown["content"]]
        blind = messages(*items, profile=BLIND)[-1]["content"]
        assert "see\n[image omitted: model has no vision]\n[hologram" in blind
        assert '{"a":1}' == messages(USER, called("f", "c1"), result("c1", {"a": 1}))[-1]["content"]

    def test_an_image_beside_a_result(self) -> None:
        """It is never refused, because it stays in the conversation from then on."""
        image = user({"type": "input_image", "image_url": PNG})
        found = messages(USER, called("f", "c1"), result("c1", "see"), image, profile=BLIND)
        assert "[image omitted: model has no vision]" == found[-1]["content"]

    @covers("10.2 custom_tool_call")
    def test_custom_calls(self) -> None:
        """They are calls with one string; a namespace is part of the name."""
        call = {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": 'a"b'}
        output = {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"}
        found = messages(USER, call, called("list", "c2", namespace="files"), output)
        assert [("c1", "patch", '{"input":"a\\"b"}'), ("c2", "files__list", "{}")] == calls_of(
            found[1]
        )
        assert "done" == found[2]["content"]

    @covers("10.2 calls and outputs unmatched")
    def test_what_has_no_counterpart(self) -> None:
        """A call gets a result that says so, and a result becomes text of the user."""
        items = [result("c0", "old"), USER, called("f", "c1"), USER]
        found = messages(*items)
        assert ["user", "assistant", "tool", "user"] == [m["role"] for m in found]
        assert found[0]["content"].startswith("[result of an earlier tool call]\nold\n\n")
        assert NO_RESULT == found[2]["content"]
        assert ["output_without_call", "call_without_output"] == noted(input=items)

    @covers("10.2 reasoning")
    def test_thinking(self) -> None:
        """It goes back to the model from wherever it stands, if it is ours."""
        for fields, thought in (
            ({"summary": [{"type": "summary_text", "text": "s"}]}, "s"),
            ({"summary": [], "content": [{"type": "reasoning_text", "text": "c"}]}, "c"),
            ({"summary": [], "encrypted_content": conceal("é")}, "é"),
            ({"summary": [], "encrypted_content": "gAAAA"}, None),
            ({"summary": [], "encrypted_content": "cortex1.%"}, None),
            ({}, None),
        ):
            found = messages(USER, {"type": "reasoning", **fields}, said("x"), USER)
            assert thought == found[1].get("reasoning_content"), fields
        alone = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}]}
        assert ["user"] == [m["role"] for m in messages(USER, alone, USER)]
        assert ["input.reasoning"] == noted(input=[USER, alone, USER])

    def test_instructions_and_roles_in_parts(self) -> None:
        """Instructions may be items or parts, and only a user's message may have an image."""
        text = {"type": "input_text", "text": "Be brief."}
        image = {"type": "input_image", "image_url": PNG}
        for given_instructions in (
            [text],
            [{"role": "developer", "content": [text]}],
            ["Be brief."],
        ):
            found = messages(USER, instructions=given_instructions)
            assert {"role": "system", "content": "Be brief."} == found[0]
        assert "instructions" == refused(instructions={"a": 1})
        shown = {"type": "message", "role": "system", "content": [text, image]}
        system = messages(shown, USER)[0]["content"]
        assert system.startswith("Be brief.\n[")

    def test_results_of_calls_that_were_cut_off(self) -> None:
        """A result without its call is words of the user, with its image; one without id goes."""
        image = {"type": "input_image", "image_url": PNG}
        nameless = {"type": "function_call_output", "output": "lost"}
        found = messages(result("c0", [image]), nameless, said("ok"), USER)
        words, part = found[0]["content"]
        assert "[result of an earlier tool call]" == words["text"]
        assert {"type": "image_url", "image_url": {"url": PNG}} == part
        assert "lost" not in json.dumps(found)

    @covers("10.2 records of tools")
    def test_records_of_tools(self) -> None:
        """They are calls and results of functions with the tools' names."""
        shell = {"type": "local_shell_call", "call_id": "c1", "action": {"command": ["ls"]}}
        shell_output = {"type": "local_shell_call_output", "id": "c1", "output": "a.txt"}
        mcp = {"type": "mcp_call", "id": "m1", "name": "get", "arguments": "{}", "output": "7"}
        action = {"type": "search", "query": "rain"}
        search = {"type": "web_search_call", "id": "w1", "status": "completed", "action": action}
        patch = {"type": "apply_patch_call", "call_id": "p1", "operation": {"type": "delete_file"}}
        patched = {"type": "apply_patch_call_output", "call_id": "p1", "status": "completed"}
        screen = {"type": "computer_call", "call_id": "k1", "action": {"type": "click"}}
        shot = {
            "type": "computer_call_output",
            "call_id": "k1",
            "output": {"type": "computer_screenshot", "image_url": PNG},
        }
        items = [USER, shell, shell_output, mcp, search, USER, patch, patched, screen, shot]
        found = messages(*items, USER)
        names = [call["function"]["name"] for m in found for call in m.get("tool_calls", ())]
        assert ["local_shell", "get", "web_search", "apply_patch", "computer"] == names
        results = [m["content"] for m in found if m["role"] == "tool"]
        shown = "[image 1 attached below]"
        assert ["a.txt", "7", "[completed]", "completed", shown] == results
        assert PNG == found[-1]["content"][0]["image_url"]["url"]

    @covers("10.2 unknown item", "10.2 items with tools", "10.2 item_reference")
    def test_what_is_left_out(self) -> None:
        """Items that nobody knows are named, wherever they stand; tools are no words."""
        items = [
            {"type": "compaction", "encrypted_content": "x"},
            {"type": "item_reference", "id": "msg_9"},
            {"type": "additional_tools", "role": "developer", "tools": []},
            {"type": 7},
            USER,
            {"type": "function_call", "name": "f"},
        ]
        assert [("user", "go on")] == [(m["role"], m["content"]) for m in messages(*items)]
        assert [
            "input.compaction",
            "input.item_reference",
            "input.unknown",
            "input.function_call",
        ] == noted(input=items)


KINDS = st.sampled_from(
    [
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "local_shell_call",
        "shell_call_output",
        "apply_patch_call",
        "apply_patch_call_output",
        "mcp_call",
        "web_search_call",
        "file_search_call",
        "code_interpreter_call",
        "image_generation_call",
        "computer_call_output",
        "program",
        "tool_search_output",
        "additional_tools",
        "item_reference",
        "compaction",
    ]
)
PARTS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            ["input_text", "output_text", "input_image", "input_file", "refusal"]
        )
    },
    optional={
        name: st.text(max_size=3) | JSON_VALUES for name in ("text", "image_url", "file_data")
    },
)
CONTENTS = st.text(max_size=3) | st.lists(PARTS | JSON_VALUES, max_size=2) | JSON_VALUES
IDS = st.sampled_from(["c1", "c2"])
ITEMS = st.fixed_dictionaries(
    {},
    optional={
        "type": KINDS | JSON_VALUES,
        "role": st.sampled_from(["user", "assistant", "developer"]) | JSON_VALUES,
        "content": CONTENTS,
        "output": CONTENTS,
        "summary": CONTENTS,
        "call_id": IDS | JSON_VALUES,
        "id": IDS | JSON_VALUES,
        "name": st.sampled_from(["f", "a b"]) | JSON_VALUES,
        "namespace": st.just("n") | JSON_VALUES,
        "action": JSON_VALUES,
        "tools": st.lists(JSON_VALUES, max_size=2) | JSON_VALUES,
        "encrypted_content": st.just("cortex1.aGk=") | JSON_VALUES,
    },
)


def is_json(value: object) -> bool:
    """Return whether a value stands in JSON as we read it: no NaN, and no lone surrogate."""
    try:
        decode(json.dumps(value).encode())
    except NOT_JSON:
        return False
    return True


BODIES = bodies(
    {
        "model": st.just("m"),
        "input": st.text() | st.lists(ITEMS, max_size=4),
        "instructions": st.text(max_size=3),
        "stream": st.booleans(),
        "tools": st.lists(
            st.fixed_dictionaries(
                {"type": st.sampled_from(["function", "custom", "namespace", "web_search"])},
                optional={"name": st.sampled_from(["f", "g"]) | JSON_VALUES, "tools": JSON_VALUES},
            ),
            max_size=2,
        ),
        "tool_choice": st.sampled_from(["auto", "required", {"type": "function", "name": "f"}]),
        "text": st.just({"format": {"type": "json_object"}}),
        "reasoning": st.just({"effort": "low"}),
    }
)


class AnyInputTests(SynchronousTestCase):
    @settings(max_examples=60)
    @given(st.lists(ITEMS.filter(is_json), max_size=5))
    def test_a_history_is_never_refused(self, items: list[dict[str, Any]]) -> None:
        """Whatever stands before the model's last word, the request goes up."""
        found = messages(*items, said("ok"), USER)

        assert ("user", "go on") == (found[-1]["role"], found[-1]["content"])
        open_calls: set[str] = set()
        for message in found:
            if message["role"] == "tool":
                open_calls.discard(message["tool_call_id"])
            else:
                assert not open_calls, "results come directly after their calls"
                open_calls = {call["id"] for call in message.get("tool_calls", ())}

    @settings(max_examples=40)
    @given(st.lists(ITEMS.filter(is_json), max_size=3))
    def test_the_newest_turn_alone_is_refused(self, items: list[dict[str, Any]]) -> None:
        """A refusal names a field of the input that belongs to it."""
        param: str | None = "input[1]"
        try:
            messages(said("ok"), *items)
        except BadRequest as error:
            param = error.param

        assert str(param).startswith("input[")

    @settings(max_examples=100)
    @given(BODIES)
    def test_any_body(self, body: bytes) -> None:
        """Any body is a request that can be sent, or a mistake of the client's."""
        assert_read_or_refused(read_request, body)
