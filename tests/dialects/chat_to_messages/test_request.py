from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.chat_to_messages.request import DEFAULT_MAX_TOKENS, translate_chat
from cortexd.dialects.wire.json_values import decode
from cortexd.dialects.wire.profile import Profile, ReasoningControl
from tests.covers import covers
from tests.dialects.chat_on_messages_bodies import (
    HELLO,
    SCHEMA,
    UPSTREAM,
    WEATHER,
    noted,
    refused,
    sent,
    text,
    translated,
    turn,
)


class BodyTests(SynchronousTestCase):
    def test_smallest(self) -> None:
        """A chat with nothing but messages is asked for as a stream, up to the most tokens."""
        body = translate_chat({"model": "acme/chat", "messages": HELLO}, UPSTREAM)
        expected = {"max_tokens": 1_000, "stream": True, "messages": [turn("user", text("hi"))]}

        assert expected == body.body
        assert () == body.approximations
        assert {} == body.tool_names
        assert {"model": "org/target", **expected} == decode(body.encoded("org/target"))

    def test_null_is_absent(self) -> None:
        """Null at the top level means the same as absent."""
        names = ["stop", "tools", "tool_choice", "temperature", "reasoning_effort", "n", "user"]
        names += ["logprobs", "audio", "modalities", "presence_penalty", "seed", "odd"]
        nulls = dict.fromkeys(names)

        assert sent() == sent(**nulls)
        assert [] == noted(**nulls)

    def test_stream_is_decided_elsewhere(self) -> None:
        """The upstream is asked for a stream whatever the client wants of it."""
        for fields in ({"stream": False}, {"stream": True, "stream_options": {}}):
            assert sent() == sent(**fields)
            assert [] == noted(**fields)

    def test_fields_stay_as_they_are(self) -> None:
        """The client's fields are not changed: another kind of upstream may need them."""
        fields = {
            "messages": [{"role": "system", "content": "x"}, *HELLO],
            "tools": [WEATHER],
            "parallel_tool_calls": False,
            "reasoning_effort": None,
        }
        before = repr(fields)
        translate_chat(fields, UPSTREAM)

        assert before == repr(fields)

    def test_unknown_fields(self) -> None:
        """An unknown field is ignored and named."""
        assert sent() == sent(min_p=0.1, repetition_penalty=1)
        assert ["min_p", "repetition_penalty"] == noted(min_p=0.1, repetition_penalty=1)


class LimitTests(SynchronousTestCase):
    @covers("3 max_tokens")
    def test_limit(self) -> None:
        """max_completion_tokens / max_tokens: max_tokens."""
        for name in ("max_completion_tokens", "max_tokens"):
            assert 7 == sent(**{name: 7})["max_tokens"]
            assert [] == noted(**{name: 7})
        assert 7 == sent(max_completion_tokens=7, max_tokens=9)["max_tokens"]
        assert 9 == sent(max_completion_tokens=None, max_tokens=9)["max_tokens"]

    @covers("3 max_tokens")
    def test_absent(self) -> None:
        """max_tokens absent: profile.max_output, or a noted number where that is unknown."""
        assert 1_000 == sent()["max_tokens"]
        assert [] == noted()
        unknown = Profile()
        assert DEFAULT_MAX_TOKENS == 4_096 == sent(unknown)["max_tokens"]
        assert ["max_tokens"] == noted(unknown)
        assert 10**12 == sent(unknown, max_tokens=10**12)["max_tokens"]

    @covers("3 max_tokens")
    def test_clamped(self) -> None:
        """More than the model can say is clamped, and noted."""
        assert 1_000 == sent(max_tokens=10**30)["max_tokens"]
        assert ["max_tokens"] == noted(max_tokens=1_001)
        assert [] == noted(max_tokens=1_000)

    def test_mistakes(self) -> None:
        """What is no limit is refused by the name the client used."""
        wrong: list[object] = [0, -1, 1.5, "7", True, []]
        for name in ("max_completion_tokens", "max_tokens"):
            for value in wrong:
                assert name == refused(**{name: value}).param


