"""Messages whose prompts are counted, too long, or have images for a model that cannot see."""

import json

from tests.covers import covers
from tests.dialects.message_answers import events_of
from tests.dialects.node_answers import USAGE, chat_chunk
from tests.support.fleets import MODEL, Client, InMemoryFleet
from tests.support.messages import END, HELLO, WEATHER, answer, ask
from tests.support.relays import RelayTestCase

COUNT_TOKENS = "/v1/messages/count_tokens"
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}


class CountTests(RelayTestCase):
    def count(self, fleet: InMemoryFleet, model: str = MODEL, text: str = "a" * 8_000) -> int:
        messages = [{"role": "user", "content": text}]
        client = fleet.request("POST", COUNT_TOKENS, json={"model": model, "messages": messages})
        assert (200, "estimate") == (client.status, client.headers["x-cortex-token-count"])
        assert {"input_tokens"} == client.json().keys()
        tokens: int = client.json()["input_tokens"]
        return tokens

    @covers("T32")
    def test_no_node_is_asked(self) -> None:
        """A count is 200 for every model, loaded or heard of or not, and costs no node anything."""
        fleet, node = self.alone(models={MODEL: {"aliases": ["claude-local"]}})
        for model in (MODEL, "claude-local", "default", "claude-unheard-of"):
            assert 2_000 < self.count(fleet, model) < 2_400
        assert [] == node.requests

    def test_images_count_as_configured(self) -> None:
        """By any of the model's names; other models have the usual size."""
        fleet, _ = self.alone(models={MODEL: {"aliases": ["claude-local"], "image_tokens": 90_000}})
        image = {"type": "image", "source": PNG}
        messages = [{"role": "user", "content": [image]}]
        for model, least in (
            ("claude-local", 90_000),
            (MODEL, 90_000),
            ("claude-unheard-of", 1_600),
        ):
            body = {"model": model, "messages": messages}
            counted = fleet.request("POST", COUNT_TOKENS, json=body).json()["input_tokens"]
            assert least < counted < least + 100

    def test_the_ratio_is_learned(self) -> None:
        """What the node counts of real prompts draws the count of its model to it."""
        fleet, node = self.alone(models={MODEL: {"aliases": ["claude-local"]}})
        first = self.count(fleet)
        usage = USAGE | {"prompt_tokens": 8_000}
        for _ in range(10):
            client = ask(fleet, messages=[{"role": "user", "content": "b" * 16_000}])
            answer(node, fleet, chat_chunk("a", finish="stop", usage=usage))
            assert 200 == client.status

        learned = self.count(fleet)
        assert 1.7 * first < learned < 4_010
        assert learned == self.count(fleet, "claude-local")
        assert first == self.count(fleet, "claude-unheard-of")
        streamed = ask(fleet, stream=True, messages=[{"role": "user", "content": "a" * 8_000}])
        answer(node, fleet, chat_chunk("a"), END)
        begun = events_of(streamed.body)[0][1]["message"]
        assert abs(learned - begun["usage"]["input_tokens"]) <= 1

    def test_what_teaches_nothing(self) -> None:
        """Images count by a constant, and a node that did not count says nothing of its model."""
        fleet, node = self.alone()
        first = self.count(fleet)
        image = {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"},
        }
        for content, usage in (
            ([image, {"type": "text", "text": "b" * 9_000}], USAGE | {"prompt_tokens": 9_000}),
            ("b" * 9_000, None),
            ("b" * 9_000, {"completion_tokens": 4}),
        ):
            ask(fleet, messages=[{"role": "user", "content": content}])
            answer(node, fleet, chat_chunk("a", finish="stop", usage=usage))

        assert first == self.count(fleet)


