import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.routes.messages import ROUTE, read_request
from cortexd.dialects.wire.envelopes import error_response
from cortexd.dialects.wire.json_values import decode
from cortexd.dialects.wire.profile import Profile, Speaks
from cortexd.dialects.wire.tool_names import upstream_name
from tests.covers import covers
from tests.dialects.anthropic_bodies import (
    HELLO,
    IMAGE,
    NEEDED,
    WEATHER,
    assistant,
    call,
    noted,
    parsed,
    refused,
    result,
    sent,
    terms,
    text,
    user,
)
from tests.dialects.node_answers import USAGE, chat_chunk, relay, stream, tool_call

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
JSON_SCHEMA = {"type": "json_schema", "schema": SCHEMA}
KEEP_ALL = {"type": "clear_thinking_20251015", "keep": "all"}

CLAUDE_CODE: dict[str, Any] = {
    "model": "claude-local",
    "max_tokens": 32_000,
    "stream": True,
    "system": [
        text("x-anthropic-billing-header: cc_version=2.1.197; cc_entrypoint=cli; cch=1;"),
        text("You are an agent.", cache_control={"type": "ephemeral"}),
        text("Be brief."),
    ],
    "messages": [
        user(text("say hi", cache_control={"type": "ephemeral"})),
        {"role": "system", "content": "You have these agents."},
    ],
    "tools": [WEATHER],
    "metadata": {"user_id": '{"device_id":"d","session_id":"s"}'},
    "thinking": {"type": "adaptive"},
    "output_config": {"effort": "high"},
    "context_management": {"edits": [KEEP_ALL]},
}


def upstream_bytes(body: object) -> bytes:
    request = read_request(json.dumps(body).encode())
    return request.exchange("org/target", random_id="abc", now=1.5).first.body


def answered(fields: dict[str, Any], *chunks: object) -> Any:
    """Return the message that a client gets whole when a node answers in these chunks."""
    exchange = parsed(**fields).exchange("org/target", random_id="abc", now=1.5)
    return decode(relay(exchange.first.make_responder(), stream(*chunks)))


class ExchangeTests(SynchronousTestCase):
    @covers("2.1 stream")
    def test_exchange(self) -> None:
        """A node's chat is asked, always as a stream, by the catalogue's id."""
        for streams in (True, False):
            request = parsed(stream=streams)
            found = request.exchange("org/target", random_id="abc", now=1_790_000_000.9)
            assert ("/v1/messages", "org/target") == (found.route, found.model)
            assert "/v1/chat/completions" == found.first.path
            assert (True, streams) == (found.first.streams, found.streams)
            body = decode(found.first.body)
            assert "org/target" == body["model"]
            assert (True, {"include_usage": True}) == (body["stream"], body["stream_options"])
            assert streams == found.first.make_responder().streams
            assert ROUTE == found.route

    @covers("2.1 model")
    def test_model(self) -> None:
        """model: it is known by the name the client asked by, which the answer will echo."""
        assert "claude-local" == parsed().model
        assert "default" == parsed(model=None).model
        assert "model" == refused(model=7).param

    @covers("2.1 stream", "T16")
    def test_stream(self) -> None:
        """T16; stream: only a literal ``true`` streams, a body without it is answered whole."""
        assert [True, False, False, False] == [
            parsed(**fields).streams
            for fields in ({"stream": True}, {"stream": False}, {"stream": None}, {})
        ]
        assert "stream" == refused(stream="true").param

    def test_a_responder_for_each_attempt(self) -> None:
        """Another attempt takes a fresh responder."""
        found = parsed().exchange("m", random_id="abc", now=0)

        assert found.first.make_responder() is not found.first.make_responder()

    def test_approximations_are_told(self) -> None:
        """The exchange tells what is approximated, each thing once."""
        request = parsed(novelty=1, thinking={"type": "adaptive"}, top_k=4)
        found = request.exchange("m", random_id="abc", now=0)

        assert ("thinking_adaptive", "novelty") == found.first.approximations