class SamplingTests(SynchronousTestCase):
    @covers("3 temperature")
    def test_temperature(self) -> None:
        """Above 1 a temperature is clamped to 1, and noted."""
        for value, expected in ((0, 0), (0.3, 0.3), (1, 1), (1.1, 1), (2, 1)):
            assert expected == sent(temperature=value)["temperature"]
            assert (["temperature"] if value > 1 else []) == noted(temperature=value)
        for wrong in (-0.1, 2.1, "1", True):
            assert "temperature" == refused(temperature=wrong).param

    @covers("3 top_p, stop, user")
    def test_top_p(self) -> None:
        """top_p: top_p."""
        assert 0.9 == sent(top_p=0.9)["top_p"]
        assert [] == noted(top_p=0.9)
        for wrong in (-0.1, 1.1, "1"):
            assert "top_p" == refused(top_p=wrong).param

    def test_top_k(self) -> None:
        """top_k, which local servers take, is Messages' own; else it is ignored and named."""
        without = Profile(top_k=False, max_output=9)

        assert 40 == sent(top_k=40)["top_k"]
        assert "top_k" not in sent(without, top_k=40)
        assert ["top_k"] == noted(without, top_k=40)
        assert "top_k" == refused(top_k=-1).param

    @covers("3 top_p, stop, user")
    def test_stop(self) -> None:
        """Stop sequences, one string or a list, are stop_sequences."""
        for stop, expected in (("END", ["END"]), (["a", "\n\nb"], ["a", "\n\nb"])):
            assert expected == sent(stop=stop)["stop_sequences"]
            assert [] == noted(stop=stop)
        assert "stop_sequences" not in sent(stop=[])
        cases: list[tuple[object, str]] = [("", "stop"), (1, "stop"), (["a", ""], "stop[1]")]
        for wrong, path in cases:
            assert path == refused(stop=wrong).param

    def test_stop_at_white_space(self) -> None:
        """A stop sequence of white space alone, which Messages has not, is refused by its path."""
        for stop, path in (("\n", "stop"), (["a", " \n"], "stop[1]")):
            error = refused(stop=stop)
            assert (path, "unsupported_parameter") == (error.param, error.code)

    @covers("3 top_p, stop, user")
    def test_user(self) -> None:
        """user: metadata.user_id."""
        assert {"user_id": "eve"} == sent(user="eve")["metadata"]
        assert [] == noted(user="eve")
        assert "metadata" not in sent(user="", metadata={"a": "b"})
        assert "user" == refused(user=1).param


class ReasoningTests(SynchronousTestCase):
    @covers("3 reasoning_effort none")
    def test_none(self) -> None:
        """reasoning_effort none: thinking disabled."""
        assert {"type": "disabled"} == sent(reasoning_effort="none")["thinking"]
        assert "output_config" not in sent(reasoning_effort="none")
        assert [] == noted(reasoning_effort="none")
        assert "thinking" not in sent()

    @covers("3 reasoning_effort of a level")
    def test_levels(self) -> None:
        """minimal/low/medium/high/xhigh: adaptive + effort (minimal is low)."""
        efforts = {"minimal": "low", "low": "low", "medium": "medium", "high": "high"}
        for asked, effort in (efforts | {"xhigh": "xhigh", "max": "max"}).items():
            body = sent(reasoning_effort=asked)
            assert {"type": "adaptive"} == body["thinking"]
            assert {"effort": effort} == body["output_config"]
            assert ["reasoning_effort"] == noted(reasoning_effort=asked)

    def test_switch(self) -> None:
        """enable_thinking, which local clients know, is adaptive or disabled; beside none, nothing.

        Its opposite in reasoning_effort is refused.
        """
        assert {"type": "adaptive"} == sent(enable_thinking=True)["thinking"]
        assert ["enable_thinking"] == noted(enable_thinking=True)
        assert {"type": "disabled"} == sent(enable_thinking=False)["thinking"]
        assert [] == noted(enable_thinking=False)
        assert "thinking" not in sent(enable_thinking="yes")
        assert {"type": "disabled"} == sent(reasoning_effort="off")["thinking"]
        error = refused(reasoning_effort="high", enable_thinking=False)
        assert ("reasoning_effort", "invalid_value") == (error.param, error.code)

    @covers("3 reasoning_effort of a level")
    def test_forced_tools(self) -> None:
        """Thinking is omitted when tool_choice is any/tool."""
        tool = {"type": "function", "function": {"name": "weather"}}
        allowed = {"mode": "required", "tools": [tool]}
        forced = ["required", tool, {"type": "allowed_tools", "allowed_tools": allowed}]
        for choice in forced:
            body = sent(tools=[WEATHER], tool_choice=choice, reasoning_effort="high")
            assert "thinking" not in body
            assert {"effort": "high"} == body["output_config"]
        for free in ("auto", "none", None):
            body = sent(tools=[WEATHER], tool_choice=free, reasoning_effort="high")
            assert {"type": "adaptive"} == body["thinking"]

    def test_sampling(self) -> None:
        """Beside thinking the sampling that an upstream refuses there is left out, and noted."""
        refused_there = {"temperature": 0.7, "top_p": 0.9, "top_k": 40}
        taken_there = {"temperature": 1, "top_p": 0.95}
        both = {"reasoning_effort": "high"}

        assert sent(**both) == sent(**both, **refused_there)
        assert sorted([*both, *refused_there]) == noted(**both, **refused_there)
        assert sent(**both) | taken_there == sent(**both, **taken_there)
        assert [*both] == noted(**both, **taken_there)
        for effort in ("none", None):
            fields = {"reasoning_effort": effort}
            assert sent(**fields) | refused_there == sent(**fields, **refused_there)

    def test_no_control(self) -> None:
        """An upstream that cannot be told how hard to think is not told."""
        without = Profile(reasoning_control=ReasoningControl.NONE, max_output=1_000)

        assert sent() == sent(without, reasoning_effort="none")
        assert sent() == sent(without, reasoning_effort="high")
        assert ["reasoning_effort"] == noted(without, reasoning_effort="high")

    def test_odd_levels(self) -> None:
        """A level that nobody knows is refused, as on every other node."""
        for effort in ("heroic", "", 3):
            error = refused(reasoning_effort=effort)
            assert ("reasoning_effort", "unsupported_value") == (error.param, error.code)


