from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.chat_to_messages.request import translate_chat
from cortexd.dialects.fitting.words import OPENING
from cortexd.dialects.wire.json_values import encode
from cortexd.dialects.wire.profile import MidSystem, Profile, ToolIdFormat
from cortexd.dialects.wire.thoughts import SIGNATURE
from cortexd.dialects.wire.tool_names import messages_id, upstream_id, upstream_name
from tests.covers import covers
from tests.dialects.chat_on_messages_bodies import (
    HELLO,
    IMAGE_BLOCK,
    IMAGE_PART,
    UPSTREAM,
    call,
    calling,
    found,
    noted_of,
    refused,
    refused_turns,
    say,
    sent,
    sent_turns,
    text,
    tool_result,
    tool_use,
    turn,
)

HI = turn("user", text("hi"))
REMINDER = text("<system-reminder>\nBe brief.\n</system-reminder>")


class SystemTests(SynchronousTestCase):
    @covers("3 leading system")
    def test_leading(self) -> None:
        """Leading system/developer: system blocks, in order."""
        messages = [
            say("system", "Be kind."),
            say("developer", [text("Be brief."), text("")]),
            say("system", ""),
            *HELLO,
        ]
        body = sent(messages=messages)

        assert [text("Be kind."), text("Be brief.")] == body["system"]
        assert [HI] == body["messages"]
        assert [] == noted_of(*messages)
        assert "system" not in sent(messages=HELLO)

    @covers("3 later system")
    def test_later(self) -> None:
        """Later system/developer: user text wrapped, in its place in the user turn."""
        for role in ("system", "developer"):
            messages = [*HELLO, say(role, "Be brief."), say("user", "go on")]
            body = sent(messages=messages)
            assert [turn("user", text("hi"), REMINDER, text("go on"))] == body["messages"]
            assert "system" not in body
            assert ["mid_system"] == noted_of(*messages)

    @covers("3 later system")
    def test_later_passes(self) -> None:
        """Later system/developer: role system if the upstream supports it."""
        profile = Profile(mid_system=MidSystem.PASS, max_output=9)
        messages = [*HELLO, say("developer", "Be brief."), say("user", "go on")]

        assert [HI, turn("system", text("Be brief.")), turn("user", text("go on"))] == (
            sent_turns(*messages, profile=profile)
        )
        assert [] == noted_of(*messages, profile=profile)

    @covers("3 later system")
    def test_later_is_hoisted(self) -> None:
        """Later system/developer: the system prompt, where the profile says so."""
        profile = Profile(mid_system=MidSystem.HOIST, max_output=9)
        messages = [say("system", "Be kind."), *HELLO, say("developer", "Be brief.")]
        body = sent(profile, messages=messages)

        assert [text("Be kind."), text("Be brief.")] == body["system"]
        assert [HI] == body["messages"]
        assert ["mid_system"] == noted_of(*messages, profile=profile)

    def test_empty_later(self) -> None:
        """A later system message that says nothing is left out."""
        for mid_system in MidSystem:
            profile = Profile(mid_system=mid_system, max_output=9)
            messages = [*HELLO, say("system", " ")]
            assert [HI] == sent_turns(*messages, profile=profile)
            assert [] == noted_of(*messages, profile=profile)

    def test_only_text(self) -> None:
        """Anything but text in a system message is refused, and told of in an earlier turn."""
        error = refused_turns(*HELLO, say("system", [IMAGE_PART]))
        assert "messages[1].content[0].type" == error.param
        shown = [say("system", [IMAGE_PART]), *HELLO]
        told = translate_chat({"messages": shown}, UPSTREAM).body["system"]
        assert [text("[image omitted: a message of the system has only text]")] == told


