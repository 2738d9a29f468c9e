import json
import re
from collections import deque
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.routes.messages import read_request
from cortexd.dialects.wire.json_values import decode
from cortexd.dialects.wire.profile import MidSystem, Profile, ToolIdFormat
from tests.covers import covers
from tests.dialects.anthropic_bodies import (
    CONVERSATIONS,
    HELLO,
    IMAGE,
    IMAGE_PART,
    assistant,
    call,
    noted,
    refused,
    refused_messages,
    result,
    sent,
    sent_messages,
    text,
    user,
)

PASS = Profile(mid_system=MidSystem.PASS)
HOIST = Profile(mid_system=MidSystem.HOIST)
APART = Profile(alternate=False)
BE_BRIEF = {"role": "system", "content": "be brief"}
REMINDER = "<system-reminder>\nbe brief\n</system-reminder>"
BILLING = text("x-anthropic-billing-header: cc_version=2.1.197; cch=abc;")


def roles(messages: Any) -> list[str]:
    return [message["role"] for message in messages]


def answer(*blocks: Any, **fields: Any) -> Any:
    """Return the message that an assistant turn of these blocks becomes, all calls answered."""
    calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    turns = [*HELLO, assistant(*blocks), user(*map(result, calls), text("go on"))]
    return sent_messages(*turns, **fields)[1]


def words_for(*blocks: Any) -> set[str]:
    calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    return noted(messages=[*HELLO, assistant(*blocks), user(*map(result, calls), text("go on"))])


class SystemTests(SynchronousTestCase):
    @covers("2.1 system")
    def test_system(self) -> None:
        """System string/array: the first message, of role system, its content one string."""
        for system, content in (
            ("be brief", "be brief"),
            ([text("be brief"), text("be kind")], "be brief\nbe kind"),
        ):
            assert [{"role": "system", "content": content}, *HELLO] == sent(system=system)[
                "messages"
            ]
            assert set() == noted(system=system)
        for nothing in (None, "", [], [text("")]):
            assert HELLO == sent(system=nothing)["messages"]

    @covers("2.1 system")
    def test_system_that_is_no_text(self) -> None:
        """system: non-text is R."""
        cases: list[tuple[object, str]] = [
            ([text("a"), IMAGE], "system[1].type"),
            (["a"], "system[0]"),
            (7, "system"),
            ([{"type": "text"}], "system[0].text"),
        ]
        for system, param in cases:
            assert param == refused(system=system).param

    @covers("2.1 system")
    def test_billing_line(self) -> None:
        """system: a block whose text starts with x-anthropic-billing-header: is dropped, H."""
        assert [{"role": "system", "content": "be brief"}, *HELLO] == (
            sent(system=[BILLING, text("be brief")])["messages"]
        )
        assert HELLO == sent(system=[BILLING])["messages"]
        assert set() == noted(system=[BILLING])


