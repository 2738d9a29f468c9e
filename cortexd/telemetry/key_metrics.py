"""The metrics of each key: read from the meters at each scrape.

A label's values are the names in the keys file, and no client can choose them. Requests without a
key are not among these metrics. The series of a key that is removed go with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cortexd.access.limits import Limit
from cortexd.access.usage import Usage
from cortexd.telemetry.exposition import Family, Line, eager


class KeyFigures(NamedTuple):
    """What the metrics show of one key, since the start of this process."""

    name: str
    usage: Usage
    running: int
    refused: Mapping[Limit, int]


class DeclaredForKeys(NamedTuple):
    """One metric of keys, as Prometheus shows it; the first label is the key."""

    name: str
    documentation: str
    kind: str
    labels: tuple[str, ...]


KEY_METRICS: Final = (
    DeclaredForKeys(
        "cortex_key_requests", "Requests that a key was admitted with.", "counter", ("key",)
    ),
    DeclaredForKeys(
        "cortex_key_tokens",
        "Tokens of a key, by direction: 'prompt', 'completion', or 'uncounted' as an estimate for "
        "answers that were cut off before the node had counted them.",
        "counter",
        ("key", "direction"),
    ),
    DeclaredForKeys(
        "cortex_key_gpu_seconds",
        "Seconds of GPU that a key has used, by cause: 'answer' or 'load', its share of loads.",
        "counter",
        ("key", "cause"),
    ),
    DeclaredForKeys(
        "cortex_key_loads", "Loads that a key has caused, shares counted.", "counter", ("key",)
    ),
    DeclaredForKeys(
        "cortex_key_refusals",
        "Requests of a key that went over a limit: 'requests', 'tokens', 'concurrency', 'budget', "
        "or 'reserved', a budget that requests in progress may use up.",
        "counter",
        ("key", "limit"),
    ),
    DeclaredForKeys(
        "cortex_key_requests_in_progress", "Requests of a key in progress.", "gauge", ("key",)
    ),
)
"""Every metric of keys, in the order of the exposition; ``families`` fills them in this order."""


class KeyCollector(Collector):
    """Yields the metrics of the keys that ``read`` returns."""

    def __init__(self, read: Callable[[], Iterable[KeyFigures]]) -> None:
        self._read = read

    def describe(self) -> list[Metric]:
        """Return the families without samples, by which the registry learns their names."""
        return [Metric(each.name, each.documentation, each.kind) for each in KEY_METRICS]

    def collect(self) -> Iterator[Metric]:
        """Return the families, each with its samples."""
        return eager(self.families())

    def families(self) -> Iterator[Family]:
        """Yield the same families; their samples are read one by one."""
        readers = (_requests, _tokens, _seconds, _loads, _refusals, _running)
        for declared, values_of in zip(KEY_METRICS, readers, strict=True):
            yield Family(
                declared.name,
                declared.documentation,
                declared.kind,
                self._samples(declared, values_of),
            )

    def _samples(
        self, declared: DeclaredForKeys, values_of: Callable[[KeyFigures], Iterator[Any]]
    ) -> Iterator[Line]:
        name = f"{declared.name}_total" if declared.kind == "counter" else declared.name
        for figures in list(self._read()):
            for *labels, value in values_of(figures):
                values = (figures.name, *labels)
                yield Line(name, dict(zip(declared.labels, values, strict=True)), float(value))


def _requests(figures: KeyFigures) -> Iterator[Any]:
    yield (figures.usage.requests,)


def _tokens(figures: KeyFigures) -> Iterator[Any]:
    usage = figures.usage
    yield "prompt", usage.prompt_tokens
    yield "completion", usage.completion_tokens
    yield "uncounted", usage.uncounted_tokens


def _seconds(figures: KeyFigures) -> Iterator[Any]:
    yield "answer", figures.usage.gpu_seconds
    yield "load", figures.usage.load_seconds


def _loads(figures: KeyFigures) -> Iterator[Any]:
    yield (figures.usage.loads,)


def _refusals(figures: KeyFigures) -> Iterator[Any]:
    for limit in Limit:
        yield limit.value, figures.refused.get(limit, 0)


def _running(figures: KeyFigures) -> Iterator[Any]:
    yield (figures.running,)
