"""The refusals of the simulated Messages API, with their messages."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing.answering.requests import RequestRefusedError
from tests.doubles.messages_api.requests import MessagesRequest
from tests.doubles.messages_api.rules import checked
from tests.doubles.messages_api.shapes import signature_of

Json = dict[str, Any]

TOOL: Json = {"name": "clock", "input_schema": {"type": "object"}}
ENABLED: Json = {"type": "enabled", "budget_tokens": 1024}


def user(*blocks: Json | str) -> Json:
    content = [{"type": "text", "text": each} if isinstance(each, str) else each for each in blocks]
    return {"role": "user", "content": content}


def assistant(*blocks: Json | str) -> Json:
    return user(*blocks) | {"role": "assistant"}


def call(call_id: str = "a", **fields: object) -> Json:
    return {"type": "tool_use", "id": call_id, "name": "clock", "input": {}, **fields}


def result(call_id: str = "a", **fields: object) -> Json:
    return {"type": "tool_result", "tool_use_id": call_id, "content": "42", **fields}


def thought(text: str, signature: str | None = None) -> Json:
    signature = signature_of(text) if signature is None else signature
    return {"type": "thinking", "thinking": text, "signature": signature}


def image(**source: str) -> Json:
    return {"type": "image", "source": source}


def request(*turns: Json, **fields: object) -> MessagesRequest:
    body = {"model": "m", "max_tokens": 2000, "messages": turns or [user("hi")], **fields}
    return msgspec.convert(body, MessagesRequest)


class RuleTestCase(SynchronousTestCase):
    def refused(self, *turns: Json, betas: str = "", **fields: Any) -> str:
        """Return the words with which a request is refused."""
        with self.assertRaises(RequestRefusedError) as caught:
            checked(request(*turns, **fields), betas=betas)
        assert 400 == caught.exception.status
        return str(caught.exception)


class FieldTests(RuleTestCase):
    def test_limit(self) -> None:
        """A limit must be given where something is generated, and be one token at least."""
        assert "max_tokens: Field required" == self.refused(max_tokens=None)
        assert self.refused(max_tokens=0).startswith("max_tokens: ")
        checked(request(max_tokens=None), generates=False)

    def test_unknown_fields(self) -> None:
        """What it does not know it lets pass, at the top and inside."""
        turn = user({"type": "text", "text": "hi", "flavour": "new"}) | {"mood": "good"}
        checked(request(turn, context_management={"edits": []}, service_tier="auto"))

    def test_numbers(self) -> None:
        """Temperature and top_p go from 0 to 1, and a stop sequence is more than white space."""
        for name in ("temperature", "top_p"):
            for number in (1.5, -0.5):
                fields: Json = {name: number}
                assert f"{name}: range: 0..1" == self.refused(**fields)
            for number in (0, 0.5, 1):
                checked(request(**{name: number}))
        for stop in ("", "\n", "  "):
            assert "non-whitespace" in self.refused(stop_sequences=["###", stop])

    def test_tools(self) -> None:
        """A tool of the client's own has a plain name of its own and a schema of an object."""
        for name in ("", "über", "two words", "a.b", "a" * 129):
            assert self.refused(tools=[TOOL | {"name": name}]).startswith("tools.0.custom.name: ")
        assert "input_schema: Field" in self.refused(tools=[TOOL, {"name": "b"}])
        assert "schema.type" in self.refused(tools=[TOOL | {"input_schema": {}}])
        assert "tools: Tool names must be unique." == self.refused(tools=[TOOL, TOOL])
        checked(request(tools=[{"type": "web_search_20250305", "name": "web_search"}, TOOL]))

    def test_tool_choice(self) -> None:
        """A choice is of a known kind and of a tool that is there."""
        assert "'maybe'" in self.refused(tools=[TOOL], tool_choice={"type": "maybe"})
        ghost = {"type": "tool", "name": "ghost"}
        assert "'ghost' not found" in self.refused(tools=[TOOL], tool_choice=ghost)
        for kind in ("auto", "any", "tool"):
            words = self.refused(tool_choice={"type": kind, "name": "clock"})
            assert "only be specified while providing tools" in words
        checked(request(tool_choice={"type": "none"}))

    def test_thinking(self) -> None:
        """A budget is from 1024 to less than the limit; there are things that forbid to think."""
        assert "`rarely`" in self.refused(thinking={"type": "rarely"})
        assert "Field required" in self.refused(thinking={"type": "enabled"})
        assert "1024" in self.refused(thinking={"type": "enabled", "budget_tokens": 1023})
        assert "greater than `thinking.budget_tokens`" in self.refused(
            thinking=ENABLED, max_tokens=1024
        )
        checked(request(thinking=ENABLED, max_tokens=1025, temperature=1))
        for thinking in (ENABLED, {"type": "adaptive"}):
            assert "temperature" in self.refused(thinking=thinking, temperature=0.5)
            for choice in ({"type": "any"}, {"type": "tool", "name": "clock"}):
                words = self.refused(thinking=thinking, tools=[TOOL], tool_choice=choice)
                assert "forces tool use" in words
        off = {"type": "disabled"}
        checked(request(thinking=off, temperature=0.5, tools=[TOOL], tool_choice={"type": "any"}))