class SystemTurnTests(SynchronousTestCase):
    @covers("2.1 role system")
    def test_user(self) -> None:
        """messages[].role system, by default: wrapped, at the end of the user turn before it."""
        turns = [*HELLO, BE_BRIEF, assistant(text("ok")), *HELLO]

        assert [f"hi\n{REMINDER}", "ok", "hi"] == [
            message["content"] for message in sent_messages(*turns)
        ]
        assert {"mid_system"} == noted(messages=turns)

    def test_user_after_an_answer(self) -> None:
        """After an answer it is put before the user turn that follows, or is a turn of its own."""
        followed = [*HELLO, assistant(text("ok")), BE_BRIEF, *HELLO]
        last = [*HELLO, assistant(text("ok")), BE_BRIEF]

        assert f"{REMINDER}\nhi" == sent_messages(*followed)[-1]["content"]
        assert {"role": "user", "content": REMINDER} == sent_messages(*last)[-1]

    def test_at_the_front(self) -> None:
        """Before any other turn it joins the system prompt, which costs no prefix cache."""
        for profile in (Profile(), PASS, HOIST):
            found = sent_messages(BE_BRIEF, *HELLO, profile=profile, system="be kind")
            assert [{"role": "system", "content": "be kind\nbe brief"}, *HELLO] == found

    def test_user_beside_results(self) -> None:
        """It never comes between a call and its result, whichever side of the result it is on."""
        called = [*HELLO, assistant(call("toolu_1"))]
        for turns in (
            [*called, BE_BRIEF, user(result("toolu_1"))],
            [*called, user(result("toolu_1")), BE_BRIEF],
        ):
            found = sent_messages(*turns)
            assert ["user", "assistant", "tool", "user"] == roles(found)
            assert REMINDER == found[-1]["content"]

    @covers("2.1 role system")
    def test_pass(self) -> None:
        """messages[].role system, profile pass: stays where it is, but for results, E."""
        turns = [*HELLO, assistant(call("toolu_1")), BE_BRIEF, user(result("toolu_1"), text("so?"))]

        assert ["user", "assistant", "tool", "system", "user"] == roles(
            sent_messages(*turns, profile=PASS)
        )
        assert set() == noted(PASS, messages=turns)
        assert [*HELLO, BE_BRIEF] == sent_messages(*HELLO, BE_BRIEF, profile=PASS)

    def test_pass_with_images(self) -> None:
        """Images of a result go before a system turn that is passed on."""
        turns = [*HELLO, assistant(call("toolu_1")), BE_BRIEF, user(result("toolu_1", IMAGE))]
        found = sent_messages(*turns, profile=PASS)

        assert ["user", "assistant", "tool", "user", "system"] == roles(found)
        assert [IMAGE_PART] == found[3]["content"]

    @covers("2.1 role system")
    def test_hoist(self) -> None:
        """messages[].role system, profile hoist: its text joins the system prompt, A."""
        turns = [*HELLO, assistant(text("a")), BE_BRIEF, assistant(text("b")), *HELLO]
        found = sent_messages(*turns, profile=HOIST, system="be kind")

        assert ["system", "user", "assistant", "user"] == roles(found)
        assert ("be kind\nbe brief", "a\n\nb") == (found[0]["content"], found[2]["content"])
        assert {"mid_system"} == noted(HOIST, messages=turns)
        assert "messages" == refused_messages(BE_BRIEF, profile=HOIST).param

    def test_blocks(self) -> None:
        """A system turn may be text blocks."""
        blocks = {"role": "system", "content": [text("be"), text("brief")]}

        assert "be\nbrief" == sent_messages(*HELLO, blocks, profile=PASS)[-1]["content"]

    @covers("2.1 role system")
    def test_other_roles(self) -> None:
        """messages[].role other than user/assistant/system: R."""
        for role in ("tool", "developer", "", None, ["user"]):
            error = refused_messages(*HELLO, {"role": role, "content": "a"})
            assert "messages[1].role" == error.param


class LastTurnTests(SynchronousTestCase):
    @covers("2.1 messages empty or prefilled")
    def test_no_messages(self) -> None:
        """Messages []: R, as is what is no array."""
        cases: tuple[object, ...] = ([], None, "hi", {})
        for nothing in cases:
            assert "messages" == refused(messages=nothing).param
        assert "messages[0]" == refused(messages=["hi"]).param

    @covers("2.1 messages empty or prefilled")
    def test_prefill(self) -> None:
        """Last role assistant (prefill): R unless profile has continue_final_message."""
        turns = [*HELLO, assistant(text("{"))]

        error = refused_messages(*turns)
        assert "messages[1]" == error.param
        assert "assistant prefill is not supported by this model" in error.message
        able = Profile(continue_final_message=True)
        body = sent(able, messages=turns)
        assert {"role": "assistant", "content": "{"} == body["messages"][-1]
        assert {"continue_final_message": True, "add_generation_prompt": False}.items() <= (
            body.items()
        )
        assert "continue_final_message" not in sent(able)

    def test_prefill_behind_a_hoisted_turn(self) -> None:
        """An answer that is the last once system turns are hoisted is a prefill too."""
        turns = [*HELLO, assistant(text("{")), BE_BRIEF]

        assert "messages[1]" == refused_messages(*turns, profile=HOIST).param


