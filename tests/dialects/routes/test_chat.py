import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes.chat_stream import WholeAnswer
from cortexd.dialects.openai.chat_answer import ChatAggregate, ChatStream
from cortexd.dialects.routes.chat import ROUTE, read_request
from cortexd.dialects.wire.exchange import Exchange
from cortexd.dialects.wire.json_values import decode
from cortexd.dialects.wire.profile import Profile
from tests.covers import covers
from tests.dialects.bodies import (
    JSON_VALUES,
    assert_read_or_refused,
    bodies,
    refusal,
    upstream_body,
)
from tests.dialects.node_answers import AGENTIC, chat_chunk, relay, stream

HELLO = [{"role": "user", "content": "hi"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool"])
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "refusal", "image_url"])},
    optional={"text": st.text() | JSON_VALUES, "refusal": st.text() | JSON_VALUES},
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": ROLES},
        optional={
            "content": st.none() | st.text() | st.lists(PARTS | JSON_VALUES, max_size=3),
            "tool_calls": JSON_VALUES,
        },
    ),
    max_size=3,
)
BODIES = bodies(
    {
        "model": st.just("m"),
        "messages": MESSAGES | st.text(),
        "stream": st.booleans(),
        "stream_options": st.just({"include_usage": True}),
        "n": st.sampled_from([1, 2]),
        "max_tokens": st.integers(1, 9),
        "max_completion_tokens": st.integers(1, 9),
        "logprobs": st.booleans(),
        "reasoning_effort": st.sampled_from(["minimal", "high"]),
    }
)


def exchange(**fields: object) -> Exchange:
    body = json.dumps({"model": "alias", "messages": HELLO} | fields).encode()
    return read_request(body).exchange("org/target", random_id="abc", now=1_790_000_000.9)


def sent(**fields: object) -> Any:
    return upstream_body(read_request, **{"messages": HELLO} | fields)


def sent_message(message: Any) -> Any:
    """Return what becomes of a message, in a conversation that has a place for it."""
    role = message["role"]
    if role == "user":
        (found,) = sent(messages=[message])["messages"]
    elif role in ("system", "developer"):
        found, _ = sent(messages=[message, *HELLO])["messages"]
    elif role == "assistant":
        _, found, *_ = sent(messages=[*HELLO, message])["messages"]
    else:
        calls = [CALL]
        called = {"role": "assistant", "content": "", "tool_calls": calls}
        *_, found = sent(messages=[*HELLO, called, message])["messages"]
    return found


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


class ExchangeTests(SynchronousTestCase):
    def test_upstream_is_always_asked_to_stream(self) -> None:
        """Only a stream can be cancelled there, so the node streams whatever the client takes."""
        for streams, responder in ((True, ChatStream), (False, ChatAggregate)):
            found = exchange(stream=streams)
            assert (ROUTE, ROUTE, "org/target") == (found.route, found.first.path, found.model)
            assert (streams, True) == (found.streams, found.first.streams)
            body = decode(found.first.body)
            assert (True, {"include_usage": True}) == (body["stream"], body["stream_options"])
            assert isinstance(found.first.make_responder(), responder)

    def test_what_only_a_whole_answer_holds(self) -> None:
        """Several choices and token probabilities are asked for without a stream."""
        for fields in ({"n": 2}, {"logprobs": True, "top_logprobs": 3}):
            found = exchange(stream_options={"include_usage": True}, **fields)
            assert (False, False) == (found.streams, found.first.streams)
            body = decode(found.first.body)
            assert False is body["stream"]
            assert "stream_options" not in body
            assert fields.items() <= body.items()
            assert isinstance(found.first.make_responder(), WholeAnswer)

    def test_token_probabilities_of_a_stream(self) -> None:
        """A client that streams gets its token probabilities in the stream."""
        assert exchange(stream=True, logprobs=True).first.streams

    def test_a_responder_for_each_attempt(self) -> None:
        """Another attempt takes a fresh responder."""
        found = exchange()

        assert found.first.make_responder() is not found.first.make_responder()

    def test_model_is_the_catalogues(self) -> None:
        """The node is asked for the catalogue's id, not for the client's name of it."""
        assert "org/target" == decode(exchange().first.body)["model"]