class TurnTests(RuleTestCase):
    def test_roles(self) -> None:
        """The user begins; the system speaks in the middle only where the beta has it."""
        assert "at least one" in self.refused(messages=[])
        assert "first message" in self.refused(assistant("hi"))
        for role in ("system", "tool", "developer"):
            assert f'"{role}"' in self.refused(user("hi"), user("be kind") | {"role": role})
        betas = "a-2026-01-01,mid-conversation-system-2026-04-07"
        checked(request(user("hi"), user("be kind") | {"role": "system"}), betas=betas)
        assert '"tool"' in self.refused(user("hi"), user("x") | {"role": "tool"}, betas=betas)

    def test_merging(self) -> None:
        """Neighbours of one role become one turn, with the blocks of all of them in order."""
        turns = checked(
            request(user("a"), {"role": "user", "content": "b"}, assistant("c"), user("d"))
        ).messages

        assert [("user", ["a", "b"]), ("assistant", ["c"]), ("user", ["d"])] == [
            (turn.role, [block.text for block in turn.blocks()]) for turn in turns
        ]

    def test_empty(self) -> None:
        """Nothing is empty but a beginning of the answer."""
        contents: list[object] = ["", []]
        for content in contents:
            empty = {"role": "user", "content": content}
            assert self.refused(empty).startswith("messages.0: all messages must have non-empty")
            checked(request(user("hi"), empty | {"role": "assistant"}))
        nothing = {"type": "text", "text": ""}
        assert "messages: text content blocks must be non-empty" == self.refused(user(nothing))
        assert "must contain non-whitespace" in self.refused(user("hi", " \n"))
        assert self.refused(system=[nothing]).startswith("system: ")
        told = result(content=[nothing])
        assert "must be non-empty" in self.refused(user("hi"), assistant(call()), user(told))

    def test_kinds_of_blocks(self) -> None:
        """A block of an unknown kind, or of the other side's, is refused with its place."""
        for turns, place in (
            ([user("hi", {"type": "audio"})], "messages.0.content.1.type: "),
            ([user("hi"), assistant({"type": "image"})], "messages.1.content.0.type: "),
            ([user(call())], "messages.0.content.0.type: "),
            ([user("hi"), assistant(result())], "messages.1.content.0.type: "),
        ):
            assert self.refused(*turns).startswith(place)

    def test_images(self) -> None:
        """An image is base64 of a known type, or at an address of the web."""
        png = {"type": "base64", "media_type": "image/png", "data": "aGk="}
        checked(request(user(image(**png), image(type="url", url="https://a.example/b.png"))))
        assert "media_type" in self.refused(user(image(**png | {"media_type": "image/tiff"})))
        for data in ("", "a", "data:image/png;base64,aGk="):
            assert "invalid base64" in self.refused(user(image(**png | {"data": data})))
        for source in ({"type": "url", "url": "file:///etc/passwd"}, {"type": "path"}):
            assert "Only HTTP(S)" in self.refused(user(image(**source)))
        assert "Field required" in self.refused(user({"type": "image"}))

    def test_signatures(self) -> None:
        """A thought must bear the signature that it was given."""
        checked(request(user("hi"), assistant(thought("hm"), "hello"), user("and?")))
        for signature in ("", "cortex", signature_of("other")):
            words = self.refused(user("hi"), assistant(thought("hm", signature)), user("and?"))
            assert "messages.1.content.0: Invalid `signature` in `thinking` block" == words

    def test_thought_before_calls(self) -> None:
        """With a thinking budget, the turn whose calls are answered begins with its thought."""
        turns = user("hi"), assistant("well", call()), user(result())
        assert "found `text`" in self.refused(*turns, thinking=ENABLED)
        checked(request(*turns, thinking={"type": "adaptive"}))
        checked(request(turns[0], assistant(thought("hm"), call()), turns[2], thinking=ENABLED))
        checked(request(*turns, assistant("done"), user("more"), thinking=ENABLED))


class PairTests(RuleTestCase):
    def test_ids(self) -> None:
        """Ids are of letters, digits, dashes and underscores, one for each call."""
        for call_id in ("", "call:1", "fc.1", "é"):
            turns = user("hi"), assistant(call(call_id)), user(result(call_id))
            assert self.refused(*turns).startswith("messages.1.content.0.tool_use.id: ")
        assert "must be unique" in self.refused(
            user("hi"), assistant(call(), call()), user(result())
        )
        assert "tool_use_id" in self.refused(user({"type": "tool_result"}))

    def test_input(self) -> None:
        """What a call was given is an object."""
        inputs: list[object] = ["{}", [], None]
        for given_input in inputs:
            turns = user("hi"), assistant(call(input=given_input)), user(result())
            assert "valid dictionary" in self.refused(*turns)

    def test_result_without_call(self) -> None:
        """A result answers a call of the turn right before it."""
        for turns in (
            [user(result())],
            [user("hi"), assistant("well"), user(result())],
            [
                *(user("hi"), assistant(call()), user(result())),
                *(assistant("well"), user(result())),
            ],
        ):
            assert "unexpected `tool_use_id`" in self.refused(*turns)

    def test_call_without_result(self) -> None:
        """A call is answered in the next turn, before anything else is said there."""
        for after in ([], [user("never mind")], [user("first this", result())]):
            words = self.refused(user("hi"), assistant(call()), *after)
            assert words.startswith("messages.1: `tool_use` ids were found without")
        checked(request(user("hi"), assistant(call()), user(result(), "and more")))

    @given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.data())
    def test_every_call_has_its_result(self, counts: list[int], data: st.DataObject) -> None:
        """A history with each result in its place is taken; without any one of them it is not."""
        turns: list[Json] = [user("hi")]
        for round_, count in enumerate(counts):
            ids = [f"call_{round_}-{number}" for number in range(count)]
            turns.append(assistant("well", *[call(call_id) for call_id in ids]))
            answers = data.draw(st.permutations([result(call_id) for call_id in ids]))
            turns.append(user(*answers, "go on"))
        checked(request(*turns))
        if any(counts):
            places = [2 * round_ + 2 for round_, count in enumerate(counts) if count]
            turn = turns[data.draw(st.sampled_from(places))]
            del turn["content"][0]
            self.refused(*turns)