class AnswerTests(SynchronousTestCase):
    @covers("2.2 tool_use")
    def test_tool_use(self) -> None:
        """tool_use: arguments are compact JSON in raw UTF-8, keys in the client's order."""
        message = answer(call("toolu_1", {"z": 1.5, "city": "東京", "a": [None, True]}))

        assert {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "toolu_1",
                    "type": "function",
                    "function": {
                        "name": "weather",
                        "arguments": '{"z":1.5,"city":"東京","a":[null,true]}',
                    },
                }
            ],
        } == message

    @covers("2.2 unparsed tool input")
    def test_unparsed_input(self) -> None:
        """{"__unparsedToolInput":..} input: kept as is."""
        unparsed = {"__unparsedToolInput": {"raw": '{"city": "Ō', "len": 28}}
        (made,) = answer(call("toolu_1", unparsed))["tool_calls"]

        assert unparsed == decode(made["function"]["arguments"].encode())

    @covers("2.2 tool_use")
    def test_input_that_is_no_object(self) -> None:
        """tool_use: input that is not an object is kept under one key, A."""
        cases: list[tuple[object, str]] = [
            ("{}", "{}"),
            ("", "{}"),
            (None, "{}"),
            ([7], '{"_raw_arguments":"[7]"}'),
            ("cut {", '{"_raw_arguments":"cut {"}'),
        ]
        for wrong, expected in cases:
            block = call("toolu_1") | {"input": wrong}
            (made,) = answer(block)["tool_calls"]
            assert expected == made["function"]["arguments"]
            assert ({"arguments"} if "_raw" in expected else set()) == words_for(block)

    @covers("2.2 assistant text and tool_use")
    def test_text_and_tool_use(self) -> None:
        """Assistant text + tool_use: content is a string, empty where there is no text."""
        assert "ok" == answer(text("ok"), call("toolu_1"))["content"]
        assert "" == answer(call("toolu_1"))["content"]
        assert "" == answer(text(""), call("toolu_1"))["content"]
        turns = [*HELLO, assistant(), user(text("go on"))]
        assert [{"role": "user", "content": "hi\n\ngo on"}] == sent_messages(*turns)
        assert {"empty_answer"} == noted(messages=turns)
        assert {"role": "assistant", "content": "a\nb"} == answer(text("a"), text("b"))

    @covers("2.2 assistant text and tool_use")
    def test_text_after_tool_use(self) -> None:
        """Text after tool_use moves before it, A."""
        blocks = [text("a"), call("toolu_1"), text("b"), call("toolu_2")]
        message = answer(*blocks)

        assert "a\nb" == message["content"]
        assert ["toolu_1", "toolu_2"] == [made["id"] for made in message["tool_calls"]]
        assert {"text_after_tool_use"} == words_for(*blocks)
        assert set() == words_for(text("a"), call("toolu_1"))

    @covers("T45", "2.2 thinking")
    def test_t45_thinking(self) -> None:
        """T45; thinking: joined as reasoning_content, whatever its signature."""
        for signature in ("", "cortex", "EqQBCgIYAhIM", None):
            block = {"type": "thinking", "thinking": "hm", "signature": signature}
            found = answer(block, block | {"thinking": "ha"}, text("ok"))
            assert {"role": "assistant", "content": "ok", "reasoning_content": "hm\nha"} == found
            assert set() == words_for(block, text("ok"))
        unsigned = {"type": "thinking", "thinking": "hm"}
        assert "hm" == answer(unsigned, text("ok"))["reasoning_content"]

    def test_empty_thinking(self) -> None:
        """Thinking that was withheld is replayed empty, and says nothing."""
        block = {"type": "thinking", "thinking": "", "signature": "cortex"}

        assert {"role": "assistant", "content": "ok"} == answer(block, text("ok"))
        assert {"role": "assistant", "content": "ok"} == answer({"type": "thinking"}, text("ok"))

    @covers("2.2 redacted_thinking")
    def test_redacted_thinking(self) -> None:
        """redacted_thinking: dropped, and named."""
        block = {"type": "redacted_thinking", "data": "AAAA"}

        assert {"role": "assistant", "content": "ok"} == answer(block, text("ok"))
        assert {"redacted_thinking"} == words_for(block, text("ok"))

    @covers("T38", "2.3 ids")
    def test_t38_ids(self) -> None:
        """T38: toolu_ ids on mistral9 profile are 9 alnum chars, the same in call and result."""
        profile = Profile(tool_id_format=ToolIdFormat.MISTRAL9)
        turns = [*HELLO, assistant(call("toolu_1")), user(result("toolu_1"))]
        first = sent_messages(*turns, profile=profile)
        second = sent_messages(*turns, assistant(text("ok")), *HELLO, profile=profile)

        assert re.fullmatch(r"[A-Za-z0-9]{9}", first[2]["tool_call_id"])
        assert first[2]["tool_call_id"] == first[1]["tool_calls"][0]["id"]
        assert first == second[:3]
        assert "toolu_1" == sent_messages(*turns)[2]["tool_call_id"]