class AnswerTests(SynchronousTestCase):
    """What the answer must know of the request."""

    @covers("2.1 model", "4.1 id")
    def test_who_answers(self) -> None:
        """model: the answer echoes the name the client asked by, under an id of ours."""
        message = answered({}, chat_chunk("hello", finish="stop", usage=USAGE))

        assert ("msg_abc", "claude-local") == (message["id"], message["model"])
        assert [text("hello")] == message["content"]

    @covers("2.3 name not taken upstream")
    def test_renamed_tools_come_back(self) -> None:
        """Where a tool has another name upstream, the answer's calls get the client's again."""
        name = "tool." + "x" * 70
        alias = upstream_name(name)
        made = tool_call(alias, "{}")
        message = answered(
            {"tools": [WEATHER | {"name": name}]},
            chat_chunk(finish="tool_calls", tool_calls=[made]),
        )

        assert name != alias
        assert [name] == [block["name"] for block in message["content"]]

    @covers("2.1 stop_sequences", "4.3 stop_sequence")
    def test_stop_sequences(self) -> None:
        """stop_sequences: the answer ends before the one that is met, and names it."""
        message = answered({"stop_sequences": ["END"]}, chat_chunk("one END two", finish="stop"))

        assert ("stop_sequence", "END") == (message["stop_reason"], message["stop_sequence"])
        assert [text("one ")] == message["content"]

    @covers("2.3 disable_parallel_tool_use", "T25")
    def test_one_call(self) -> None:
        """T25; disable_parallel_tool_use: of two calls the answer has the first."""
        tool_choice = {"type": "auto", "disable_parallel_tool_use": True}
        calls = [tool_call("weather", "{}", 0), tool_call("weather", "{}", 1)]
        message = answered(
            {"tools": [WEATHER], "tool_choice": tool_choice},
            chat_chunk(finish="tool_calls", tool_calls=calls),
        )

        assert ["tool_use"] == [block["type"] for block in message["content"]]

    @covers("2.1 thinking.display", "2.1 thinking absent")
    def test_thinking(self) -> None:
        """thinking: shown where asked for, empty where withheld, absent where not asked for."""
        chunks = [chat_chunk(reasoning_content="hm"), chat_chunk("ok", finish="stop")]
        for thinking, shown in (
            ({"type": "adaptive"}, ["hm"]),
            ({"type": "adaptive", "display": "omitted"}, [""]),
            ({"type": "disabled"}, []),
        ):
            content = answered({"thinking": thinking}, *chunks)["content"]
            assert shown == [block["thinking"] for block in content if block["type"] == "thinking"]
            assert text("ok") == content[-1]