class TurnTests(SynchronousTestCase):
    def test_roles_alternate(self) -> None:
        """Messages of one role that follow each other are one turn."""
        messages = [
            *HELLO,
            say("user", "you"),
            say("assistant", "a"),
            say("assistant", "b"),
            *HELLO,
        ]
        assert [
            turn("user", text("hi"), text("you")),
            turn("assistant", text("a"), text("b")),
            HI,
        ] == sent_turns(*messages)
        assert [] == noted_of(*messages)

    def test_bare_string(self) -> None:
        """A string in place of messages is one user turn."""
        assert [HI] == sent(messages="hi")["messages"]

    def test_model_goes_first(self) -> None:
        """Where the chat does not begin with the user, words are put into the user's mouth."""
        opening = turn("user", text(OPENING))
        greeting = say("assistant", "Hello!")

        assert [opening, turn("assistant", text("Hello!")), HI] == sent_turns(greeting, *HELLO)
        assert [opening] == sent_turns(say("system", "Tell a joke."))
        assert ["opening_turn"] == noted_of(greeting, *HELLO)

    def test_empty_answer(self) -> None:
        """An answer that says nothing is left out, and what is around it is one turn."""
        nothing: list[object] = [None, "", [], "\n"]
        for content in nothing:
            messages = [*HELLO, say("assistant", content), say("user", "well?")]
            assert [turn("user", text("hi"), text("well?"))] == sent_turns(*messages)
            assert ["empty_turn"] == noted_of(*messages)

    def test_empty_user_turn(self) -> None:
        """A user turn that says nothing is refused, unless another is there for it."""
        error = refused_turns(*HELLO, say("assistant", "a"), say("user", ""))

        assert "messages[2]" == error.param
        assert [HI] == sent_turns(say("user", ""), *HELLO)

    def test_prefill(self) -> None:
        """An answer at the end is refused, unless the upstream can go on with it."""
        messages = [*HELLO, say("assistant", "a"), say("assistant", "b")]
        can_go_on = Profile(continue_final_message=True)

        assert "messages[2]" == refused_turns(*messages).param
        assert [HI, turn("assistant", text("a"), text("b"))] == (
            sent_turns(*messages, profile=can_go_on)
        )

    @covers("3 name")
    def test_name(self) -> None:
        """Name on messages: dropped, and noted."""
        messages = [say("system", "Be kind.", name="boss"), say("user", "hi", name="eve")]

        assert [HI] == sent_turns(*messages)
        assert ["name"] == noted_of(*messages)
        assert [] == noted_of(say("user", "hi", name=None))

    def test_mistakes(self) -> None:
        """What cannot be read is refused by its path."""
        cases: list[tuple[object, str]] = [
            (None, "messages"),
            ([], "messages"),
            ("", "messages[0]"),
            ({}, "messages"),
            (["hi"], "messages[0]"),
            ([{}], "messages[0].role"),
            ([*HELLO, say("ipython", "hi")], "messages[1].role"),
        ]
        for messages, path in cases:
            assert path == refused(messages=messages).param, messages

    @covers("3 history")
    def test_mistakes_of_earlier_turns(self) -> None:
        """What cannot be read there becomes words, or goes and is named."""
        cases: list[tuple[Any, list[Any]]] = [
            (7, []),
            (say("ipython", "hi"), [turn("user", text("[ipython:] hi"))]),
            (say("user", [{"type": "hologram"}]), [turn("user", text("[hologram omitted]"))]),
            (say("user", ""), [turn("user", text("[nothing]"))]),
            (say("assistant", 1), [turn("assistant", text("1"))]),
            (say("assistant", "a", refusal=1), [turn("assistant", text("a"))]),
            (say("assistant", "a", tool_calls={}), [turn("assistant", text("a"))]),
            (say("assistant", "a", tool_calls=["x"]), [turn("assistant", text("a"))]),
        ]
        answer = say("assistant", "so")
        for message, expected in cases:
            messages = [*HELLO, answer, message, answer, *HELLO]
            found = [each for each in sent_turns(*messages) if each != turn("user", text("hi"))]
            if expected and expected[0]["role"] == "user":
                assert expected == found[1:2], message
            elif expected:
                assert [text("so"), *expected[0]["content"], text("so")] == found[0]["content"]
            else:
                assert [text("so"), text("so")] == found[0]["content"]

    def test_unknown_fields(self) -> None:
        """Unknown fields of messages, calls and functions are ignored and named."""
        made = call("a") | {"weight": 1, "index": 0}
        made["function"]["parsed"] = {}
        messages = [say("user", "hi", mood="good"), calling(made), found("a", mood="bad")]

        assert ["messages.mood", "tool_calls.function.parsed", "tool_calls.weight"] == (
            noted_of(*messages)
        )


