"""Engines that only a restart repairs: their agents restart them, and nobody notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.engine.processes import engine_arguments, simulated_node, write_tiny_models
from tests.engine.test_damage import resident_mb
from tests.live.agent.fleets import (
    ask,
    asking,
    cortexctl,
    gauge,
    has_agent,
    loaded,
    restarts_done,
)
from tests.live.agent.machines import (
    LINK_PORT,
    Machine,
    loopback_address,
    running_machine,
    spelt,
)
from tests.live.daemons import Daemon, eventually, running_daemon

MODEL = "tiny/alpha"
WEIGHT_MB = 400
KEPT_MB = 150
MEBIBYTE = 1024 * 1024
REPAIR = """
[agents]
listen = "{agents}"
[repair]
idle_seconds = 1.0
restart_budget = 100
"""


@dataclass(frozen=True)
class Fleet:
    """A daemon before a machine with an agent, a, and a simulated node without one, b."""

    daemon: Daemon
    machine: Machine
    models: tuple[str, ...]
    other_models: tuple[str, ...]


@pytest.fixture(scope="module", name="fleet")
def _fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    models = write_tiny_models(folder / "models")
    agents = loopback_address(LINK_PORT)
    arguments = engine_arguments(models, weights_mb={MODEL: WEIGHT_MB}, keep_mb=KEPT_MB)
    with ExitStack() as stack:
        machine = stack.enter_context(running_machine(folder, "a", agents, arguments))
        other = stack.enter_context(simulated_node(fast=True))
        extra = REPAIR.format(agents=spelt(agents))
        urls = {"a": machine.endpoint, "b": other.base_url}
        daemon = stack.enter_context(running_daemon(folder, urls, extra=extra))
        eventually(lambda: has_agent(daemon, "a"), "the greeting of the agent")
        yield Fleet(daemon, machine, tuple(sorted(models)), other.chat_models)


def leaked_mb(daemon: Daemon) -> float:
    """Return how much memory unloads have not freed so far, in MiB."""
    return gauge(daemon, "cortex_unload_leak_bytes_total", node="a") / MEBIBYTE


def leave_memory_behind(fleet: Fleet) -> None:
    """Unload a model twice; the load in between shows what it takes."""
    daemon = fleet.daemon
    for number in (1, 2):
        eventually(lambda: MODEL in loaded(daemon, "a"), "the load")
        cortexctl(daemon, "unload", MODEL, "--node", "a")
        # The order is answered as the unload begins, and the node takes no other until it ends.
        eventually(lambda: len(daemon.lines("unloaded")) >= number, "the unload")  # noqa: B023 - at once
        if number == 1:
            cortexctl(daemon, "load", MODEL, "--node", "a")
    # The gateway waits for some seconds whether the memory comes back late.
    leaked = eventually(lambda: leaked_mb(fleet.daemon), "the notice of a leak")
    assert KEPT_MB * 0.8 <= leaked <= KEPT_MB * 1.5


def make_stuck(fleet: Fleet) -> None:
    """Reload a loaded model past the gateway."""
    fleet.machine.brick(MODEL)


def poison(fleet: Fleet) -> None:
    """Let each chat fail from now on, as the first client notices."""
    fleet.machine.poison()
    assert 200 != ask(fleet.daemon, MODEL).status_code


@pytest.mark.parametrize("wear_out", [leave_memory_behind, make_stuck, poison])
def test_a_worn_engine_is_restarted(fleet: Fleet, wear_out: Callable[[Fleet], None]) -> None:
    """Once nobody asks for its models, and while clients ask for models of other nodes."""
    daemon, machine = fleet.daemon, fleet.machine
    eventually(lambda: loaded(daemon, "a") == list(fleet.models), "a whole node")
    before, worn = restarts_done(daemon, "a"), machine.engine_pid
    with asking(daemon, fleet.other_models) as ends:
        wear_out(fleet)
        eventually(lambda: restarts_done(daemon, "a") == before + 1, "a planned restart")
        boot = machine.engine_since(worn)
        assert boot is not None
        assert list(fleet.models) == loaded(daemon, "a")
        assert 200 == ask(daemon, MODEL).status_code
    assert {"ok"} == set(ends)
    assert 0 == gauge(daemon, "cortex_node_booked_bytes", node="a", kind="leaked")
    assert 0 == gauge(daemon, "cortex_node_restart_due", node="a")
    assert resident_mb(boot.pid) < 2 * WEIGHT_MB
    assert 200 == ask(daemon, MODEL).status_code