class FieldTests(SynchronousTestCase):
    @covers("2.1 max_tokens")
    def test_max_tokens(self) -> None:
        """max_tokens: sent by that name alone, clamped to what the model can; 0 or missing is R."""
        assert 100 == sent()["max_tokens"]
        assert "max_completion_tokens" not in sent()
        small = Profile(max_output=50)
        assert (50, {"max_tokens"}) == (sent(small)["max_tokens"], noted(small))
        assert (50, set()) == (
            sent(small, max_tokens=50)["max_tokens"],
            noted(small, max_tokens=50),
        )
        for value in (0, -1, None, 1.5, "100", True):
            assert "max_tokens" == refused(max_tokens=value).param

    @covers("2.1 stop_sequences")
    def test_stop_sequences(self) -> None:
        """stop_sequences: looked for in the answer and not forwarded, unless the profile says so.

        Where they are forwarded nobody knows which was met. An empty one is R, and so are many or
        long ones: each is looked for in every piece of the answer.
        """
        assert ("END", "\n\n") == terms(stop_sequences=["END", "\n\n"]).stop_sequences
        assert "stop" not in sent(stop_sequences=["END"])
        assert {"stop_sequence_usage"} == noted(stop_sequences=["END"])
        forwards = Profile(forward_stop=True)
        assert ["END"] == sent(forwards, stop_sequences=["END"])["stop"]
        assert {"stop_sequences"} == noted(forwards, stop_sequences=["END"])
        assert ("END",) == terms(forwards, stop_sequences=["END"]).stop_sequences
        cases: tuple[object, ...] = (None, [])
        for nothing in cases:
            assert () == terms(stop_sequences=nothing).stop_sequences
            assert "stop" not in sent(forwards, stop_sequences=nothing)
        for wrong, param in (
            (["a", ""], "stop_sequences[1]"),
            ([None], "stop_sequences[0]"),
            ("END", "stop_sequences"),
            (["x"] * 65, "stop_sequences"),
            (["a", "x" * 1_001], "stop_sequences[1]"),
        ):
            assert param == refused(stop_sequences=wrong).param
        assert "must be 64 at most; found 20000" in refused(stop_sequences=["x"] * 20_000).message
        most = ["x" * 1_000] * 64
        assert tuple(most) == terms(stop_sequences=most).stop_sequences

    @covers("2.1 temperature and top_p")
    def test_temperature_and_top_p(self) -> None:
        """temperature, top_p: the same; what no chat takes is R."""
        assert {"temperature": 0.3, "top_p": 0.9}.items() <= sent(
            temperature=0.3, top_p=0.9
        ).items()
        assert 0 == sent(temperature=0)["temperature"]
        assert not {"temperature", "top_p"} & sent(temperature=None, top_p=None).keys()
        for fields in ({"temperature": -0.1}, {"temperature": 2.5}, {"temperature": "hot"}):
            assert "temperature" == refused(**fields).param
        for value in (1.1, True):
            assert "top_p" == refused(top_p=value).param

    @covers("2.1 top_k")
    def test_top_k(self) -> None:
        """top_k: an extension of mistral.rs, R where the upstream has none."""
        assert 40 == sent(top_k=40)["top_k"]
        assert "top_k" == refused(Profile(top_k=False), top_k=40).param
        assert "top_k" not in sent(Profile(top_k=False), top_k=None)
        assert "top_k" == refused(top_k=-1).param

    @covers("2.1 output_config.format")
    def test_output_config_format(self) -> None:
        """output_config.format json_schema, also legacy output_format: R if schema missing."""
        expected = {
            "type": "json_schema",
            "json_schema": {"name": "output", "schema": SCHEMA, "strict": True},
        }
        for fields in ({"output_config": {"format": JSON_SCHEMA}}, {"output_format": JSON_SCHEMA}):
            assert expected == sent(**fields)["response_format"]
            assert set() == noted(**fields)
        assert "response_format" not in sent(output_config={"format": None}, output_format=None)
        cases: list[tuple[object, str]] = [
            ({"type": "json_schema"}, "output_config.format.schema"),
            ({"type": "regex"}, "output_config.format.type"),
            ("json", "output_config.format"),
        ]
        for wrong, param in cases:
            assert param == refused(output_config={"format": wrong}).param
        assert "output_format.schema" == refused(output_format={"type": "json_schema"}).param

    @covers("2.1 metadata.user_id", "2.1 service_tier and its like")
    def test_harmless(self) -> None:
        """metadata.user_id, service_tier, speed and their like: nothing depends on them."""
        plain = sent()
        for name in (
            "metadata",
            "service_tier",
            "speed",
            "inference_geo",
            "diagnostics",
            "user_profile_id",
            "workspace_id",
            "cache_control",
        ):
            for value in ({"user_id": "u"}, "auto", "standard_only", None):
                assert plain == sent(**{name: value})
                assert set() == noted(**{name: value})

    @covers("2.1 cache_control", "2.3 eager_input_streaming, cache_control")
    def test_cache_control_anywhere(self) -> None:
        """cache_control anywhere: dropped and not worth a word."""
        cached = {"cache_control": {"type": "ephemeral"}}
        fields = {
            "system": [text("be brief", **cached)],
            "messages": [
                user(IMAGE | cached, text("look", **cached)),
                assistant(call("toolu_1") | cached),
                user(result("toolu_1", text("sunny", **cached), **cached)),
            ],
            "tools": [WEATHER | cached],
        }

        assert b"cache_control" not in upstream_bytes({"model": "m", "max_tokens": 9} | fields)
        assert {"image_order"} >= noted(**fields)

    @covers("2.1 context_management")
    def test_context_management(self) -> None:
        """context_management: H for clear_thinking keep all, A otherwise."""
        same: tuple[object, ...] = (
            None,
            {},
            {"edits": []},
            {"edits": [KEEP_ALL]},
            {"edits": [KEEP_ALL | {"keep": {"type": "all"}}]},
        )
        for harmless in same:
            assert set() == noted(context_management=harmless)
        cases: tuple[object, ...] = (
            {"edits": [KEEP_ALL | {"keep": {"type": "thinking_turns", "value": 1}}]},
            {"edits": [KEEP_ALL, {"type": "clear_tool_uses_20250919"}]},
            {"edits": "all"},
            "none",
        )
        for lossy in cases:
            assert {"context_management"} == noted(context_management=lossy)
            assert "context_management" not in sent(context_management=lossy)

    @covers("2.1 context_management")
    def test_edits_of_the_context_are_answered(self) -> None:
        """context_management: who asked for edits is told that none was made, and nobody else."""
        cases: tuple[object, ...] = ({}, {"edits": [KEEP_ALL]}, {"edits": "all"})
        for asked in cases:
            message = answered({"context_management": asked}, chat_chunk("a", finish="stop"))
            assert {"applied_edits": []} == message["context_management"]
        assert "context_management" not in answered({}, chat_chunk("a", finish="stop"))

    @covers("2.1 container, mcp_servers, skills")
    def test_what_nothing_here_runs(self) -> None:
        """container, mcp_servers, skills: R, unless they name nothing."""
        for name, value in (
            ("container", "container_1"),
            ("mcp_servers", [{"type": "url", "url": "https://example.org"}]),
            ("skills", [{"skill_id": "pdf"}]),
        ):
            assert name == refused(**{name: value}).param
            assert set() == noted(**{name: None})
            assert set() == noted(**{name: []})

    def test_threads(self) -> None:
        """Who wants the conversation kept is told so that it sends all of it instead."""
        for speaks in Speaks:
            profile = Profile(speaks=speaks)
            for thread in ({"type": "create"}, {"type": "continue", "previous_message_id": "m"}):
                error = refused(profile, thread=thread)
                assert ("thread", 400) == (error.param, error.status)
                _, _, told = error_response(ROUTE, error, "req_1")
                details = {"error_code": "thread_unsupported_request"}
                assert details == decode(told)["error"]["details"]
        assert set() == noted(thread=None)

    @covers("2.1 unknown field")
    def test_unknown_field(self) -> None:
        """Unknown body field: A, ignored and named wherever it is, and never a failure."""
        fields = {
            "novelty": [1],
            "output_config": {"task_budget": 5},
            "thinking": {"type": "disabled", "mood": "calm"},
            "messages": [user(text("hi", style="bold")) | {"id": "msg_1"}],
            "tools": [WEATHER | {"colour": "red"}],
            "tool_choice": {"type": "auto", "weight": 1},
        }

        assert {
            "novelty",
            "output_config.task_budget",
            "thinking.mood",
            "text.style",
            "messages.id",
            "tools.colour",
            "tool_choice.weight",
        } == noted(**fields)
        for name in ("novelty", "task_budget", "mood", "style", "colour", "weight"):
            assert name.encode() not in upstream_bytes({"model": "m"} | NEEDED | fields)
        assert set() == noted(novelty=None)

    @covers("2.1 anthropic-beta header", "2.1 anthropic-version")
    def test_anthropic_beta_and_version(self) -> None:
        """anthropic-beta, anthropic-version: where they come as fields, any value is taken.

        As headers nothing here reads them: what a beta changes is in fields of its own.
        """
        for name, value in (
            ("anthropic_beta", ["context-1m-2025-08-07"]),
            ("betas", ["mid-conversation-system-2026-04-07"]),
            ("anthropic_version", "2026-10-21"),
        ):
            assert sent() == sent(**{name: value})
            assert {name} == noted(**{name: value})


