"""A mistral.rs node's routes to load and unload a model, and its counts of running requests.

The facts are from nodes.md 2 and 7. In the metrics, the label ``model`` is ``none`` for a route
without a model and ``unknown`` for a model that the node does not have. Requests for ``/``,
``/health`` and ``/metrics`` are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from cortexd.dialects.nodes.answers import BadAnswer, answer_object
from cortexd.dialects.nodes.errors import OUT_OF_MEMORY, first_line
from cortexd.dialects.nodes.mistralrs import MODELS_PATH
from cortexd.dialects.wire.json_values import MAX_COUNT, encode
from cortexd.fleet.outcomes import LifecycleStatus, Outcome
from cortexd.text import without_keys

STATUS_PATH: Final = "/v1/models/status"
RELOAD_PATH: Final = "/v1/models/reload"
UNLOAD_PATH: Final = "/v1/models/unload"
METRICS_PATH: Final = "/metrics"

IN_FLIGHT_SERIES: Final = "http_requests_in_flight"
"""The gauge of requests by method, path and model; a stream counts until its end."""

MAX_SAMPLES: Final = 2000
"""The most samples of the gauge: each takes 10 µs to read."""

ADAPTER_MARK: Final = "::"
"""The separator of model and adapter in an adapter's id (nodes.md 1.10)."""

NO_MODEL: Final = frozenset({"", "none", "unknown"})
"""The gauge's label for requests that name no model of the node."""


def operation_body(model: str) -> bytes:
    """Return the body of a request for a model's status, reload or unload."""
    return encode({"model_id": model})


def read_outcome(body: bytes) -> Outcome:
    """Return the outcome of a status query, a reload or an unload. Raises BadAnswer."""
    answer = answer_object(body)
    status = answer.get("status")
    try:
        known = LifecycleStatus(status)
    except ValueError:
        raise BadAnswer(f"the status is {repr(status)[:50]}, which is not known") from None
    error = answer.get("error")
    words = error if isinstance(error, str) else ""
    return Outcome(known, without_keys(first_line(words)), OUT_OF_MEMORY.search(words) is not None)


def read_in_flight(body: bytes) -> Mapping[str, int] | None:
    """Return the requests in flight for each model, from ``GET /metrics`` (nodes.md 7.2).

    ``None`` if the node does not count by model. Raises BadAnswer.
    """
    return count_in_flight(_samples(body))


def _samples(text: bytes) -> Iterator[tuple[Mapping[str, str], float]]:
    """Yield labels and value of each sample of the gauge in a Prometheus text.

    Only the gauge's lines are parsed: the histograms are many times as long, and may contain syntax
    that an older parser does not know. Raises BadAnswer.
    """
    # Not at the top: with it come an HTTP server and more, for which an agent has no memory.
    from prometheus_client.parser import text_string_to_metric_families

    lines = text.decode("utf-8", "replace").split("\n")
    starts = (f"{IN_FLIGHT_SERIES}{{", f"{IN_FLIGHT_SERIES} ")
    own = [line for line in lines if line.startswith(starts)]
    if len(own) > MAX_SAMPLES:
        raise BadAnswer(f"{IN_FLIGHT_SERIES} has more than {MAX_SAMPLES} samples")
    try:
        for family in text_string_to_metric_families("\n".join(own)):
            for sample in family.samples:
                yield sample.labels, sample.value
    except (ValueError, IndexError, KeyError) as error:
        raise BadAnswer(f"{IN_FLIGHT_SERIES} cannot be read: {error}") from None


def count_in_flight(
    samples: Iterable[tuple[Mapping[str, str], float]],
) -> Mapping[str, int] | None:
    """Return the requests in flight for each model, from the labels and values of the gauge.

    ``None`` if no sample has a model: such a node does not count by model. Operations on a model
    are left out, because our status query is one. An adapter's requests count under the id in the
    request. Raises BadAnswer for a count that is not a number.
    """
    counts: dict[str, int] = {}
    has_models = False
    for labels, value in samples:
        if "model" not in labels:
            continue
        has_models = True
        if labels["model"] in NO_MODEL or labels.get("path", "").startswith(MODELS_PATH):
            continue
        if not -MAX_COUNT <= value <= MAX_COUNT:  # not a number either
            raise BadAnswer(f"{IN_FLIGHT_SERIES} is {value} for {labels['model']}")
        counts[labels["model"]] = counts.get(labels["model"], 0) + max(0, round(value))
    return counts if has_models else None


def running_on(counts: Mapping[str, int], model: str) -> int:
    """Return the requests in flight on a model, including those for its adapters."""
    adapters = f"{model}{ADAPTER_MARK}"
    return sum(
        count for name, count in counts.items() if name == model or name.startswith(adapters)
    )
