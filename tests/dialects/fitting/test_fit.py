"""What holds of any conversation, fitted to any template."""

import json
import re
import time
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.fitting.contents import MEDIA
from cortexd.dialects.fitting.fit import fit_messages
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.contents import Unshowable
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.dialects.wire.profile import MISTRALRS, MidSystem, Profile, ToolIdFormat
from tests.dialects.fitting.conversations import HISTORIES, IMAGE, PROFILES
from tests.dialects.fitting.fitted import fitted, words_for

HELLO = {"role": "user", "content": "hi"}


def assert_accepted(message: JsonObject) -> None:
    """Assert that a node accepts the message (nodes.md 4.1)."""
    content = message["content"]
    names = {"role", "content", "name", "tool_call_id", "tool_calls", "reasoning_content"}
    assert message.keys() <= names
    for name in ("name", "tool_call_id", "reasoning_content"):
        assert isinstance(message.get(name, ""), str)
    if isinstance(content, list):
        assert "user" == message["role"]
        assert any(part["type"] in MEDIA for part in content)
        assert all(
            isinstance(value, str) or all(isinstance(inner, str) for inner in value.values())
            for part in content
            for value in part.values()
        )
    else:
        assert isinstance(content, str)
    for call in message.get("tool_calls", ()):
        assert {"id", "type", "function"} == call.keys()
        assert isinstance(json.loads(call["function"]["arguments"]), dict)


def assert_ordered(messages: list[JsonObject], profile: Profile) -> None:
    """Assert that each call has its one result, and turns are as the profile wants them."""
    roles = [message["role"] for message in messages]
    assert "user" in roles
    if profile.alternate:
        assert ["user"] == [role for role in roles if role != "system"][:1]
    if profile.mid_system is not MidSystem.PASS or not profile.system_role:
        assert "system" not in roles[1:]
    open_calls: list[str] = []
    for message in messages:
        calls = message.get("tool_calls", [])
        if message["role"] == "tool":
            open_calls.remove(message["tool_call_id"])
        else:
            assert not open_calls
            open_calls = [call["id"] for call in calls]
            assert len(set(open_calls)) == len(open_calls)
        assert profile.parallel_calls or len(calls) < 2
        assert profile.text_beside_calls or not (calls and message["content"])
        if profile.tool_id_format is ToolIdFormat.MISTRAL9:
            assert all(re.fullmatch("[A-Za-z0-9]{9}", call["id"]) for call in calls)
    assert not open_calls
    assert profile.tool_turns or "tool" not in roles
    if profile.alternate:
        turns = [
            message["role"]
            for message in messages
            if message["role"] != "tool" and not message.get("tool_calls")
        ]
        known = {("user", "user")} if profile.user_after_tool and profile.tool_turns else set()
        assert {pair for pair in pairwise(turns) if pair[0] == pair[1] != "system"} <= known
    assert profile.user_after_tool or ("tool", "user") not in pairwise(roles)


def texts_of(messages: list[JsonObject]) -> list[str]:
    return re.findall(r"w\d+\.", encode(messages).decode())


class AnyConversationTests(SynchronousTestCase):
    @settings(max_examples=150)
    @given(HISTORIES, PROFILES)
    def test_fit(self, messages: list[JsonObject], profile: Profile) -> None:
        """Nothing raises; a node accepts the messages, and they have the template's order."""
        found = fitted(messages, profile)
        for message in found:
            assert_accepted(message)
        assert_ordered(found, profile)
        assert found == fitted(found, profile)

    @settings(max_examples=100)
    @given(st.data(), PROFILES)
    def test_order(self, data: st.DataObject, profile: Profile) -> None:
        """Every text stands in the order in which it was said."""
        number = iter(range(100))
        messages: list[JsonObject] = []
        for _ in range(data.draw(st.integers(1, 4))):
            role = "system" if profile.mid_system is not MidSystem.HOIST else "user"
            for each in data.draw(st.lists(st.sampled_from(["user", role]), min_size=1)):
                messages.append({"role": each, "content": f"w{next(number)}."})
            calls = [
                {
                    "id": f"call{count}",
                    "function": {"name": "f", "arguments": f'{{"x": "w{next(number)}."}}'},
                }
                for count in range(data.draw(st.integers(0, 2 if profile.parallel_calls else 1)))
            ]
            messages.append(
                {
                    "role": "assistant",
                    "content": f"w{next(number)}.",
                    "reasoning": f"w{next(number)}.",
                }
                if not calls
                else {"role": "assistant", "content": None, "tool_calls": calls}
            )
            messages += [
                {"role": "tool", "tool_call_id": call["id"], "content": f"w{next(number)}."}
                for call in calls
            ]
        assert texts_of(messages) == texts_of(fitted(messages, profile))


