"""An SDK as the client of a daemon: what the suites of both SDKs are run with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest

from tests.engine.processes import RunningNode, engine_node, simulated_node, write_tiny_models
from tests.live.daemons import Daemon, running_daemon
from tests.live.sdk import broken_node

ANSWER_SECONDS = 30.0
FAULTS = [broken_node.EOF, broken_node.PLAIN_ERROR, broken_node.JSON_ERROR, broken_node.RESET]

# Of the one node of a configuration: its keys come last.
_SPEAKS_MESSAGES = 'dialect = "anthropic"'

Sdk = TypeVar("Sdk")
Connect = Callable[[Daemon], AbstractContextManager[Sdk]]
"""Makes an SDK's client of a daemon."""


@dataclass(frozen=True)
class Served(Generic[Sdk]):
    """An SDK client of a daemon that serves one node."""

    sdk: Sdk
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
def serving(
    connect: Connect[Sdk], folder: Path, node: RunningNode, **options: Any
) -> Iterator[Served[Sdk]]:
    """Run a daemon before a node, and an SDK client of it; ``options`` as ``running_daemon``."""
    with (
        running_daemon(folder, {"node": node.base_url}, **options) as daemon,
        connect(daemon) as sdk,
    ):
        yield Served(sdk, node, daemon)


@contextmanager
def serving_kind(
    connect: Connect[Sdk], folder: Path, request: pytest.FixtureRequest
) -> Iterator[Served[Sdk]]:
    """Run a daemon before a node of the kind that is the fixture's parameter: one of KINDS."""
    if request.param == "simulated":
        with serving(connect, folder, request.getfixturevalue("fast_node")) as served:
            yield served
    else:
        models = write_tiny_models(folder / "models")
        with engine_node(models) as node, serving(connect, folder, node) as served:
            yield served


KINDS = ["simulated", "engine"]


@contextmanager
def serving_messages(connect: Connect[Sdk], folder: Path) -> Iterator[Served[Sdk]]:
    """Run a daemon before a simulated node that speaks the Messages API alone."""
    with (
        simulated_node(fast=True, messages_only=True) as node,
        serving(connect, folder, node, extra=_SPEAKS_MESSAGES) as served,
    ):
        yield served


@contextmanager
def serving_broken(connect: Connect[Sdk], folder: Path, **gateway: object) -> Iterator[Sdk]:
    """Run a daemon before a node that breaks its answers, and yield an SDK client of it.

    ``gateway`` as ``running_daemon``.
    """
    with (
        broken_node.broken_node() as node,
        running_daemon(folder, {"broken": node.base_url}, gateway=gateway) as daemon,
        connect(daemon) as sdk,
    ):
        yield sdk


def said(*content: Any) -> Any:
    """Return a conversation of one user turn: its text alone, or its parts."""
    is_text = isinstance(content[0], str)
    return [{"role": "user", "content": content[0] if is_text else list(content)}]
