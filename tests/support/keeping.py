"""Nodes that store state for clients, behind a gateway, and requests to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cortexd.testing import SimulatedNode
from tests.support.fleets import MODEL, Client, FleetTestCase, InMemoryFleet
from tests.testing.client import CHAT
from tests.testing.kept_client import MULTIPART, multipart

FILES = "/v1/files"
OF_A, OF_B = "acme/of-a", "acme/of-b"


def upload(fleet: InMemoryFleet, model: str = "", **fields: str) -> Client:
    """POST a file, with ``model`` in the query unless it is empty."""
    query = f"?model={model}" if model else ""
    body = multipart(**{"purpose": "user_data", **fields})
    return fleet.request("POST", FILES + query, body=body, headers=MULTIPART)


def uploaded(fleet: InMemoryFleet, model: str = "") -> str:
    """POST a file and return its id."""
    client = upload(fleet, model)
    assert 200 == client.status, client.body
    name: str = client.json()["id"]
    return name


def ask_of_files(fleet: InMemoryFleet, *names: str, **fields: object) -> Client:
    """POST a chat whose one message names files."""
    parts = [{"type": "file", "file": {"file_id": name}} for name in names]
    content = [{"type": "text", "text": "read"}, *parts]
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}
    return fleet.request("POST", CHAT, json=body)


def node_of(client: Client) -> str:
    assert 200 == client.status, client.body
    return client.headers["x-cortex-node"]


def delete(fleet: InMemoryFleet, path: str) -> Client:
    return fleet.request("DELETE", path)


class StateTestCase(FleetTestCase):
    def two_nodes(self, **settings: Any) -> tuple[InMemoryFleet, Mapping[str, SimulatedNode]]:
        """Make two nodes, each with its own model, and with one model that both have."""
        nodes = {"a": self.node("a", MODEL, OF_A), "b": self.node("b", MODEL, OF_B)}
        return self.fleet(*nodes.values(), **settings), nodes

    def asked(self, nodes: Mapping[str, SimulatedNode]) -> list[int]:
        return [len(node.journal.requests()) for node in nodes.values()]

    def unload(self, fleet: InMemoryFleet, node: SimulatedNode, *models: str) -> None:
        for model in models:
            node.running_process.unload(model)
        fleet.poll()
