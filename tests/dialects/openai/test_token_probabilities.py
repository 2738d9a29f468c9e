from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes.chat_stream import Identity
from cortexd.dialects.openai.chat_answer import whole_answer
from cortexd.dialects.openai.token_probabilities import as_text_probabilities, settle_probabilities
from cortexd.dialects.wire.json_values import decode, encode

# As a node tells them (nodes.md 4.1).
NODES = {
    "token": "é",
    "logprob": -0.5,
    "bytes": [195, 169],
    "top_logprobs": [
        {"token": 84, "logprob": -0.5, "bytes": "é"},
        {"token": 7, "logprob": -1.5, "bytes": None},
    ],
}
OURS = NODES | {
    "top_logprobs": [
        {"token": "é", "logprob": -0.5, "bytes": [195, 169]},
        {"token": "token_id:7", "logprob": -1.5, "bytes": None},
    ],
}


def settled(logprobs: Any) -> Any:
    choice = {"index": 0, "logprobs": decode(encode(logprobs))}
    settle_probabilities(choice)
    return choice["logprobs"]


class ProbabilitiesTests(SynchronousTestCase):
    def test_a_stream_s(self) -> None:
        """A bare token becomes a list, and the others of its place have texts and bytes."""
        assert {"content": [OURS], "refusal": None} == settled(NODES)

    def test_a_whole_answer_s(self) -> None:
        """A list keeps its place, and what is right already is left alone."""
        assert {"content": [OURS, OURS]} == settled({"content": [NODES, OURS]})

    def test_what_is_not_known(self) -> None:
        """None, and shapes of which nothing is known, stay as they are."""
        for logprobs in (None, {}, {"content": None}, {"content": [1]}, {"content": 7}, "x"):
            assert logprobs == settled(logprobs)

    def test_an_answer_that_is_passed_on(self) -> None:
        """An answer that the node gave whole is settled in each of its choices."""
        choices = [
            {"index": index, "finish_reason": "stop", "logprobs": {"content": [NODES]}}
            for index in range(2)
        ]
        responder = whole_answer(Identity("chatcmpl-ours", 1, "acme/chat"))
        answer = decode(responder.take_body(encode({"id": "1", "choices": choices})))

        assert [{"content": [OURS]}] * 2 == [choice["logprobs"] for choice in answer["choices"]]
        assert ("chatcmpl-ours", "acme/chat") == (answer["id"], answer["model"])


def of_text(text: str, logprobs: Any, begins_at: int = 0) -> Any:
    choice = {"index": 0, "text": text, "logprobs": decode(encode(logprobs))}
    as_text_probabilities(choice, begins_at)
    return choice["logprobs"]


class TextProbabilitiesTests(SynchronousTestCase):
    def test_the_shape(self) -> None:
        """A text completion has a list for each thing that is told of its tokens."""
        others = {"é": -0.5, "token_id:7": -1.5}
        bare = {"token": "ab", "logprob": -1.0, "bytes": [97, 98], "top_logprobs": []}

        assert {
            "tokens": ["é", "ab"],
            "token_logprobs": [-0.5, -1.0],
            "top_logprobs": [others, {}],
            "text_offset": [0, 1],
        } == of_text("éab", {"content": [NODES, bare]})

    def test_places(self) -> None:
        """Offsets go on from what the stream has brought, and from a prompt that is echoed."""
        assert [7] == of_text("é", NODES, begins_at=7)["text_offset"]
        assert [3, 4] == of_text("oncéé", {"content": [NODES, NODES]})["text_offset"]
        assert [] == of_text("once", {"content": []})["text_offset"]

    def test_what_is_not_known(self) -> None:
        """None, and shapes of which nothing is known, stay as they are."""
        for logprobs in (None, {"content": None}, {"content": 7}, "x"):
            assert logprobs == of_text("x", logprobs)

    def test_what_is_right_already(self) -> None:
        """The shape of OpenAI's stays what it is: there are servers that tell it so."""
        ours = {
            "tokens": ["x"],
            "token_logprobs": [-0.5],
            "top_logprobs": [{"x": -0.5}],
            "text_offset": [0],
        }
        assert ours == of_text("x", ours, begins_at=7)