class OverflowTests(RelayTestCase):
    @covers("5 context overflow", "T36")
    def test_numbers(self) -> None:
        """What the node's words lack is taken from the profile and our own estimate.

        A chat client gets the node's own words, and the code.
        """
        fleet, node = self.alone(models={MODEL: {"context_window": 2_000}})
        for text, said, expected in (
            ("a" * 36_000, b'{"message":"prompt is too long"}', ("1000", "2000")),
            ("hi", b'{"message":"prompt is too long"}', ("2001", "2000")),
            (
                "hi",
                b'{"message":"maximum context length is 64 tokens, you asked for 99"}',
                ("99", "64"),
            ),
            ("a" * 360, b'{"message":"Prompt sequence length is greater than 64"}', ("1", "64")),
        ):
            messages = [{"role": "user", "content": text}]
            client = ask(fleet, messages=messages)
            node.answer(422, said)
            fleet.flush()
            error = client.json()["error"]
            assert (400, "invalid_request_error") == (client.status, error["type"])
            asked_for, limit = expected
            words, numbers = error["message"].split(": ")
            tokens, unit, more, most, maximum = numbers.split(" ")
            assert ("prompt is too long", "tokens", ">", limit, "maximum") == (
                words,
                unit,
                more,
                most,
                maximum,
            )
            assert tokens.startswith(asked_for)
            assert int(tokens) > int(limit)
            chat = fleet.chat(text)
            node.answer(422, said)
            fleet.flush()
            assert (400, "context_length_exceeded", json.loads(said)["message"]) == (
                chat.status,
                chat.json()["error"]["code"],
                chat.json()["error"]["message"],
            )

    @covers("5 context overflow")
    def test_in_a_stream(self) -> None:
        """A node tells of it in a stream that has begun: before anything was told it is a 400."""
        fleet, node = self.alone(hold_seconds=5, models={MODEL: {"context_window": 2_000}})
        words = b"data: The prompt is longer than the context\n\n"
        early = ask(fleet, stream=True)
        node.stream(words, end=True)
        fleet.flush()
        assert (400, "prompt is too long: 2001 tokens > 2000 maximum") == (
            early.status,
            early.json()["error"]["message"],
        )

        late = ask(fleet, stream=True)
        fleet.advance(5)
        node.stream(words, end=True)
        fleet.flush()
        assert {
            "type": "invalid_request_error",
            "message": "prompt is too long: 2001 tokens > 2000 maximum",
        } == events_of(late.body)[-1][1]["error"]


class BlindModelTests(RelayTestCase):
    SEEN = (
        *HELLO,
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t", "name": "weather", "input": {}}],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "content": [{"type": "image", "source": PNG}],
                }
            ],
        },
    )

    def looked(self, fleet: InMemoryFleet) -> Client:
        """Ask with a picture that a tool brought back, which stays in the conversation."""
        return ask(fleet, messages=self.SEEN, tools=[WEATHER])

    @covers("2.2 tool_result with images")
    def test_a_node_tells_that_its_model_cannot_see(self) -> None:
        """It costs the client one request: from then on the model is told of pictures in words."""
        fleet, node = self.alone()
        first = self.looked(fleet)
        node.answer(500, b'{"message":"This model does not support images."}')
        fleet.flush()
        second = self.looked(fleet)
        told = node.newest_body["messages"][-1]
        answer(node, fleet, chat_chunk("all right"), END)

        assert (400, 200) == (first.status, second.status)
        assert ("tool", "[image omitted: model has no vision]") == (told["role"], told["content"])
        assert "tool_result_image" in second.headers["x-cortex-translation"]
        assert [MODEL] == [line["model"] for line in fleet.events("model_cannot_see")]

    def test_what_waited_meanwhile(self) -> None:
        """A request that was translated before the node told is sent as it is."""
        fleet, node = self.alone(models={MODEL: {"max_concurrency": 1}})
        ask(fleet)
        waits = ask(fleet)
        fleet.parts.profiles.note_blind(MODEL)
        for _ in range(2):
            answer(node, fleet, chat_chunk("hi"), END)

        assert (2, 200) == (len(node.requests), waits.status)
