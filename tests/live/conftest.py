"""The nodes that live tests put a daemon before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.processes import RunningNode, simulated_node


@pytest.fixture(scope="session")
def fast_node() -> Iterator[RunningNode]:
    """Run a simulated node that answers without any waiting."""
    with simulated_node(fast=True) as node:
        yield node


@pytest.fixture(scope="session")
def slow_node() -> Iterator[RunningNode]:
    """Run a simulated node that makes 50 tokens a second."""
    with simulated_node(fast=False) as node:
        yield node