class ClaudeCodeTests(SynchronousTestCase):
    @covers("T1")
    def test_t1_system_turn(self) -> None:
        """T1: a system turn after the first user turn leaves one system message, at index 0."""
        body = decode(upstream_bytes(CLAUDE_CODE))

        assert ["system", "user"] == [message["role"] for message in body["messages"]]
        assert "You are an agent.\nBe brief." == body["messages"][0]["content"]
        assert (
            "say hi\n<system-reminder>\nYou have these agents.\n</system-reminder>"
            == body["messages"][1]["content"]
        )

    @covers("T3", "2.1 system")
    def test_t3_billing_line(self) -> None:
        """T3: two billing lines that differ make the same bytes upstream."""
        nonces = ("cch=aaaa;", "cch=bbbb;")
        first, second = (
            upstream_bytes(
                CLAUDE_CODE
                | {"system": [text(f"x-anthropic-billing-header: {nonce}"), text("Be brief.")]}
            )
            for nonce in nonces
        )

        assert first == second
        assert b"billing" not in first

    @covers("T34", "2.3 server tools")
    def test_t34_web_search(self) -> None:
        """T34: the nested request of Claude Code's WebSearch is a 400 that names the tool."""
        tool = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
        error = refused(tools=[tool], tool_choice={"type": "tool", "name": "web_search"})

        assert (400, "tools[0].type") == (error.status, error.param)
        assert "web_search_20250305" in error.message

    @covers("T53", "2.2 tool_use")
    def test_t53_raw_utf8(self) -> None:
        """T53: a call with CJK in it goes upstream as raw UTF-8, and the same in each turn."""
        turns = [*HELLO, assistant(call("toolu_1", {"city": "東京"})), user(result("toolu_1"))]
        more = [*turns, assistant(text("sunny")), user(text("thanks"))]
        first, second = (
            upstream_bytes({"model": "m", "max_tokens": 9, "messages": messages})
            for messages in (turns, more)
        )

        arguments = '"{\\"city\\":\\"東京\\"}"'.encode()
        assert arguments in first
        assert arguments in second

    def test_second_turn_extends_the_first(self) -> None:
        """What is sent in one turn is the beginning of what is sent in the next."""
        again = [
            *CLAUDE_CODE["messages"],
            assistant(
                {"type": "thinking", "thinking": "", "signature": ""},
                call("toolu_1", {"city": "x"}),
            ),
            user(result("toolu_1", text("sunny"), cache_control={"type": "ephemeral"})),
        ]
        first = decode(upstream_bytes(CLAUDE_CODE))
        second = decode(upstream_bytes(CLAUDE_CODE | {"messages": again}))

        assert first["messages"] == second["messages"][: len(first["messages"])]
        assert first["tools"] == second["tools"]
        assert ["assistant", "tool"] == [message["role"] for message in second["messages"][2:]]