class PassThroughTests(SynchronousTestCase):
    def test_unknown_fields(self) -> None:
        """Fields we do not know reach the node as they are."""
        fields = {"top_k": 4, "grammar": {"type": "regex", "value": "a+"}, "adapter": "code"}

        assert fields.items() <= sent(**fields).items()

    def test_null_is_absent(self) -> None:
        """``null`` at the top level is dropped: the node refuses some that OpenAI takes."""
        assert {"messages", "stream", "stream_options"} == set(
            sent(logprobs=None, n=None, stop=None, max_completion_tokens=None, stream=None)
        )

    def test_numbers_keep_their_value(self) -> None:
        """Numbers reach the node as they are, beyond 64 bits too."""
        seed = 10**30

        assert {"seed": seed, "temperature": 0.1}.items() <= sent(
            seed=seed, temperature=0.1
        ).items()

    def test_limit_of_tokens(self) -> None:
        """``max_completion_tokens`` becomes ``max_tokens``, of which there is then only one."""
        for fields in (
            {"max_completion_tokens": 5},
            {"max_tokens": 5},
            {"max_tokens": 9, "max_completion_tokens": 5},
        ):
            found = sent(**fields)
            assert 5 == found["max_tokens"]
            assert "max_completion_tokens" not in found

    @covers("3 C->C minimal", "T27")
    def test_reasoning_effort(self) -> None:
        """``minimal`` and ``max``, which the node refuses, become the next; the others stay."""
        assert "low" == sent(reasoning_effort="minimal")["reasoning_effort"]
        assert "xhigh" == sent(reasoning_effort="max")["reasoning_effort"]
        for effort in ("off", "none", "low", "medium", "high", "xhigh"):
            assert effort == sent(reasoning_effort=effort)["reasoning_effort"]
            thinks = effort not in ("off", "none")
            both = sent(reasoning_effort=effort, enable_thinking=thinks)
            assert (effort, thinks) == (both["reasoning_effort"], both["enable_thinking"])
        assert "reasoning_effort" not in sent(reasoning_effort=None, enable_thinking=False)

    @covers("3 C->C minimal", "T27")
    def test_efforts_that_a_node_calls_its_own_fault(self) -> None:
        """An effort that no node knows, or one against ``enable_thinking``, is refused here."""
        values: tuple[object, ...] = ("ludicrous", "", 3, ["low"], {}, True)
        for effort in values:
            error = refusal(read_request, messages=HELLO, reasoning_effort=effort)
            assert ("reasoning_effort", "unsupported_value") == (error.param, error.code)
            assert "must be 'none', 'minimal', 'low'" in error.message
        for effort, enabled in (("none", True), ("off", True), ("minimal", False), ("low", False)):
            error = refusal(
                read_request, messages=HELLO, reasoning_effort=effort, enable_thinking=enabled
            )
            assert ("reasoning_effort", "invalid_value") == (error.param, error.code)
            assert "contradicts 'enable_thinking'" in error.message
        # What is no boolean is the node's to refuse, which it does as the client's mistake.
        assert "yes" == sent(reasoning_effort="low", enable_thinking="yes")["enable_thinking"]

    @covers("3 C->C minimal")
    def test_efforts_for_the_template(self) -> None:
        """What the chat says of thinking by the template's arguments alone is held to the same."""
        told = {"chat_template_kwargs": {"reasoning_effort": "minimal", "x": 1}}
        expected = {"chat_template_kwargs": {"x": 1}, "reasoning_effort": "low"}
        assert expected.items() <= sent(**told).items()
        for arguments, fields in (
            ({"enable_thinking": False}, {"reasoning_effort": "high"}),
            ({"reasoning_effort": "low"}, {"enable_thinking": False}),
            ({"reasoning_effort": "ludicrous"}, {}),
        ):
            error = refusal(read_request, messages=HELLO, chat_template_kwargs=arguments, **fields)
            assert "reasoning_effort" == error.param
        others: tuple[object, ...] = ({"enable_thinking": False}, {"reasoning_effort": 7}, "x")
        for other in others:
            found = sent(chat_template_kwargs=other)
            assert (other, None) == (found["chat_template_kwargs"], found.get("reasoning_effort"))

    @covers("3 C->C minimal")
    def test_efforts_of_the_template(self) -> None:
        """A known template gets the nearest effort that it has; no effort is a switch there."""
        asked = {"messages": HELLO, "chat_template_kwargs": {"reasoning_effort": "high"}}
        found = upstream_body(read_request, Profile(efforts=("low",)), **asked)
        assert ({}, "low") == (found["chat_template_kwargs"], found["reasoning_effort"])
        assert "reasoning_effort" not in upstream_body(read_request, Profile(efforts=()), **asked)
        off = upstream_body(
            read_request, Profile(efforts=("low",)), messages=HELLO, reasoning_effort="none"
        )
        assert (False, None) == (off["enable_thinking"], off.get("reasoning_effort"))

    def test_limits_that_a_node_calls_its_own_fault(self) -> None:
        """A limit of no tokens is refused here, under the name that the client gave it."""
        for name in ("max_tokens", "max_completion_tokens"):
            error = refusal(read_request, messages=HELLO, **{name: 0})
            assert (name, "must be an integer, 1 or more; found 0") == (
                error.param,
                error.message.removeprefix(f"{name} "),
            )

    def test_forms_that_a_node_calls_its_own_fault(self) -> None:
        """An answer has one form, so that a grammar beside a format is refused."""
        grammar, form = {"type": "regex", "value": "a+"}, {"type": "json_object"}
        error = refusal(read_request, messages=HELLO, grammar=grammar, response_format=form)
        assert ("grammar", "invalid_value") == (error.param, error.code)
        assert form == sent(response_format=form, grammar=None)["response_format"]

    def test_numbers_of_choices(self) -> None:
        """It is 1 or more, streamed or not."""
        for streamed in (False, True):
            for number in (0, -1, True, "2", 1.5, [1]):
                error = refusal(read_request, messages=HELLO, n=number, stream=streamed)
                assert ("n", "invalid_value") == (error.param, error.code)
                assert "must be an integer, 1 or more" in error.message

    def test_parts_that_a_node_calls_its_own_fault(self) -> None:
        """Speech in OpenAI's own shape is refused; what nodes take in its place goes on."""
        heard = {"type": "input_audio", "input_audio": {"data": "eA==", "format": "wav"}}
        error = refusal(read_request, messages=[{"role": "user", "content": [heard]}])
        assert ("messages[0].content[0].type", "invalid_value") == (error.param, error.code)
        assert "'audio_url'" in error.message
        for kind in ("input_text", "refusal"):
            error = refusal(read_request, messages=[{"role": "user", "content": [{"type": kind}]}])
            assert "messages[0].content[0].type" == error.param
            assert f"'{kind}'" in error.message
        for kind in ("audio_url", "video_url", "file", "some_new_part"):
            message = {"role": "user", "content": [{"type": kind}]}
            assert message == sent_message(message)

    def test_tool_choices_that_a_node_calls_its_own_fault(self) -> None:
        """A choice that forces a tool needs that tool."""
        weather = {"type": "function", "function": {"name": "weather"}}
        tides = {"type": "function", "function": {"name": "tides"}}
        for choice, tools, param in (
            ("required", None, "tool_choice"),
            ("required", [], "tool_choice"),
            (tides, None, "tool_choice.function.name"),
            (tides, [weather], "tool_choice.function.name"),
        ):
            error = refusal(read_request, messages=HELLO, tool_choice=choice, tools=tools)
            assert (param, "invalid_value") == (error.param, error.code)
        taken: tuple[Any, ...] = ("required", weather, "auto", "none", {"type": "some_new_choice"})
        for choice in taken:
            assert choice == sent(tool_choice=choice, tools=[tides, weather])["tool_choice"]
        assert "none" == sent(tool_choice="none")["tool_choice"]

    def test_one_call_at_a_time(self) -> None:
        """A client that wants one call at a time gets the first; nodes do not heed its wish."""

        def call(index: int, name: str) -> dict[str, Any]:
            function = {"name": name, "arguments": "{}"}
            return {"index": index, "id": name, "type": "function", "function": function}

        calls = [call(0, "weather"), call(1, "tides")]
        answer = stream(chat_chunk(finish="tool_calls", tool_calls=calls))
        tools = [{"type": "function", "function": {"name": "weather"}}]
        for streams in (True, False):
            asked = exchange(stream=streams, tools=tools, parallel_tool_calls=False).first
            told = relay(asked.make_responder(), answer)
            assert (True, False) == (b'"weather"' in told, b'"tides"' in told)
            assert b'"finish_reason":"tool_calls"' in told
            assert ("parallel_tool_calls",) == asked.approximations
            for fields in ({}, {"parallel_tool_calls": True}, {"parallel_tool_calls": None}):
                unasked = exchange(stream=streams, tools=tools, **fields).first
                assert b'"tides"' in relay(unasked.make_responder(), answer)
                assert () == unasked.approximations
        assert () == exchange(parallel_tool_calls=False).first.approximations

    def test_one_call_in_an_answer_that_comes_whole(self) -> None:
        """Of several choices each has its first call and no other."""
        tools = [{"type": "function", "function": {"name": "weather"}}]
        choices = [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "message": {"tool_calls": [{"id": "a"}, 7]},
            },
            {"index": 1, "finish_reason": "stop", "message": {"tool_calls": None}},
            {"index": 2, "finish_reason": "stop"},
        ]
        for fields, calls in (({"parallel_tool_calls": False}, 1), ({}, 2)):
            asked = exchange(tools=tools, n=3, **fields).first
            body = json.dumps({"id": "1", "choices": choices}).encode()
            told = decode(asked.make_responder().take_body(body))["choices"]
            assert calls == len(told[0]["message"]["tool_calls"])
            assert choices[1:] == told[1:]

    def test_images_for_a_model_without_vision(self) -> None:
        """An image is refused by its path; a user's text goes on."""
        blind = Profile(vision=False)
        seen = [{"role": "user", "content": [{"type": "text", "text": "see"}, IMAGE]}]
        error = refusal(read_request, blind, messages=seen)
        assert "messages[0].content[1]" == error.param
        assert "model has no vision" in error.message
        assert seen == sent(messages=seen)["messages"]
        read = [{"role": "user", "content": "see"}]
        assert read == upstream_body(read_request, blind, messages=read)["messages"]


