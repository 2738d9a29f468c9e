"""The anthropic SDK as a client of a daemon, and short ways to ask and to read."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from anthropic import Anthropic

from tests.engine.contract import WEATHER_TOOL
from tests.engine.processes import RunningNode
from tests.live.daemons import Daemon
from tests.live.sdk import clients
from tests.live.sdk.clients import ANSWER_SECONDS, said

_FUNCTION = WEATHER_TOOL["function"]
WEATHER: Any = {
    "name": _FUNCTION["name"],
    "description": _FUNCTION["description"],
    "input_schema": _FUNCTION["parameters"],
}
TIDES: Any = {
    "name": "get_tides",
    "input_schema": {
        "type": "object",
        "properties": {"harbour": {"type": "string"}},
        "required": ["harbour"],
    },
}


Served = clients.Served[Anthropic]


def client(daemon: Daemon) -> Anthropic:
    return Anthropic(base_url=daemon.base_url, api_key="any", max_retries=0, timeout=ANSWER_SECONDS)


def serving(folder: Path, node: RunningNode, **options: Any) -> AbstractContextManager[Served]:
    """Run a daemon before a node, and an SDK client of it; ``options`` as ``running_daemon``."""
    return clients.serving(client, folder, node, **options)


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def asked_of(sdk: Anthropic, *, streamed: bool, **asked: Any) -> Any:
    """Return the whole message, as the answer or as the SDK puts it together from a stream."""
    if not streamed:
        return sdk.messages.create(**asked)
    with sdk.messages.stream(**asked) as stream:
        return stream.get_final_message()


def followed_up(conversation: Any, blocks: Any, *content: Any) -> Any:
    """Return the conversation, the blocks the model answered, and one more turn of the user."""
    return [*conversation, {"role": "assistant", "content": blocks}, *said(*content)]


def kinds(message: Any) -> list[str]:
    return [block.type for block in message.content]


def only_text(message: Any) -> str:
    (block,) = message.content
    assert "text" == block.type
    words: str = block.text
    return words
