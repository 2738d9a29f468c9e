"""What a streamed chat shows of its wait, where the operator wants that."""

import json
from typing import Any

from cortexd.testing import SimulatedModel
from tests.support.fleets import MODEL, Client, FleetTestCase, InMemoryFleet
from tests.support.relays import OUR_COMMENT

COLD = "acme/cold"


def shown(client: Client) -> list[str]:
    """Return the thinking of each chunk so far."""
    deltas = [choice["delta"] for chunk in client.chunks() for choice in chunk["choices"]]
    return [delta["reasoning_content"] for delta in deltas if delta.get("reasoning_content")]


class WordsTests(FleetTestCase):
    def made(self, *, shows: bool, messages: bool = False) -> InMemoryFleet:
        cold = SimulatedModel(id=COLD, loaded=False, load_seconds=20.0)
        if messages:
            node: Any = self.messages_node("a", MODEL, token_seconds=10, max_sequences=1)
        else:
            node = self.node("a", MODEL, cold)
        settings = {"hold_seconds": 5, "keepalive_seconds": 5, "show_waiting": shows}
        return self.fleet(node, models={MODEL: {"max_concurrency": 1}}, **settings)

    def test_a_chat_shows_its_wait_as_thinking(self) -> None:
        """With each keep-alive until it has a replica, and never in its text."""
        fleet = self.made(shows=True)
        client = fleet.stream(model=COLD)
        fleet.advance(5.0)
        fleet.advance(5.0)
        assert 2 == len(shown(client))
        for line in shown(client):
            assert line.startswith("[cortexd] loading the model, about ")
        fleet.advance(30.0)
        assert ("clean", "You said: hi") == (client.ended, client.content())
        ids = {chunk["id"] for chunk in client.chunks()}
        roles = [c["choices"][0]["delta"].get("role") for c in client.chunks() if c["choices"]]
        assert 1 == len(ids)
        assert 1 == len([role for role in roles if role])

    def test_a_node_that_speaks_messages(self) -> None:
        """Its chats show the same."""
        fleet = self.made(shows=True, messages=True)
        fleet.stream()
        client = fleet.stream()
        fleet.advance(5.0)
        assert ["[cortexd] waiting for a turn"] == [
            line.partition(",")[0] for line in shown(client)
        ]
        fleet.advance(100.0)
        assert "clean" == client.ended

    def test_other_dialects_show_nothing(self) -> None:
        """Their clients would keep it as a part of the conversation."""
        fleet = self.made(shows=True)
        turns = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "stream": True}
        clients = [
            fleet.request("POST", path, json={"model": COLD, **body})
            for path, body in (
                ("/v1/messages", turns),
                ("/v1/responses", {"input": "hi", "stream": True}),
                ("/v1/completions", {"prompt": "hi", "stream": True}),
            )
        ]
        fleet.advance(10.0)
        for client in clients:
            assert 200 == client.status
            assert "[cortexd]" not in client.text()
        fleet.advance(30.0)

    def test_nothing_is_shown_by_default(self) -> None:
        """A comment keeps the stream alive, which no client shows."""
        fleet = self.made(shows=False)
        client = fleet.stream(model=COLD)
        fleet.advance(5.0)
        assert OUR_COMMENT == client.text()
        fleet.advance(30.0)
        assert "[cortexd]" not in json.dumps(client.chunks())
