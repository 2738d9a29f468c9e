"""Conversations by ``/v1/responses`` at a gateway in memory, with stored responses on a disk."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from cortexd.sse import SseDecoder
from tests.support.fleets import MODEL, Client, FleetTestCase, InMemoryFleet

RESPONSES = "/v1/responses"


def respond(fleet: InMemoryFleet, text: str = "hi", **fields: object) -> Client:
    """POST a request for a response."""
    return fleet.request("POST", RESPONSES, json={"model": MODEL, "input": text, **fields})


def shown(fleet: InMemoryFleet, name: str, rest: str = "") -> Client:
    """GET a response, or what ``rest`` of its path names."""
    return fleet.get(f"{RESPONSES}/{name}{rest}")


def status_of(fleet: InMemoryFleet, name: str) -> Any:
    """Return the status of a stored response."""
    return shown(fleet, name).json()["status"]


def cancel(fleet: InMemoryFleet, name: str) -> Client:
    """POST the cancellation of a response."""
    return fleet.request("POST", f"{RESPONSES}/{name}/cancel")


def events_of(client: Client) -> list[Any]:
    """Return the events that a client got in a stream."""
    return [json.loads(event.data) for event in SseDecoder().feed(client.body)]


def last_response(client: Client) -> Any:
    """Return the response in the last event of a stream."""
    return events_of(client)[-1]["response"]


def said(response: Any) -> str:
    """Return the text of a response."""
    text: str = response["output"][-1]["content"][0]["text"]
    return text


class ConversationTestCase(FleetTestCase):
    """Has a state directory, in which the responses of its fleets are stored."""

    def setUp(self) -> None:
        super().setUp()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.state_dir = Path(temporary.name)

    def stored(self, *nodes: Any, **settings: Any) -> InMemoryFleet:
        """Make a fleet that stores responses in the state directory."""
        return self.fleet(*nodes, state_dir=str(self.state_dir), **settings)

    def restarted(self, **settings: Any) -> InMemoryFleet:
        """Make the fleet of another daemon, which finds what the last one has written until now.

        It has another node, "b", and a Clock of its own.
        """
        last = self.state_dir
        self.setUp()
        shutil.copytree(last, self.state_dir, dirs_exist_ok=True)
        return self.stored(self.node("b"), **settings)

    def prompts(self, fleet: InMemoryFleet, node: str) -> list[list[str]]:
        """Return the texts of the messages of each chat that a simulated node got."""
        simulated: Any = fleet.nodes[node]
        bodies = [
            entry.detail["body"] for entry in simulated.journal.requests("/v1/chat/completions")
        ]
        return [[message["content"] for message in body["messages"]] for body in bodies]