class FormatTests(SynchronousTestCase):
    @covers("3 response_format json_schema")
    def test_json_schema(self) -> None:
        """response_format json_schema: output_config.format, beside an effort."""
        described = {"name": "place", "schema": SCHEMA, "strict": True}
        fields = {"response_format": {"type": "json_schema", "json_schema": described}}
        expected = {"type": "json_schema", "schema": SCHEMA}

        assert {"format": expected} == sent(**fields)["output_config"]
        assert [] == noted(**fields)
        both = sent(**fields, reasoning_effort="low")["output_config"]
        assert {"effort": "low", "format": expected} == both

    @covers("3 response_format json_object")
    def test_json_object(self) -> None:
        """json_object: schema {type:object}, noted; text: none."""
        expected = {"type": "json_schema", "schema": {"type": "object"}}
        fields = {"response_format": {"type": "json_object"}}

        assert {"format": expected} == sent(**fields)["output_config"]
        assert ["json_object"] == noted(**fields)
        assert sent() == sent(response_format={"type": "text"})
        assert [] == noted(response_format={"type": "text"})

    def test_mistakes(self) -> None:
        """What is no format is refused by its path."""
        path = "response_format"
        cases: list[tuple[object, str]] = [
            ("json", path),
            ({}, f"{path}.type"),
            ({"type": "regex"}, f"{path}.type"),
            ({"type": "json_schema"}, f"{path}.json_schema"),
            ({"type": "json_schema", "json_schema": {}}, f"{path}.json_schema.schema"),
        ]
        for given, param in cases:
            assert param == refused(response_format=given).param, given


class UnsupportedTests(SynchronousTestCase):
    @covers("3 n and its like")
    def test_refused(self) -> None:
        """n>1, best_of, logprobs, logit_bias, audio, web_search_options: R."""
        cases: list[tuple[str, object, str]] = [
            ("n", 2, "n"),
            ("best_of", 2, "best_of"),
            ("logprobs", True, "logprobs"),
            ("top_logprobs", 3, "top_logprobs"),
            ("logit_bias", {"50256": -100}, "logit_bias"),
            ("modalities", ["text", "audio"], "modalities[1]"),
            ("audio", {"voice": "alloy", "format": "wav"}, "audio"),
            ("web_search_options", {}, "web_search_options"),
            ("session_id", "s", "session_id"),
            ("files", ["report"], "files"),
            ("enable_code_execution", True, "enable_code_execution"),
            ("enable_shell", True, "enable_shell"),
            ("agent_permission", "ask", "agent_permission"),
        ]
        for name, value, path in cases:
            error = refused(**{name: value})
            assert path == error.param
            assert "unsupported_parameter" == error.code
            assert error.message.startswith(path)
        for wrong in (0, "1", 1.0, True):
            assert "n" == refused(n=wrong).param

    @covers("3 n and its like")
    def test_asks_for_nothing(self) -> None:
        """Where those fields ask for nothing out of the ordinary they are dropped."""
        fields = {
            "n": 1,
            "best_of": 1,
            "logprobs": False,
            "top_logprobs": 0,
            "logit_bias": {},
            "modalities": ["text"],
            "audio": None,
            "enable_shell": False,
            "files": [],
        }
        assert sent() == sent(**fields)
        assert [] == noted(**fields)

    @covers("3 penalties")
    def test_penalties(self) -> None:
        """presence/frequency_penalty: 0 is dropped, else R."""
        for name in ("presence_penalty", "frequency_penalty"):
            for nothing in (0, 0.0, None):
                assert sent() == sent(**{name: nothing})
                assert [] == noted(**{name: nothing})
            for wrong in (0.1, -2, "0", True):
                assert name == refused(**{name: wrong}).param

    @covers("3 seed and its like")
    def test_ignored(self) -> None:
        """seed, prediction, verbosity: ignored, and noted."""
        fields = {
            "seed": 0,
            "prediction": {"type": "content", "content": "x"},
            "verbosity": "low",
        }
        assert sent() == sent(**fields)
        assert sorted(fields) == noted(**fields)

    @covers("3 store and its like")
    def test_harmless(self) -> None:
        """store, metadata, prompt_cache_key, safety_identifier, service_tier: dropped."""
        fields = {
            "store": True,
            "metadata": {"a": "b"},
            "prompt_cache_key": "k",
            "safety_identifier": "s",
            "service_tier": "flex",
        }
        assert sent() == sent(**fields)
        assert [] == noted(**fields)


class WrapTests(SynchronousTestCase):
    def test_words(self) -> None:
        """Each approximation has one word, in the order in which they are met."""
        body = translated(
            messages=[{"role": "user", "content": "hi", "name": "eve"}],
            max_tokens=2_000,
            seed=1,
            odd=2,
        )
        assert ("max_tokens", "name", "seed", "odd") == body.approximations