class RunTests(SynchronousTestCase):
    @covers("T22", "2.2 text and tool_result")
    def test_t22_text_and_results(self) -> None:
        """T22; user turn mixing text + tool_result: tool messages first, then one user message."""
        called = [*HELLO, assistant(call("toolu_1"), call("toolu_2"))]
        found = sent_messages(
            *called, user(text("a"), result("toolu_2"), text("b"), result("toolu_1"))
        )

        assert ["user", "assistant", "tool", "tool", "user"] == roles(found)
        assert ["toolu_1", "toolu_2"] == [message["tool_call_id"] for message in found[2:4]]
        assert "a\nb" == found[4]["content"]

    def test_results_alone(self) -> None:
        """A turn of results alone leaves no user message behind."""
        turns = [*HELLO, assistant(call("toolu_1")), user(result("toolu_1"))]
        for profile in (Profile(), APART, PASS):
            assert ["user", "assistant", "tool"] == roles(sent_messages(*turns, profile=profile))

    def test_results_of_several_turns(self) -> None:
        """Results in later turns of the same run still come directly after their calls."""
        turns = [
            *HELLO,
            assistant(call("toolu_1"), call("toolu_2")),
            user(result("toolu_1"), text("a")),
            user(text("b"), result("toolu_2")),
        ]

        together = sent_messages(*turns)
        assert ["user", "assistant", "tool", "tool", "user"] == roles(together)
        assert "a\n\nb" == together[-1]["content"]
        assert ["user", "assistant", "tool", "tool", "user", "user"] == roles(
            sent_messages(*turns, profile=APART)
        )

    @covers("2.2 consecutive turns")
    def test_same_role(self) -> None:
        """Consecutive same-role turns: coalesced, by a blank line, if profile.alternate, E."""
        turns = [
            *HELLO,
            user(text("a"), text("b")),
            assistant(text("c")),
            assistant(text("d"), call("toolu_1")),
            user(result("toolu_1")),
            user(text("e")),
        ]

        together = sent_messages(*turns)
        assert ["user", "assistant", "tool", "user"] == roles(together)
        assert ["hi\n\na\nb", "c\n\nd"] == [message["content"] for message in together[:2]]
        assert set() == noted(messages=turns)
        apart = sent_messages(*turns, profile=APART)
        assert ["user", "user", "assistant", "assistant", "tool", "user"] == roles(apart)

    def test_same_role_with_images(self) -> None:
        """Coalesced turns with images keep their order, their texts in a row one part."""
        found = sent_messages(user(text("a")), user(text("b"), IMAGE), user(text("c")))

        assert [
            {"type": "text", "text": "a\n\nb"},
            IMAGE_PART,
            {"type": "text", "text": "c"},
        ] == found[0]["content"]

    @covers("T55", "2.2 consecutive turns")
    def test_t55_alternation(self) -> None:
        """T55: user, system, then user turn become one user turn on profile.alternate."""
        turns = [*HELLO, BE_BRIEF, user(text("go"))]

        assert [{"role": "user", "content": f"hi\n{REMINDER}\n\ngo"}] == sent_messages(*turns)


