"""A picture never goes to a model that is known to be blind, whatever the route and the turn."""

import json
from typing import Any

from tests.support.fleets import MODEL
from tests.support.relays import RelayTestCase
from tests.testing.client import CHAT

DATA = "iVBORw0KGgo"
URL = f"data:image/png;base64,{DATA}"
PART = {"type": "image_url", "image_url": {"url": URL}}
BLOCK = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}
INPUT = {"type": "input_image", "image_url": URL}
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"
Turn = dict[str, Any]


def conversation(picture: Turn, text: Turn, *, is_newest: bool) -> list[Turn]:
    """Return turns of which the newest, or the first, has the picture."""
    shown = {"role": "user", "content": [text | {"text": "look"}, picture]}
    plain: list[Turn] = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    if is_newest:
        return [*plain, shown]
    return [shown, plain[1], {"role": "user", "content": "go on"}]


def bodies(*, is_newest: bool) -> dict[str, dict[str, Any]]:
    chat = conversation(PART, {"type": "text"}, is_newest=is_newest)
    messages = conversation(BLOCK, {"type": "text"}, is_newest=is_newest)
    items = conversation(INPUT, {"type": "input_text"}, is_newest=is_newest)
    return {
        CHAT: {"messages": chat},
        MESSAGES: {"messages": messages, "max_tokens": 9},
        RESPONSES: {"input": items, "store": False},
    }


class BlindTests(RelayTestCase):
    def test_newest_turn(self) -> None:
        """It is refused before any node is asked, as what it is."""
        fleet, node = self.alone(models={MODEL: {"vision": False}})
        for path, body in bodies(is_newest=True).items():
            client = fleet.request("POST", path, json={"model": MODEL, **body})
            assert 400 == client.status, path
            assert "model has no vision" in client.json()["error"]["message"]
        assert [] == node.requests

    def test_earlier_turn(self) -> None:
        """It becomes words, since a refusal would end the conversation."""
        fleet, node = self.alone(models={MODEL: {"vision": False}})
        for path, body in bodies(is_newest=False).items():
            fleet.request("POST", path, json={"model": MODEL, **body})
            sent = json.dumps(node.newest_body)
            assert DATA not in sent, path
            assert "look" in sent
            node.answer(422, b"no")
            fleet.flush()

    def test_learned(self) -> None:
        """So it is once a node has said that the model is blind."""
        fleet, node = self.alone()
        for path, body in bodies(is_newest=True).items():
            fleet.request("POST", path, json={"model": MODEL, **body})
            if path == CHAT:
                node.answer(500, b'{"message":"This model does not support images."}')
                fleet.flush()
        assert 1 == len(node.requests)
