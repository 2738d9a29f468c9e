"""The openai SDK as a client of a daemon, and short ways to ask and to read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI

from tests.engine.contract import WEATHER_TOOL
from tests.engine.processes import RunningNode
from tests.live.daemons import Daemon, running_daemon

ANSWER_SECONDS = 30.0
WEATHER: Any = WEATHER_TOOL
TIDES: Any = {
    "type": "function",
    "function": {
        "name": "get_tides",
        "parameters": {
            "type": "object",
            "properties": {"harbour": {"type": "string"}},
            "required": ["harbour"],
        },
    },
}


@dataclass(frozen=True)
class Served:
    """An SDK client of a daemon that serves one node."""

    sdk: OpenAI
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


def client(daemon: Daemon) -> OpenAI:
    return OpenAI(
        base_url=f"{daemon.base_url}/v1", api_key="any", max_retries=0, timeout=ANSWER_SECONDS
    )


def said(*content: Any) -> Any:
    """Return a conversation of one user turn: its text alone, or its parts."""
    is_text = isinstance(content[0], str)
    return [{"role": "user", "content": content[0] if is_text else list(content)}]


def asked_of(sdk: OpenAI, *, streamed: bool, **asked: Any) -> Any:
    """Return the only choice, of the answer or of what the SDK puts together from a stream."""
    if streamed:
        with sdk.chat.completions.stream(**asked) as stream:
            answer: Any = stream.get_final_completion()
    else:
        answer = sdk.chat.completions.create(**asked)
    (choice,) = answer.choices
    return choice


def followed_up(conversation: Any, message: Any, *results: str) -> Any:
    """Return the conversation, the calls the model made, and one result for each."""
    turn = message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"})
    answers = [
        {"role": "tool", "tool_call_id": call.id, "content": result}
        for call, result in zip(message.tool_calls, results, strict=True)
    ]
    return [*conversation, turn, *answers]