class MessageTests(SynchronousTestCase):
    def test_bare_string(self) -> None:
        """A bare string is one user turn to the node."""
        assert "hi" == sent(messages="hi")["messages"]

    @covers("3 C->C developer", "T29")
    def test_developer(self) -> None:
        """Role ``developer``, which templates do not know, becomes ``system``."""
        assert {"role": "system", "content": "be brief"} == sent_message(
            {"role": "developer", "content": "be brief"}
        )

    @covers("3 C->C text parts", "T29")
    def test_text_parts(self) -> None:
        """Text parts of any role become one string, beside media those in a row one part."""
        parts = [{"type": "text", "text": "one", "cache_control": None}, "two"]
        for role in ("system", "user", "assistant"):
            assert {"role": role, "content": "one\ntwo"} == sent_message(
                {"role": role, "content": parts}
            )
        result = {"role": "tool", "tool_call_id": "1", "content": parts}
        assert result | {"name": "f", "content": "one\ntwo"} == sent_message(result)
        refused = {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
        assert {"role": "assistant", "content": "no"} == sent_message(refused)
        assert {"role": "user", "content": [{"type": "text", "text": "one\ntwo"}, IMAGE]} == (
            sent_message({"role": "user", "content": [*parts, IMAGE]})
        )

    def test_without_content(self) -> None:
        """An answer may be empty, and a tool may have found nothing; other messages may not."""
        assert {"role": "assistant", "content": ""} == sent_message({"role": "assistant"})
        with_calls = {"role": "assistant", "content": None, "tool_calls": [CALL]}
        assert with_calls | {"content": ""} == sent_message(with_calls)
        for role in ("tool", "function"):
            expected = {"role": "tool", "tool_call_id": "1", "name": "f", "content": ""}
            assert expected == sent_message({"role": role, "content": None, "name": "f"})
        for role in ("user", "system", "developer", "ipython"):
            for message in ({"role": role}, {"role": role, "content": None}):
                error = refusal(read_request, messages=[message])
                assert ("messages[0].content", "invalid_value") == (error.param, error.code)

    def test_an_image_s_address_alone(self) -> None:
        """It goes where nodes look for it, without the values that nodes refuse."""
        url = "data:image/png;base64,AA"
        image = {"type": "image_url", "image_url": url, "x": 1, "cache_control": None}

        assert {"role": "user", "content": [IMAGE], "name": "n"} == sent_message(
            {"role": "user", "content": [image], "name": "n"}
        )

    def test_user_parts_are_kept(self) -> None:
        """What a user's message holds is the node's to judge, images and all."""
        message = {"role": "user", "content": [IMAGE]}

        assert message == sent_message(message)


class AgenticTests(SynchronousTestCase):
    @covers("3 C->C agentic events")
    def test_events_of_the_nodes_own_tools(self) -> None:
        """They are passed on to a client that asked the node to use tools by itself, or to ask."""
        cases: tuple[dict[str, object], ...] = (
            {"agent_permission": "ask"},
            {"code_execution_permission": "auto"},
            {"enable_code_execution": True},
            {"enable_shell": True},
            {"max_tool_rounds": 3},
            {"session_id": "s"},
        )
        answer = stream(AGENTIC, chat_chunk("a", finish="stop"))
        for asked in cases:
            responder = exchange(stream=True, **asked).first.make_responder()
            assert relay(responder, answer).startswith(AGENTIC)
        unasked: tuple[dict[str, object], ...] = (
            {},
            {"enable_shell": False},
            {"web_search_options": {}},
            {"tools": []},
        )
        for plain in unasked:
            responder = exchange(stream=True, **plain).first.make_responder()
            assert AGENTIC not in relay(responder, answer)

    def test_the_record_of_its_work(self) -> None:
        """Only a whole answer has it, so that is what the node is asked for."""
        for asked in ({"enable_shell": True}, {"files": [{"name": "a.csv"}]}, {"session_id": "s"}):
            assert not exchange(**asked).first.streams
        assert exchange(files=[], session_id=None).first.streams

    def test_what_it_goes_on_from(self) -> None:
        """A session and files that it names bind a chat to the node that has them."""
        part = {"type": "file", "file": {"file_id": "f"}}
        message = {"role": "user", "content": [part]}
        follows = exchange(messages=[message], session_id="s").follows

        assert ["session_id", "messages[0].content[0].file.file_id"] == [
            reference.param for reference in follows
        ]
        assert () == exchange().follows


class RefusalTests(SynchronousTestCase):
    def test_fields(self) -> None:
        """A field that cannot be read is refused by its path, with what was found."""
        cases: list[tuple[dict[str, object], str, str]] = [
            ({"messages": None}, "messages", "is required"),
            ({"messages": {}}, "messages", "found an object"),
            ({"messages": ["hi"]}, "messages[0]", "found a string"),
            ({"messages": [*HELLO, {}]}, "messages[1].role", "found null"),
            (
                {"messages": [{"role": "system", "content": [IMAGE]}]},
                "messages[0].content[0]",
                "must be a text part",
            ),
            ({"stream": "true"}, "stream", "found a string"),
            ({"stream_options": []}, "stream_options", "found an array"),
            (
                {"stream_options": {"include_usage": 1}},
                "stream_options.include_usage",
                "found a number",
            ),
            ({"model": 4}, "model", "found a number"),
        ]
        for fields, param, words in cases:
            error = refusal(read_request, **{"messages": HELLO} | fields)
            assert param == error.param
            assert words in error.message

    def test_several_choices_in_a_stream(self) -> None:
        """Several choices cannot be streamed: the node's stream of them is broken."""
        error = refusal(read_request, messages=HELLO, n=2, stream=True)

        assert ("n", "unsupported_value") == (error.param, error.code)

    @settings(max_examples=400)
    @given(BODIES)
    def test_any_body(self, body: bytes) -> None:
        """Any body is a request that can be sent, or a mistake of the client's."""
        assert_read_or_refused(read_request, body)

    def test_any_depth(self) -> None:
        """What is read can be sent: no depth is too deep for only the second."""
        for depth in range(900, 1_000):
            nest = b"[" * depth + b"]" * depth
            body = b'{"model": "m", "messages": "hi", "tools": ' + nest + b"}"
            assert_read_or_refused(read_request, body)
