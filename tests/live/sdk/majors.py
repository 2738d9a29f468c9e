"""What differs between the majors of the SDKs: how a run knows them, and how it loses a daemon."""

from __future__ import annotations

import signal
from importlib.metadata import version
from pathlib import Path

import anthropic
import openai

from tests.engine.processes import simulated_node
from tests.live.daemons import KILLED
from tests.live.sdk import anthropic_sdk, openai_sdk
from tests.live.sdk.clients import said

# Much longer, at 50 words a second, than it takes to lose the daemon.
WORDS = "word " * 100


def majors() -> dict[str, int]:
    """Return the majors of the SDKs that are imported, by name."""
    imported = {"openai": openai.__version__, "anthropic": anthropic.__version__}
    assert imported == {name: version(name) for name in imported}
    return {name: int(told.split(".")[0]) for name, told in imported.items()}


def lose_a_chat(folder: Path) -> None:
    """Kill the daemon while the openai SDK reads a stream; raises what the SDK then raises."""
    with simulated_node(fast=False) as node, openai_sdk.serving(folder, node) as served:
        served.daemon.expected_status = KILLED
        with served.sdk.chat.completions.create(
            model=served.model, messages=said(WORDS), stream=True
        ) as stream:
            next(stream)
            served.daemon.signal(signal.SIGKILL)
            list(stream)


def lose_a_message(folder: Path) -> None:
    """Kill the daemon while the anthropic SDK reads a stream; raises what the SDK then raises."""
    with simulated_node(fast=False) as node, anthropic_sdk.serving(folder, node) as served:
        served.daemon.expected_status = KILLED
        with served.sdk.messages.create(
            model=served.model,
            max_tokens=1000,
            messages=said(WORDS),
            stream=True,
        ) as stream:
            next(stream)
            served.daemon.signal(signal.SIGKILL)
            list(stream)
