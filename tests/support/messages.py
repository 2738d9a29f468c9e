"""Messages requests to the whole gateway, before a node whose answers a test writes."""

from collections.abc import Mapping

from tests.dialects.node_answers import USAGE, chat_chunk, stream
from tests.support.fleets import MODEL, Client, InMemoryFleet
from tests.support.scripted import ScriptedNode

MESSAGES = "/v1/messages"
HELLO = [{"role": "user", "content": "hi"}]
WEATHER = {"name": "weather", "input_schema": {"type": "object", "properties": {}}}
END = chat_chunk(finish="stop", usage=USAGE)


def ask(
    fleet: InMemoryFleet,
    *,
    headers: Mapping[str, str | list[str]] | None = None,
    path: str = MESSAGES,
    **fields: object,
) -> Client:
    body = {"model": MODEL, "max_tokens": 9, "messages": HELLO, **fields}
    return fleet.request("POST", path, json=body, headers=headers)


def answer(node: ScriptedNode, fleet: InMemoryFleet, *chunks: object) -> None:
    """Answer the node's newest request with these chunks and the end of a stream."""
    node.stream(stream(*chunks), end=True)
    fleet.flush()
