import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing.answering.answers import Answer, answer_chat, answer_completion, embed
from cortexd.testing.answering.prompt import PromptTooLongError, prompt_of, tokens_of
from cortexd.testing.answering.requests import ChatRequest, CompletionRequest, RequestRefusedError
from cortexd.testing.model import SimulatedModel

CHAT = SimulatedModel(id="acme/chat")
THINKER = SimulatedModel(id="acme/thinker", thinks=True)
SMALL = SimulatedModel(id="acme/small", context_tokens=6)
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "more": {"type": "boolean"},
            },
            "required": ["place", "days", "unit"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
CALL = {"id": "call-1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}


def request(*messages: dict[str, Any], **fields: object) -> ChatRequest:
    return msgspec.convert({"messages": list(messages), **fields}, ChatRequest)


def user(content: object) -> dict[str, Any]:
    return {"role": "user", "content": content}


def only(answers: tuple[Answer, ...]) -> Answer:
    (answer,) = answers
    return answer


def ask(text: str, model: SimulatedModel = CHAT, **fields: object) -> Answer:
    return only(answer_chat(request(user(text), **fields), model))


class TokenTests(SynchronousTestCase):
    @given(st.text())
    def test_joined_they_are_the_text(self, text: str) -> None:
        """No character is lost or added by splitting a text into tokens."""
        self.assertEqual(text, "".join(tokens_of(text)))

    def test_words(self) -> None:
        """A token is a word with the white space before it."""
        self.assertEqual(("one", " two", "\n\n three"), tokens_of("one two\n\n three"))

    def test_withheld(self) -> None:
        """A word beyond ASCII takes two tokens, of which the first shows nothing."""
        self.assertEqual(("good", "", " grüße"), tokens_of("good grüße"))


class EchoTests(SynchronousTestCase):
    def test_last_user_message(self) -> None:
        """The answer repeats the last user message."""
        messages = [user("first"), {"role": "assistant", "content": "yes"}, user("second one")]
        answer = only(answer_chat(request(*messages), CHAT))
        self.assertEqual("You said: second one", answer.content)
        self.assertEqual("stop", answer.finish_reason)

    def test_prompt_tokens(self) -> None:
        """The prompt's tokens are the words of all messages, at least one."""
        messages = [{"role": "system", "content": "be kind"}, user("one two three")]
        self.assertEqual(5, only(answer_chat(request(*messages), CHAT)).prompt.tokens)
        self.assertEqual(1, only(answer_chat(request(), CHAT)).prompt.tokens)

    def test_prompt_of_tools(self) -> None:
        """Tools are part of the prompt, in as many tokens as their JSON has words."""
        function = {"name": "clock", "description": "tells the time"}
        answer = ask("hi", tools=[{"type": "function", "function": function}])
        self.assertEqual(1 + 3, answer.prompt.tokens)

    def test_other_tokenizer(self) -> None:
        """A model may make several tokens of each word of a prompt, and has the less room."""
        double = SimulatedModel(id="acme/double", tokens_per_word=2, context_tokens=6)
        self.assertEqual(4, ask("one two", double).prompt.tokens)
        self.assertEqual(4, prompt_of(request(user("one two")), double).tokens)
        body = CompletionRequest(prompt="one two")
        self.assertEqual(4, only(answer_completion(body, double)).prompt.tokens)
        with self.assertRaises(PromptTooLongError):
            ask("1 2 3 4", double)

    def test_bare_string(self) -> None:
        """Messages may be one string, a user turn."""
        body = msgspec.convert({"messages": "hello"}, ChatRequest)
        self.assertEqual("You said: hello", only(answer_chat(body, CHAT)).content)

    def test_parts(self) -> None:
        """A user's text parts are joined by spaces; images say nothing."""
        parts = [
            {"type": "text", "text": "see"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
            {"type": "text", "text": "this"},
        ]
        self.assertEqual(
            "You said: see this", only(answer_chat(request(user(parts)), CHAT)).content
        )

    def test_parts_of_others(self) -> None:
        """Parts from anybody but the user are refused, text or not; one without type is not."""
        for role in ("system", "assistant", "developer", "tool"):
            parts = [{"type": "text", "text": "be kind"}]
            with self.assertRaises(RequestRefusedError) as caught:
                answer_chat(request({"role": role, "content": parts}, user("hi")), CHAT)
            self.assertEqual(500, caught.exception.status)
            self.assertEqual(
                f"Role for an image message must be `user`, but it is {role}",
                str(caught.exception),
            )
        untyped = {"role": "system", "content": [{"text": "be kind"}]}
        answer_chat(request(untyped, user("hi")), CHAT)

    def test_unsupported_part(self) -> None:
        """A kind of part that upstream does not know is refused."""
        with self.assertRaises(RequestRefusedError):
            answer_chat(request(user([{"type": "input_audio", "input_audio": {}}])), CHAT)

    def test_null_content(self) -> None:
        """A message may lack content only beside tool calls."""
        calling = {"role": "assistant", "content": None, "tool_calls": [CALL]}
        answer_chat(request(user("hi"), calling), CHAT)
        with self.assertRaises(RequestRefusedError):
            answer_chat(request({"role": "assistant", "content": None}), CHAT)

    def test_choices_differ(self) -> None:
        """Each of several choices says which one it is."""
        answers = answer_chat(request(user("hi"), n=2), CHAT)
        self.assertEqual(
            ["You said: hi", "You said (2): hi"], [answer.content for answer in answers]
        )

    def test_completion(self) -> None:
        """A completion repeats its prompt, after the prompt itself where `echo` is set."""
        body = CompletionRequest(prompt="once upon")
        self.assertEqual("You said: once upon", only(answer_completion(body, CHAT)).content)
        body = CompletionRequest(prompt="once. ", echo=True)
        self.assertEqual("once. You said: once. ", only(answer_completion(body, CHAT)).content)


class LimitTests(SynchronousTestCase):
    def test_max_tokens(self) -> None:
        """The answer is cut at max_tokens, with `length`; at its very end it stops by itself."""
        cut = ask("one two three", max_tokens=3)
        self.assertEqual("You said: one", cut.content)
        self.assertEqual("length", cut.finish_reason)
        self.assertEqual("stop", ask("one two three", max_tokens=5).finish_reason)

    def test_zero(self) -> None:
        """A limit of 0 is refused."""
        with self.assertRaises(RequestRefusedError) as caught:
            ask("hi", max_tokens=0)
        self.assertEqual(500, caught.exception.status)

    def test_context(self) -> None:
        """Prompt and answer together end at the context."""
        answer = ask("one two three", SMALL)
        self.assertEqual("You said: one", answer.content)
        self.assertEqual("length", answer.finish_reason)

    def test_prompt_too_long(self) -> None:
        """A prompt beyond the context is an error of the engine's, unless it may be truncated."""
        with self.assertRaises(PromptTooLongError) as caught:
            ask("1 2 3 4 5 6 7", SMALL)
        self.assertIn("is greater than 6", str(caught.exception))
        answer = ask("1 2 3 4 5 6 7", SMALL, truncate_sequence=True, max_tokens=2)
        self.assertEqual((4, 2), (answer.prompt.tokens, len(answer.tokens)))

    def test_ignore_eos(self) -> None:
        """With ignore_eos the answer goes on to the limit."""
        answer = ask("hi", ignore_eos=True, max_tokens=100)
        self.assertEqual(100, len(answer.tokens))
        self.assertEqual("length", answer.finish_reason)

    def test_stop(self) -> None:
        """The answer ends before the first stop string."""
        self.assertEqual("You said: one", ask("one two three", stop=" two").content)
        answer = ask("one two three", stop=["three", " two"])
        self.assertEqual("You said: one", answer.content)
        self.assertEqual("stop", answer.finish_reason)

    def test_which_stop(self) -> None:
        """The stop string that was met is known, unless the limit came before its end."""
        self.assertEqual(" two", ask("one two three", stop=["three", " two"]).stop_sequence)
        self.assertIsNone(ask("one two three", stop=["never"]).stop_sequence)
        self.assertIsNone(ask("one two three", stop=" two", max_tokens=2).stop_sequence)

    @given(st.text(max_size=40), st.integers(1, 12))
    def test_a_cut_is_a_beginning(self, text: str, limit: int) -> None:
        """However an answer is cut, it has no more tokens than allowed and begins as the whole."""
        cut = ask(text, max_tokens=limit)
        self.assertLessEqual(len(cut.tokens), limit)
        self.assertTrue(ask(text).content.startswith(cut.content))


class ThinkingTests(SynchronousTestCase):
    def test_on_unless_told(self) -> None:
        """A model that thinks does so unless told not to, in either of two ways."""
        self.assertEqual("The user said 2 words.", ask("hi there", THINKER).reasoning)
        self.assertEqual("You said: hi there", ask("hi there", THINKER).content)
        self.assertEqual("", ask("hi", THINKER, enable_thinking=False).reasoning)
        self.assertEqual("", ask("hi", THINKER, reasoning_effort="none").reasoning)
        self.assertNotEqual("", ask("hi", THINKER, reasoning_effort="low").reasoning)

    def test_other_models(self) -> None:
        """A model that does not think cannot be told to."""
        self.assertEqual("", ask("hi", enable_thinking=True).reasoning)

    def test_template_arguments(self) -> None:
        """The two keys may be sent as template arguments as well."""
        quiet = ask("hi", THINKER, chat_template_kwargs={"enable_thinking": False})
        self.assertEqual("", quiet.reasoning)

    def test_refusals(self) -> None:
        """An unknown effort is refused, and one that contradicts enable_thinking."""
        for fields in (
            {"reasoning_effort": "minimal"},
            {"reasoning_effort": "none", "enable_thinking": True},
            {"reasoning_effort": "low", "enable_thinking": False},
        ):
            with self.assertRaises(RequestRefusedError) as caught:
                ask("hi", **fields)
            self.assertEqual(500, caught.exception.status)

    def test_counts(self) -> None:
        """Reasoning counts against the limit."""
        answer = ask("hi", THINKER, max_tokens=3)
        self.assertEqual(("The user said", ""), (answer.reasoning, answer.content))


class ToolTests(SynchronousTestCase):
    def test_required(self) -> None:
        """With `required` the first tool is called, with arguments after its schema."""
        answer = ask("sun in Köln?", tools=[WEATHER, CLOCK], tool_choice="required")
        self.assertEqual("tool_calls", answer.finish_reason)
        self.assertEqual("", answer.content)
        (call,) = answer.tool_calls
        self.assertEqual("weather", call.name)
        self.assertEqual(
            {"place": "sun in Köln?", "days": 1, "unit": "C"}, json.loads(call.arguments)
        )

    def test_named(self) -> None:
        """A named tool is called; a name that was not given is refused."""
        choice = {"type": "function", "function": {"name": "clock"}}
        answer = ask("hi", tools=[WEATHER, CLOCK], tool_choice=choice)
        self.assertEqual(["clock"], [call.name for call in answer.tool_calls])
        with self.assertRaises(RequestRefusedError):
            ask("hi", tools=[WEATHER], tool_choice=choice)

    def test_allowed(self) -> None:
        """Of allowed tools the first is called where one is required, else none."""
        tools = [{"type": "function", "name": "clock"}]
        choice = {"type": "allowed_tools", "mode": "required", "tools": tools}
        answer = ask("hi", tools=[WEATHER, CLOCK], tool_choice=choice)
        self.assertEqual(["clock"], [call.name for call in answer.tool_calls])
        choice["mode"] = "auto"
        self.assertEqual((), ask("hi", tools=[WEATHER, CLOCK], tool_choice=choice).tool_calls)

    def test_marker(self) -> None:
        """The word call:NAME calls a tool that was given, once for each time it is said."""
        answer = ask("call:clock and call:weather now call:other", tools=[WEATHER, CLOCK])
        self.assertEqual(["clock", "weather"], [call.name for call in answer.tool_calls])
        self.assertEqual("and now", json.loads(answer.tool_calls[1].arguments)["place"])

    def test_most_calls(self) -> None:
        """There may be a bound on how many tools are called at once."""
        body = request(user("call:clock call:weather"), tools=[WEATHER, CLOCK])
        answer = only(answer_chat(body, CHAT, most_calls=1))
        self.assertEqual(["clock"], [call.name for call in answer.tool_calls])

    def test_no_call(self) -> None:
        """Without demand or marker, without tools, or with `none` it is text as ever."""
        self.assertEqual("You said: hi", ask("hi", tools=[CLOCK]).content)
        self.assertEqual("You said: call:clock", ask("call:clock").content)
        quiet = ask("call:clock", tools=[CLOCK], tool_choice="none")
        self.assertEqual("You said: call:clock", quiet.content)

    def test_after_a_result(self) -> None:
        """After a tool's result the answer is text, whatever is demanded."""
        body = request(
            user("call:clock"),
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call-1", "content": "noon"},
            tools=[CLOCK],
            tool_choice="required",
        )
        self.assertEqual("The tool said: noon", only(answer_chat(body, CHAT)).content)

    def test_required_without_tools(self) -> None:
        """`required` without any tool is refused."""
        with self.assertRaises(RequestRefusedError) as caught:
            ask("hi", tool_choice="required")
        self.assertEqual(500, caught.exception.status)

    def test_withheld(self) -> None:
        """A call's tokens show nothing until it is whole, and a limit within it loses it."""
        answer = ask("call:clock", tools=[CLOCK])
        self.assertEqual({""}, {token.text for token in answer.tokens})
        parts = [token.call for token in ask("call:weather in Köln", tools=[WEATHER]).tokens]
        spelt = "".join(part.arguments for part in parts if part is not None)
        self.assertEqual("in Köln", json.loads(spelt)["place"])
        self.assertEqual({(0, "weather")}, {(part.number, part.name) for part in parts if part})
        cut = ask("call:clock", tools=[CLOCK], max_tokens=1)
        self.assertEqual(("length", ()), (cut.finish_reason, cut.tool_calls))


class FormatTests(SynchronousTestCase):
    def test_json_object(self) -> None:
        """A JSON object is answered with one."""
        answer = ask("hi", response_format={"type": "json_object"})
        self.assertEqual({"said": "hi"}, json.loads(answer.content))

    def test_json_schema(self) -> None:
        """A schema is answered with what it allows."""
        schema = {
            "properties": {
                "names": {"type": "array", "items": {"type": "string"}},
                "size": {"type": ["number", "null"]},
                "kind": {"const": 7},
                "none": {"type": "null"},
                "list": {"type": "array"},
            }
        }
        answer = ask(
            "hi",
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "it", "schema": schema},
            },
        )
        self.assertEqual(
            {"names": ["hi"], "size": 1.5, "kind": 7, "none": None, "list": []},
            json.loads(answer.content),
        )

    def test_grammar_beside_format(self) -> None:
        """A grammar and a response format exclude each other."""
        with self.assertRaises(RequestRefusedError):
            ask("hi", grammar={"type": "regex", "value": "a"}, response_format={"type": "text"})


class EmbeddingTests(SynchronousTestCase):
    @given(st.text())
    def test_vector(self, text: str) -> None:
        """A text has one vector, of numbers in [-1, 1]."""
        self.assertEqual(embed(text), embed(text))
        self.assertTrue(all(-1 <= number <= 1 for number in embed(text)))

    def test_different(self) -> None:
        """Different texts have different vectors."""
        self.assertNotEqual(embed("one"), embed("two"))
