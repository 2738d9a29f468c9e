"""The anthropic SDK as a client of a daemon, and short ways to ask and to read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anthropic import Anthropic

from tests.engine.contract import WEATHER_TOOL
from tests.engine.processes import RunningNode
from tests.live.daemons import Daemon, running_daemon

ANSWER_SECONDS = 30.0
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


@dataclass(frozen=True)
class Served:
    """An SDK client of a daemon that serves one node."""

    sdk: Anthropic
    node: RunningNode
    daemon: Daemon

    @property
    def model(self) -> str:
        """The id of a chat model; it holds a slash."""
        return self.node.chat_models[0]

    @property
    def thinker(self) -> str:
        """The id of the simulated node's model that thinks."""
        return self.node.chat_models[1]


@contextmanager
def serving(folder: Path, node: RunningNode, **options: Any) -> Iterator[Served]:
    """Run a daemon before a node, and an SDK client of it; ``options`` as ``running_daemon``."""
    with (
        running_daemon(folder, {"node": node.base_url}, **options) as daemon,
        client(daemon) as sdk,
    ):
        yield Served(sdk, node, daemon)


def client(daemon: Daemon) -> Anthropic:
    return Anthropic(base_url=daemon.base_url, api_key="any", max_retries=0, timeout=ANSWER_SECONDS)


def said(*content: Any) -> Any:
    """Return a conversation of one user turn: its text alone, or its blocks."""
    is_text = isinstance(content[0], str)
    return [{"role": "user", "content": content[0] if is_text else list(content)}]


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