class AnswerTests(SynchronousTestCase):
    @covers("3 assistant with calls alone")
    def test_calls_alone(self) -> None:
        """Assistant content null + tool_calls: tool_use blocks only; empty text never sent."""
        for content in (None, "", " ", [text("")]):
            answer = say("assistant", content, tool_calls=[call("a"), call("b")])
            turns = sent_turns(*HELLO, answer, found("a"), found("b"))
            assert turn("assistant", tool_use("a"), tool_use("b")) == turns[1]

    def test_text_and_calls(self) -> None:
        """What the model says before it calls stands before the calls."""
        turns = sent_turns(*HELLO, calling(call("a"), content="Let me see."), found("a"))

        assert turn("assistant", text("Let me see."), tool_use("a")) == turns[1]

    @covers("3 arguments")
    def test_arguments(self) -> None:
        """tool_calls.arguments: parsed; "" is {}; what is no JSON object is kept as text."""
        cases: list[tuple[str, object, list[str]]] = [
            ('{"city": "Oslo", "days": [1, 2.5]}', {"city": "Oslo", "days": [1, 2.5]}, []),
            ("", {}, []),
            (" \n", {}, []),
            ("{}", {}, []),
            ('{"city": "Os', {"_raw_arguments": '{"city": "Os'}, ["arguments"]),
            ("[1]", {"_raw_arguments": "[1]"}, ["arguments"]),
            ("null", {"_raw_arguments": "null"}, ["arguments"]),
            ('{"a": "\\ud800"}', {"_raw_arguments": '{"a": "\\ud800"}'}, ["arguments"]),
        ]
        for arguments, given, words in cases:
            messages = [*HELLO, calling(call("a", arguments)), found("a")]
            assert given == sent_turns(*messages)[1]["content"][0]["input"], arguments
            assert words == noted_of(*messages), arguments
        absent = {"id": "a", "function": {"name": "weather", "arguments": None}}
        assert tool_use("a") == sent_turns(*HELLO, calling(absent), found("a"))[1]["content"][0]

    @covers("T53")
    def test_raw_utf8(self) -> None:
        """T53: CJK in arguments goes upstream as raw UTF-8, the same bytes in each turn."""
        messages = [*HELLO, calling(call("a", '{"城市":"\\u5927阪","z":1,"a":2}')), found("a")]
        first = encode(sent_turns(*messages)[:2])
        second = encode(sent_turns(*messages, say("assistant", "ok"), *HELLO)[:2])

        assert '"input":{"城市":"大阪","z":1,"a":2}'.encode() in first
        assert first == second

    @covers("3 reasoning")
    def test_reasoning(self) -> None:
        """reasoning_content / reasoning: dropped with note, without a signature we issued."""
        for name in ("reasoning_content", "reasoning"):
            for foreign in ({}, {"signature": "foreign"}, {"signature": None}):
                answer = say("assistant", "a") | {name: "Hm."} | foreign
                assert turn("assistant", text("a")) == sent_turns(*HELLO, answer, *HELLO)[1]
                assert ["reasoning"] == noted_of(*HELLO, answer, *HELLO)
            for nothing in (None, ""):
                answer = say("assistant", "a") | {name: nothing}
                assert [] == noted_of(*HELLO, answer, *HELLO)

    @covers("3 reasoning")
    def test_signed_reasoning(self) -> None:
        """reasoning_content / reasoning: a thinking block first, where the signature is ours."""
        block = {"type": "thinking", "thinking": "Hm.", "signature": SIGNATURE}
        for name in ("reasoning_content", "reasoning"):
            answer = calling(call("a"), content="b", signature=SIGNATURE) | {name: "Hm."}
            messages = [*HELLO, answer, found("a")]
            assert turn("assistant", block, text("b"), tool_use("a")) == sent_turns(*messages)[1]
            assert [] == noted_of(*messages)

    @covers("3 custom tools")
    def test_custom_call(self) -> None:
        """A call of a custom tool in a history is that of a function with one text."""
        custom = {"id": "a", "type": "custom", "custom": {"name": "shell", "input": "ls"}}
        _, answer, _ = sent_turns(*HELLO, calling(custom), found("a"))

        expected = {"type": "tool_use", "id": "a", "name": "shell", "input": {"input": "ls"}}
        assert turn("assistant", expected) == answer

    @covers("3 history")
    def test_mistakes(self) -> None:
        """What cannot be read of a call has something in its place, because it is history."""
        cases: list[tuple[object, str, str]] = [
            ({}, "call_1_0", "unknown"),
            ({"id": "", "function": {"name": "f"}}, "call_1_0", "f"),
            ({"id": "a", "type": 1}, "a", "unknown"),
            ({"id": "a", "function": {"name": "f", "arguments": {}}}, "a", "f"),
        ]
        for made, call_id, name in cases:
            _, answer, results = sent_turns(*HELLO, calling(made))
            expected = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
            assert [expected] == answer["content"], made
            assert [tool_result(call_id, "[no result]")] == results["content"]


