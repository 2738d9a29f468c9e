"""The metrics of agents and of what they report: read from the fleet at each scrape.

A node without an agent has one series, which says so. Devices have their position for a label,
because their names come from the agent, and two of them may have the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from twisted.internet.interfaces import IReactorTime

from cortexd.fleet.agents import EngineLife
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node
from cortexd.telemetry.exposition import Family, Line, eager

MEBIBYTE: Final = 1024 * 1024

MOST_DEVICES: Final = 32
"""How many devices of a node are shown: an agent that names more is wrong."""


class DeclaredForAgents(NamedTuple):
    """One metric of agents, as Prometheus shows it; the first label is the node."""

    name: str
    documentation: str
    kind: str
    labels: tuple[str, ...]


AGENT_METRICS: Final = (
    DeclaredForAgents(
        "cortex_agent_up", "1 while the node's agent is connected.", "gauge", ("node",)
    ),
    DeclaredForAgents(
        "cortex_agent_report_age_seconds",
        "Time since the agent's last report; it sends one when what it sees has changed.",
        "gauge",
        ("node",),
    ),
    DeclaredForAgents(
        "cortex_device_memory_bytes",
        "Memory of one accelerator, as the agent sees it, by kind: 'total', 'free', 'engine' or "
        "'others', which is what other programs take.",
        "gauge",
        ("node", "device", "kind"),
    ),
    DeclaredForAgents(
        "cortex_engine_up", "1 while the agent sees that the engine answers.", "gauge", ("node",)
    ),
    DeclaredForAgents(
        "cortex_engine_resident_memory_bytes",
        "Memory of the machine that the engine's process takes.",
        "gauge",
        ("node",),
    ),
    DeclaredForAgents(
        "cortex_engine_cpu_seconds",
        "Time of processors that the engine's process has used.",
        "counter",
        ("node",),
    ),
    DeclaredForAgents(
        "cortex_engine_exits",
        "Processes of the engine that have ended since its agent began to watch.",
        "counter",
        ("node",),
    ),
)
"""Every metric of agents, in the order of the exposition; ``families`` fills them in this order."""


class AgentCollector(Collector):
    """Yields what the agents of a ``fleet`` have reported."""

    def __init__(self, fleet: Fleet, clock: IReactorTime) -> None:
        self._fleet = fleet
        self._clock = clock

    def describe(self) -> list[Metric]:
        """Return the families without samples, by which the registry learns their names."""
        return [Metric(each.name, each.documentation, each.kind) for each in AGENT_METRICS]

    def collect(self) -> Iterator[Metric]:
        """Return the families, each with its samples."""
        return eager(self.families())

    def families(self) -> Iterator[Family]:
        """Yield the same families; their samples are read one by one."""
        readers = (_up, self._ages, _devices, _answers, _resident, _used, _exits)
        for declared, read in zip(AGENT_METRICS, readers, strict=True):
            samples = self._samples(declared, read)
            yield Family(declared.name, declared.documentation, declared.kind, samples)

    def _samples(
        self, declared: DeclaredForAgents, read: Callable[[Node], Iterator[Any]]
    ) -> Iterator[Line]:
        name = f"{declared.name}_total" if declared.kind == "counter" else declared.name
        for node in list(self._fleet.nodes.values()):
            for *labels, value in read(node):
                values = (node.name, *labels)
                yield Line(name, dict(zip(declared.labels, values, strict=True)), float(value))

    def _ages(self, node: Node) -> Iterator[Any]:
        if node.report is not None:
            yield (max(0.0, self._clock.seconds() - node.reported_at),)


def _up(node: Node) -> Iterator[Any]:
    yield (node.agent is not None,)


def _devices(node: Node) -> Iterator[Any]:
    devices = () if node.report is None else node.report.devices
    for position, device in enumerate(islice(devices, MOST_DEVICES)):
        for kind, amount in (
            ("total", device.total_mb),
            ("free", device.free_mb),
            ("engine", device.engine_mb),
            ("others", device.others_mb),
        ):
            if amount is not None:
                yield str(position), kind, amount * MEBIBYTE


def _answers(node: Node) -> Iterator[Any]:
    if node.report is not None and node.report.life is not EngineLife.UNKNOWN:
        yield (node.report.life is EngineLife.ANSWERS,)


def _resident(node: Node) -> Iterator[Any]:
    if node.report is not None and node.report.process is not None:
        yield (node.report.process.rss_mb * MEBIBYTE,)


def _used(node: Node) -> Iterator[Any]:
    if node.report is not None and node.report.process is not None:
        yield (node.report.process.cpu_seconds,)


def _exits(node: Node) -> Iterator[Any]:
    if node.report is not None and node.report.process is not None:
        yield (node.report.process.restarts,)
