"""The openai SDK as a client of a daemon, and short ways to ask and to read."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from openai import OpenAI

from tests.engine.contract import WEATHER_TOOL
from tests.engine.processes import RunningNode
from tests.live.daemons import Daemon
from tests.live.sdk import clients
from tests.live.sdk.clients import ANSWER_SECONDS

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


Served = clients.Served[OpenAI]


def client(daemon: Daemon) -> OpenAI:
    return OpenAI(
        base_url=f"{daemon.base_url}/v1", api_key="any", max_retries=0, timeout=ANSWER_SECONDS
    )


def serving(folder: Path, node: RunningNode, **options: Any) -> AbstractContextManager[Served]:
    """Run a daemon before a node, and an SDK client of it; ``options`` as ``running_daemon``."""
    return clients.serving(client, folder, node, **options)


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