class ResultTests(SynchronousTestCase):
    @covers("3 run of tool messages")
    def test_one_turn(self) -> None:
        """Run of tool messages (+ following user): ONE user turn, the results first."""
        messages = [
            *HELLO,
            calling(call("a"), call("b")),
            found("b", "rain"),
            found("a", [text("sun"), IMAGE_PART]),
            say("user", [text("and?"), IMAGE_PART]),
        ]
        results = tool_result("b", "rain"), tool_result("a", [text("sun"), IMAGE_BLOCK])

        assert [
            HI,
            turn("assistant", tool_use("a"), tool_use("b")),
            turn("user", *results, text("and?"), IMAGE_BLOCK),
        ] == sent_turns(*messages)
        assert [] == noted_of(*messages)

    @covers("3 run of tool messages")
    def test_results_come_first(self) -> None:
        """Results of tools stand before all else in their turn, wherever the client has them."""
        messages = [
            *HELLO,
            calling(call("a"), call("b")),
            say("system", "Be brief."),
            found("a"),
            say("user", "and?"),
            found("b"),
        ]
        results = tool_result("a"), tool_result("b")

        assert turn("user", *results, REMINDER, text("and?")) == sent_turns(*messages)[-1]
        passing = Profile(mid_system=MidSystem.PASS)
        assert [turn("user", *results), turn("system", text("Be brief."))] == (
            sent_turns(*messages, profile=passing)[2:4]
        )

    def test_result_alone(self) -> None:
        """A chat may end with the result of a tool, which is a user turn."""
        turns = sent_turns(*HELLO, calling(call("a")), found("a"))

        assert turn("user", tool_result("a")) == turns[-1]

    @covers("3 calls and results unmatched")
    def test_unmatched_results(self) -> None:
        """Result without call: told by the user, A."""
        told = [text("[A tool returned, in answer to an earlier call:]"), text("sun")]
        for messages in (
            [*HELLO, found("a", "sun")],
            [found("a", "sun"), *HELLO],
            [*HELLO, calling(call("a")), found("a"), found("a", "sun")],
            [*HELLO, calling(call("a")), found("a"), say("assistant", "b"), found("a", "sun")],
        ):
            blocks = [each for found in sent_turns(*messages) for each in found["content"]]
            place = blocks.index(told[0])
            assert told == blocks[place : place + 2]
            assert ["unmatched_result"] == noted_of(*messages)

    @covers("3 calls and results unmatched")
    def test_unmatched_calls(self) -> None:
        """tool_call without result: one that says so, A."""
        two = calling(call("a"), call("b"))
        for messages in (
            [*HELLO, two],
            [*HELLO, two, found("b")],
            [*HELLO, two, found("b"), *HELLO],
            [*HELLO, two, found("b"), say("assistant", "c"), *HELLO],
        ):
            results = sent_turns(*messages)[2]["content"]
            assert tool_result("a", "[no result]") in results
            assert ["missing_result"] == noted_of(*messages)

    def test_same_id_twice(self) -> None:
        """Two calls of one id in a turn get two; in another turn the id may come again."""
        twice = calling(call("a"), call("a"))
        _, answer, results = sent_turns(*HELLO, twice, found("a", "1"), found("a", "2"))
        assert ["a", "a_1"] == [block["id"] for block in answer["content"]]
        assert [tool_result("a", "1"), tool_result("a_1", "2")] == results["content"]
        once = [calling(call("a")), found("a")]
        assert 5 == len(sent_turns(*HELLO, *once, *once))

    def test_rows_of_answers(self) -> None:
        """The calls of a row of answers are those of one turn, and so are their results."""
        row = [calling(call("a")), say("assistant", None), calling(call("b"), content="more")]

        assert [
            HI,
            turn("assistant", tool_use("a"), text("more"), tool_use("b")),
            turn("user", tool_result("a"), tool_result("b")),
        ] == sent_turns(*HELLO, *row, found("a"), found("b"))

    def test_ids(self) -> None:
        """Ids stay as they are, unless they hold what Messages, or the template, does not take."""
        plain, odd = "call_1-A", "functions.weather:0"
        nine = Profile(tool_id_format=ToolIdFormat.MISTRAL9)
        for profile, given, call_id in (
            (UPSTREAM, plain, plain),
            (UPSTREAM, odd, messages_id(odd, UPSTREAM.tool_id_format)),
            (nine, odd, upstream_id(odd, nine.tool_id_format)),
        ):
            turns = sent_turns(*HELLO, calling(call(given)), found(given), profile=profile)
            assert tool_use(call_id) == turns[1]["content"][0]
            assert tool_result(call_id) == turns[2]["content"][0]

    def test_names(self) -> None:
        """The name of a tool that the upstream does not take has its alias in the history too."""
        long = "mcp__" + "server." * 12
        turns = sent_turns(*HELLO, calling(call("a", name=long)), found("a"))

        assert tool_use("a", name=upstream_name(long)) == turns[1]["content"][0]