class NewestTurnTests(SynchronousTestCase):
    def test_an_image_for_a_blind_model(self) -> None:
        """Only the newest turn of the user is refused, by its path."""
        shown: dict[str, Any] = {"role": "user", "content": [IMAGE]}
        blind = Profile(vision=False)
        for messages, paths, path in (
            ([shown], None, "messages[0].content[0]"),
            ([HELLO, {"role": "assistant"}, shown], None, "messages[2].content[0]"),
            ([HELLO, shown], ["input[0]", "input[4]"], "input[4].content[0]"),
        ):
            error = self.assertRaises(
                Unshowable, fit_messages, messages, blind, Approximations(), paths
            )
            assert path == error.param
        for later in ({"role": "assistant", "content": "so"}, HELLO):
            assert {"image"} == words_for([shown, later], blind)

    def test_answers_that_say_nothing(self) -> None:
        """An empty answer goes, except at the end, and except for thoughts before an answer."""
        empty, said = {"role": "assistant", "content": ""}, {"role": "assistant", "content": "so"}
        thought = {**empty, "reasoning_content": "hm"}
        apart = Profile(alternate=False)

        assert [HELLO, HELLO] == fitted([HELLO, empty, thought, HELLO], apart)
        assert [HELLO, thought, said] == fitted([HELLO, empty, thought, said], apart)
        assert [HELLO, empty] == fitted([HELLO, empty], apart)
        assert {"empty_answer"} == words_for([HELLO, empty, HELLO], apart)

    def test_roles_that_are_no_text(self) -> None:
        """A message whose role is a list or an object becomes words of the user."""
        for role in (["system"], {"type": "text"}, 7, None):
            (found,) = fitted([{"role": role, "content": "so"}], MISTRALRS)
            assert "user" == found["role"]

    def test_calls_that_are_none(self) -> None:
        """Where nothing stands for a call, the answer has no call."""
        answer = {"role": "assistant", "content": "so", "tool_calls": [None]}
        assert [HELLO, {"role": "assistant", "content": "so"}] == fitted([HELLO, answer], MISTRALRS)

    def test_nothing(self) -> None:
        """A conversation without messages stays one."""
        assert [] == fitted([], MISTRALRS)

    def test_messages_that_need_nothing_stay_the_same_objects(self) -> None:
        """A plain turn is not copied, because a conversation has hundreds of them."""
        messages = [HELLO, {"role": "assistant", "content": "so"}, {"role": "user", "content": "a"}]
        found = fitted(messages, MISTRALRS)
        assert found == messages
        assert found[0] is HELLO


class CostTests(SynchronousTestCase):
    def test_time_grows_with_the_length_alone(self) -> None:
        """Twenty thousand reminders, or calls in one turn, cost a second, and not a minute."""
        count = 20_000
        notes = [HELLO, *[{"role": "system", "content": "x" * 30}] * count]
        function = {"name": "f", "arguments": "{}"}
        ids = [f"c{number}" for number in range(count)]
        calls = [{"id": each, "type": "function", "function": function} for each in ids]
        results = [{"role": "tool", "tool_call_id": each, "content": each} for each in ids]
        turn: list[JsonObject] = [
            HELLO,
            {"role": "assistant", "content": "", "tool_calls": calls},
        ]
        begun = time.process_time()

        assert 1 == len(fitted(notes, MISTRALRS))
        assert ids == [each["content"] for each in fitted([*turn, *results[::-1]], MISTRALRS)[2:]]
        stray = [{**each, "tool_call_id": "stray"} for each in results]
        assert 3 + count == len(fitted([*turn, *stray], MISTRALRS))
        assert time.process_time() - begun < 6
