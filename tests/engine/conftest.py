"""The nodes that the tests in here talk to: the real engine and the simulation of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.engine.contract import Caller
from tests.engine.processes import (
    RunningNode,
    engine_node,
    simulated_node,
    write_tiny_models,
)

KINDS = ("engine", "simulated")


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write tiny models and give their directories by id."""
    return write_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session", params=KINDS)
def node(request: pytest.FixtureRequest, tiny_models: dict[str, Path]) -> Iterator[RunningNode]:
    """Run a node of either kind that no test changes, and that answers at once."""
    with _started(request.param, tiny_models) as running:
        yield running


@pytest.fixture
def caller(node: RunningNode) -> Iterator[Caller]:
    """Give a client of `node`."""
    with Caller(node) as calling:
        yield calling


@pytest.fixture(params=KINDS)
def spare(request: pytest.FixtureRequest, tiny_models: dict[str, Path]) -> Iterator[Caller]:
    """Give a client of a node of either kind that this test alone uses, and may spoil."""
    with _started(request.param, tiny_models) as running, Caller(running) as calling:
        yield calling


@pytest.fixture(params=KINDS)
def tight(request: pytest.FixtureRequest, tiny_models: dict[str, Path]) -> Iterator[Caller]:
    """Give a client of a node of this test's own whose two chat models do not fit together.

    They are of one size; the second starts unloaded.
    """
    with _tight(request.param, tiny_models) as running, Caller(running) as calling:
        yield calling


def _tight(kind: str, models: dict[str, Path]) -> AbstractContextManager[RunningNode]:
    if kind == "simulated":
        return simulated_node(fast=True, memory_mb=8_192, cold=["acme/thinker"])
    sizes_mb = {"tiny/alpha": 60, "tiny/beta": 60, "tiny/embedding": 10}
    return engine_node(models, memory_mb=100, sizes_mb=sizes_mb, cold=["tiny/beta"])


def _started(kind: str, models: dict[str, Path]) -> AbstractContextManager[RunningNode]:
    return simulated_node(fast=True) if kind == "simulated" else engine_node(models)