class FunctionTests(SynchronousTestCase):
    @covers("3 legacy functions")
    def test_history(self) -> None:
        """Legacy function_call/role function: a tool_use and its tool_result."""
        made = {"name": "weather", "arguments": '{"city":"Oslo"}'}
        answer = say("assistant", None, function_call=made)
        messages = [*HELLO, answer, say("function", "sun", name="weather")]

        assert [
            HI,
            turn("assistant", tool_use("function_call_1", {"city": "Oslo"})),
            turn("user", tool_result("function_call_1")),
        ] == sent_turns(*messages)
        assert ["function_call"] == noted_of(*messages)

    @covers("3 legacy functions", "3 calls and results unmatched")
    def test_unmatched(self) -> None:
        """A function's result has its call by name, and either may be without the other."""
        answer = say("assistant", None, function_call={"name": "weather", "arguments": "{}"})
        other = say("function", "noon", name="time")

        both = {"function_call", "unmatched_result", "missing_result"}
        assert both == set(noted_of(*HELLO, answer, other))
        assert ["function_call", "unmatched_result"] == noted_of(*HELLO, other)
        assert ["function_call", "missing_result"] == noted_of(*HELLO, answer)
        assert "messages[1].name" == refused_turns(*HELLO, say("function", "noon")).param

    def test_results_in_any_order(self) -> None:
        """Each result has the first call of its function without one, in whatever order they come.

        None is searched for among all: so many the other way round need as few comparisons.
        """
        compared: list[str] = []

        class Name(str):
            def __eq__(self, other: object) -> bool:
                compared.append(self)
                return super().__eq__(other)

            __hash__ = str.__hash__

        names = [f"f{number}" for number in range(1000)]
        answers = [
            say("assistant", None, function_call={"name": Name(name), "arguments": "{}"})
            for name in names
        ]

        def comparisons(given: list[str]) -> int:
            results = [say("function", "x", name=Name(name)) for name in given]
            compared.clear()
            translate_chat({"messages": [*HELLO, *answers, *results]}, UPSTREAM)
            return len(compared)

        assert 0 < comparisons(names) == comparisons(names[::-1])
        twice = [answers[0], answers[0], *[say("function", "x", name="f0")] * 2]
        _, _, found_turn = sent_turns(*HELLO, *twice)
        assert ["function_call_1", "function_call_2"] == [
            block["tool_use_id"] for block in found_turn["content"]
        ]
