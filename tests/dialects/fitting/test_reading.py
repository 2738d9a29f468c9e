from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.fitting.reading import newest_user_turn
from cortexd.dialects.wire.profile import MISTRALRS, Profile
from tests.dialects.fitting.conversations import ANSWER, IMAGE, URL
from tests.dialects.fitting.fitted import fitted, words_for

HELLO: dict[str, Any] = {"role": "user", "content": "hi"}
RESULT: dict[str, Any] = {"role": "tool", "tool_call_id": "a", "content": "ok"}


def answer(**fields: Any) -> dict[str, Any]:
    """Return what becomes of an assistant's message with these fields."""
    return fitted([HELLO, {"role": "assistant", **fields}], MISTRALRS)[1]


class ReadingTests(SynchronousTestCase):
    def test_one_reasoning(self) -> None:
        """Of the two names of thinking one goes up (nodes.md 4.1.5)."""
        for fields, thought in (
            ({"reasoning": "a", "reasoning_content": "a"}, "a"),
            ({"reasoning": "a", "reasoning_content": None}, "a"),
            ({"reasoning": None, "reasoning_content": ""}, None),
            ({"reasoning": {"effort": 1}}, None),
        ):
            found = answer(content="so", **fields)
            assert thought == found.get("reasoning_content")
            assert "reasoning" not in found

    def test_thinking_among_the_parts(self) -> None:
        """It is thinking, and no text."""
        parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "so"}]
        assert {"role": "assistant", "content": "so", "reasoning_content": "hm"} == answer(
            content=parts
        )

    def test_refusals(self) -> None:
        """A refusal is the text of an answer."""
        assert "no" == answer(content=None, refusal="no")["content"]

    def test_media_of_others(self) -> None:
        """Only a user shows something; elsewhere words say that it is missing."""
        found = answer(content=[{"type": "text", "text": "see"}, IMAGE])
        words = "see\n[image omitted: a message of the assistant has only text]"
        assert words == found["content"]

    def test_addresses(self) -> None:
        """What the operator does not let nodes fetch is told in an earlier turn."""
        far = {"type": "image_url", "image_url": "https://a.example/b"}
        shown = [{"role": "user", "content": [far]}, ANSWER]
        assert (
            "https://a.example/b" == fitted(shown, MISTRALRS)[0]["content"][0]["image_url"]["url"]
        )
        near = Profile(fetches_images=False)
        assert "[image omitted: images are not fetched here]" == fitted(shown, near)[0]["content"]
        data = [{"role": "user", "content": [IMAGE]}, ANSWER]
        assert URL == fitted(data, near)[0]["content"][0]["image_url"]["url"]

    def test_unknown_values(self) -> None:
        """They become words, and are named."""
        odd = {"role": "user", "content": [{"type": "hologram"}, 7, None, {"type": "x y"}]}
        assert (
            "[hologram omitted]\n7\n[x y omitted]" == fitted([odd, ANSWER], MISTRALRS)[0]["content"]
        )
        assert {"content.hologram", "content", "other_fields"} == words_for(
            [odd, ANSWER], MISTRALRS
        )
        assert "7" == fitted([{"role": "user", "content": 7}, ANSWER], MISTRALRS)[0]["content"]

    def test_newest_turn(self) -> None:
        """It is the last of the user's, unless an answer or a result stands beside it."""
        assert 2 == newest_user_turn([HELLO, ANSWER, HELLO, {"role": "system"}])
        assert 1 == newest_user_turn([HELLO, HELLO])
        for messages in ([HELLO, ANSWER], [HELLO, ANSWER, RESULT, HELLO], [7], []):
            assert -1 == newest_user_turn(messages)