class PairTests(SynchronousTestCase):
    def test_result_without_call(self) -> None:
        """A result of no call in the answer before it becomes words of the user."""
        answered = [*HELLO, assistant(call("toolu_1")), user(result("toolu_1", text("sun")))]
        for turns in (
            [user(result("toolu_1", text("sun")))],
            [*answered, assistant(text("ok")), user(result("toolu_1", text("sun")))],
            [*answered, user(result("toolu_1", text("sun")))],
        ):
            last = sent_messages(*turns)[-1]
            assert "user" == last["role"]
            assert last["content"].endswith("returned, in answer to an earlier call:]\nsun")
            assert {"unmatched_result"} == noted(messages=turns)

    def test_call_without_result(self) -> None:
        """A call without a result in the run after it gets one that says so."""
        called = assistant(text("a"), call("toolu_1"), call("toolu_2"))
        for turns in (
            [*HELLO, called, user(result("toolu_2", text("sun")))],
            [*HELLO, called, user(result("toolu_2", text("sun"))), assistant(text("b")), *HELLO],
        ):
            found = sent_messages(*turns)[2:4]
            assert [("toolu_1", "[no result]"), ("toolu_2", "sun")] == [
                (message["tool_call_id"], message["content"]) for message in found
            ]
            assert {"missing_result"} == noted(messages=turns)

    def test_ids_twice(self) -> None:
        """Two calls of one answer get two ids, and their results the same in order."""
        twice = assistant(call("toolu_1"), call("toolu_1"))
        results = user(result("toolu_1", text("a")), result("toolu_1", text("b")))
        found = sent_messages(*HELLO, twice, results)
        ids = [made["id"] for made in found[1]["tool_calls"]]
        assert 2 == len(set(ids))
        assert [*zip(ids, "ab", strict=True)] == [
            (message["tool_call_id"], message["content"]) for message in found[2:]
        ]
        round_trip = [assistant(call("toolu_1")), user(result("toolu_1"))]
        assert 5 == len(sent_messages(*HELLO, *round_trip, *round_trip))

    def test_names_and_ids(self) -> None:
        """A call without an id or a name gets one, because it is history."""
        for wrong in ("", None, 7):
            for field, made in (("id", "call_0"), ("name", "unknown")):
                block = call("toolu_1") | {field: wrong}
                (found,) = sent_messages(*HELLO, assistant(block), *HELLO)[1]["tool_calls"]
                assert made in (found["id"], found["function"]["name"])
        found = sent_messages(*HELLO, assistant(call("a")), user(result("a") | {"tool_use_id": 7}))
        assert ("tool", "a") == (found[2]["role"], found[2]["tool_call_id"])


class PropertyTests(SynchronousTestCase):
    @settings(max_examples=300)
    @given(CONVERSATIONS, st.sampled_from(MidSystem), st.booleans())
    def test_any_conversation(
        self, turns: list[Any], mid_system: MidSystem, alternate: bool
    ) -> None:
        """What is sent is a chat that templates can write, and nothing said in it is lost.

        Each call has its one result, directly after it. Only users have parts. Where turns must
        alternate they do, and only ``pass`` leaves a system message behind the first.
        """
        profile = Profile(mid_system=mid_system, alternate=alternate)
        body = json.dumps({"model": "m", "max_tokens": 9, "messages": turns}).encode()
        exchange = read_request(body).exchange("m", [profile], random_id="x", now=0)
        messages = decode(exchange.first.body)["messages"]

        open_calls: set[str] = set()
        for message in messages:
            if message["role"] == "tool":
                open_calls.remove(message["tool_call_id"])
            else:
                assert not open_calls, "a call without a result"
                open_calls = {made["id"] for made in message.get("tool_calls", ())}
            if message["role"] != "user":
                assert isinstance(message["content"], str)
        assert not open_calls
        if alternate:
            spoken = [role for role in roles(messages) if role != "tool"]
            assert all(one != next_one or one == "system" for one, next_one in pairwise(spoken))
        if mid_system is not MidSystem.PASS:
            assert "system" not in roles(messages[1:])
        assert images_in(turns) == str(messages).count("data:image/png")
        assert inputs_in(turns) == [
            decode(made["function"]["arguments"].encode())
            for message in messages
            for made in message.get("tool_calls", ())
        ]


def _blocks(turns: list[Any]) -> list[Any]:
    """Return all blocks, those in results included."""
    waiting = deque(turns)
    found = []
    while waiting:
        content = waiting.popleft().get("content")
        if isinstance(content, list):
            found += content
            waiting += content
    return found


def images_in(turns: list[Any]) -> int:
    return sum(block["type"] == "image" for block in _blocks(turns))


def inputs_in(turns: list[Any]) -> list[Any]:
    return [block["input"] for block in _blocks(turns) if block["type"] == "tool_use"]
