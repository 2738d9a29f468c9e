from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.fitting import words
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import MISTRALRS, Profile
from tests.dialects.fitting.conversations import ANSWER, IMAGE
from tests.dialects.fitting.fitted import fitted, words_for

HELLO: dict[str, Any] = {"role": "user", "content": "hi"}
APART = Profile(alternate=False)


def call(call_id: str) -> dict[str, Any]:
    function = {"name": "look", "arguments": '{"at":"it"}'}
    return {"id": call_id, "type": "function", "function": function}


def calling(text: str, *ids: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text, "tool_calls": [call(each) for each in ids]}


def result(call_id: str, content: Any = "seen") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "name": "look", "content": content}


def shape(messages: list[JsonObject]) -> list[object]:
    """Return the roles, and the ids of calls and results in their place."""
    return [
        [each["id"] for each in message["tool_calls"]]
        if "tool_calls" in message
        else message.get("tool_call_id", message["role"])
        for message in messages
    ]


class TurnTests(SynchronousTestCase):
    def test_turns_of_one_side(self) -> None:
        """They are one turn where turns must alternate."""
        messages = [HELLO, HELLO, ANSWER, ANSWER]
        assert ["hi\n\nhi", "so\n\nso"] == [each["content"] for each in fitted(messages, MISTRALRS)]
        assert messages == fitted(messages, APART)

    def test_an_answer_at_the_front(self) -> None:
        """The user opens the conversation, unless the template takes turns in any order."""
        assert [words.OPENING, "so", "hi"] == [
            each["content"] for each in fitted([ANSWER, HELLO], MISTRALRS)
        ]
        assert [ANSWER, HELLO] == fitted([ANSWER, HELLO], APART)
        assert [words.OPENING, "so"] == [each["content"] for each in fitted([ANSWER], APART)]

    def test_a_question_after_a_result(self) -> None:
        """A template that wants an answer between the two gets one."""
        messages = [HELLO, calling("", "a"), result("a"), HELLO]
        assert messages == fitted(messages, MISTRALRS)
        strict = Profile(user_after_tool=False)
        assert ["user", ["a"], "a", "assistant", "user"] == shape(fitted(messages, strict))
        assert {"user_after_tool"} == words_for(messages, strict)
        assert messages[:3] == fitted(messages[:3], strict)

    def test_one_call_at_a_time(self) -> None:
        """Call, result, call, result; the text and the thinking are with the first."""
        profile = Profile(parallel_calls=False)
        first = calling("I look.", "a", "b") | {"reasoning_content": "hm"}
        found = fitted([HELLO, first, result("b"), result("a")], profile)
        assert ["user", ["a"], "a", ["b"], "b"] == shape(found)
        assert [("I look.", "hm"), ("", None)] == [
            (each["content"], each.get("reasoning_content")) for each in found[1::2]
        ]

    def test_text_beside_calls(self) -> None:
        """It is a turn before them, and the user's turn between if turns must alternate."""
        messages = [HELLO, calling("I look.", "a"), result("a")]
        for profile, expected in (
            (
                Profile(text_beside_calls=False, alternate=False),
                ["user", "assistant", ["a"], "a"],
            ),
            (Profile(text_beside_calls=False), ["user", "assistant", "user", ["a"], "a"]),
        ):
            found = fitted(messages, profile)
            assert expected == shape(found)
            assert "I look." == found[1]["content"]
            assert {"text_beside_calls"} == words_for(messages, profile)
        silent = [HELLO, calling("", "a"), result("a")]
        assert silent == fitted(silent, Profile(text_beside_calls=False))

    def test_a_template_without_calls(self) -> None:
        """They are told, and so are their results, in front of what the user says."""
        messages = [HELLO, calling("I look.", "a"), result("a", [IMAGE]), HELLO]
        _, told, answered = fitted(messages, Profile(tool_turns=False))
        assert 'I look.\n\n[I call the tool look with the arguments {"at":"it"}]' == told["content"]
        assert "tool_calls" not in told
        text, image, last = answered["content"]
        assert "[The tool look returned:]\n[image 1 attached below]" == text["text"]
        assert (IMAGE, "hi") == (image, last["text"])
