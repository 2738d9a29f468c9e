"""What each of the daemon's metrics is: names, labels and buckets.

Names follow those of the same measures in vLLM, smg and mistral.rs, under the prefix ``cortex_``.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from prometheus_client import Counter, Gauge, Histogram

from cortexd.telemetry.batches import BatchHistogram

# From a warm small model, over a long prompt on a large one, to a wait for a load.
_FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_INTER_TOKEN_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 5)
_QUEUE_WAIT_SECONDS = (0.001, 0.01, 0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
_LOAD_SECONDS = (0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
_ERROR_RATIO = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5)
_DURATION_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_DELAY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_TOKENS_PER_SECOND = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 250, 500, 1000)


class Declared(NamedTuple):
    """One metric: the attribute of ``Metrics`` that holds it, and what Prometheus shows of it.

    ``buckets`` are the upper bounds of a histogram, rising, without infinity.
    """

    attribute: str
    kind: type[Counter | Gauge | Histogram | BatchHistogram]
    name: str
    documentation: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] | None = None


METRICS: Final = (
    Declared("build", Gauge, "cortex_build_info", "The running version.", ("version",)),
    Declared(
        "requests",
        Counter,
        "cortex_requests",
        "Answered requests, by the client's HTTP status; 'broken' is a stream that broke after its "
        "status 200, 'client_gone' a client that disconnected.",
        ("route", "model", "node", "status"),
    ),
    Declared(
        "tokens",
        Counter,
        "cortex_tokens",
        "Tokens of answered requests, by direction: 'prompt' or 'completion'.",
        ("model", "node", "direction"),
    ),
    Declared(
        "cached_tokens",
        Counter,
        "cortex_cached_prompt_tokens",
        "Tokens of the prompts of answered requests that nodes had in their prefix cache.",
        ("model", "node"),
    ),
    Declared(
        "affinity",
        Counter,
        "cortex_affinity_requests",
        "Requests that go on with something, for models with several copies: 'session' or 'prefix' "
        "where the copy has read it, 'elsewhere' if another copy has, 'new' if none has.",
        ("model", "node", "kind"),
    ),
    Declared(
        "first_token",
        Histogram,
        "cortex_time_to_first_token_seconds",
        "Time from the last byte of a request to the first content of its streamed answer.",
        ("model", "node"),
        _FIRST_TOKEN_SECONDS,
    ),
    Declared(
        "inter_token",
        BatchHistogram,
        "cortex_inter_token_latency_seconds",
        "Time between the contents of a streamed answer.",
        ("model", "node"),
        _INTER_TOKEN_SECONDS,
    ),
    Declared(
        "tokens_per_second",
        Histogram,
        "cortex_tokens_per_second",
        "Completion tokens of an answer, divided by the time from its first to its last content.",
        ("model", "node"),
        _TOKENS_PER_SECOND,
    ),
    Declared(
        "duration",
        Histogram,
        "cortex_request_duration_seconds",
        "Time from the last byte of a request to the last byte of its answer.",
        ("route", "model", "node"),
        _DURATION_SECONDS,
    ),
    Declared(
        "in_flight",
        Gauge,
        "cortex_requests_in_flight",
        "Requests that hold a replica.",
        ("model", "node"),
    ),
    Declared(
        "queue_wait",
        Histogram,
        "cortex_queue_wait_seconds",
        "Time from the arrival of a request until it gets a replica, including loads.",
        ("model", "node"),
        _QUEUE_WAIT_SECONDS,
    ),
    Declared(
        "model_load",
        Histogram,
        "cortex_model_load_seconds",
        "Duration of successful loads.",
        ("model", "node"),
        _LOAD_SECONDS,
    ),
    Declared(
        "load_estimate_error",
        Histogram,
        "cortex_load_estimate_error_ratio",
        "By how much a load took longer or shorter than was told when it began, divided by what it "
        "took; of loads of which anything was known.",
        ("model", "node"),
        _ERROR_RATIO,
    ),
    Declared(
        "model_load_failures",
        Counter,
        "cortex_model_load_failures",
        "Failed loads, by reason: 'out_of_memory' or 'other'.",
        ("model", "node", "reason"),
    ),
    Declared(
        "model_unload",
        Histogram,
        "cortex_model_unload_seconds",
        "Duration of unloads, until the memory was free.",
        ("model", "node"),
        _LOAD_SECONDS,
    ),
    Declared(
        "model_unload_failures",
        Counter,
        "cortex_model_unload_failures",
        "Failed unloads.",
        ("model", "node"),
    ),
    Declared(
        "leaked",
        Counter,
        "cortex_unload_leak_bytes",
        "Memory that unloads did not free.",
        ("node",),
    ),
    Declared(
        "restarts_due",
        Counter,
        "cortex_node_restarts_due",
        "How often a node was found due for a restart.",
        ("node",),
    ),
    Declared(
        "restarts_planned",
        Counter,
        "cortex_node_restarts_planned",
        "How often a restart of the node's engine was planned, by the kind of the reason.",
        ("node", "reason"),
    ),
    Declared(
        "planned_restarts",
        Counter,
        "cortex_node_planned_restarts",
        "Planned restarts of the node's engine that are over, by result: 'ok' or 'failed'.",
        ("node", "result"),
    ),
    Declared(
        "suspends",
        Counter,
        "cortex_node_suspends",
        "How often the node was let sleep, by result: 'ok' or 'failed'.",
        ("node", "result"),
    ),
    Declared(
        "wakes",
        Counter,
        "cortex_node_wakes",
        "How often the node was woken, by result: 'ok' or 'failed'.",
        ("node", "result"),
    ),
    Declared(
        "unsettled",
        Counter,
        "cortex_scheduler_unsettled",
        "How often what followed from an event was cut short because it did not end.",
        (),
    ),
    Declared(
        "fatal_requests",
        Counter,
        "cortex_fatal_requests",
        "How often a request was found to end the engines that it reaches.",
        (),
    ),
    Declared(
        "fatal_refusals",
        Counter,
        "cortex_fatal_requests_refused",
        "Requests refused because they have ended engines before.",
        (),
    ),
    Declared(
        "ejections",
        Counter,
        "cortex_replica_ejections",
        "How often a loaded model was ejected on a node because it failed there.",
        ("model", "node"),
    ),
    Declared(
        "prefetches",
        Counter,
        "cortex_prefetches",
        "Models that were loaded before a request waited for them: 'used' by a request since, or "
        "'unused' until they were lost or evicted.",
        ("node", "outcome"),
    ),
    Declared(
        "upstream_errors",
        Counter,
        "cortex_upstream_errors",
        "Failed attempts on a node, by error code.",
        ("node", "code"),
    ),
    Declared("node_up", Gauge, "cortex_node_up", "1 while the node gets requests.", ("node",)),
    Declared(
        "node_health",
        Gauge,
        "cortex_node_health",
        "1 for the current health of the node, 0 for the others.",
        ("node", "health"),
    ),
    Declared(
        "node_restarts",
        Counter,
        "cortex_node_restarts",
        "How often a node's process was found to be a new one.",
        ("node",),
    ),
    Declared(
        "polls",
        Counter,
        "cortex_polls",
        "Polls of a node, by outcome: 'ok', 'failed' or 'timed_out'.",
        ("node", "outcome"),
    ),
    Declared(
        "reloads",
        Counter,
        "cortex_config_reloads",
        "Reloads of the configuration, by result: 'ok' or 'refused'.",
        ("result",),
    ),
    Declared(
        "last_reload",
        Gauge,
        "cortex_config_last_reload_success_timestamp_seconds",
        "When the configuration in effect was read, in unix seconds.",
        (),
    ),
    Declared(
        "reactor_delay",
        Histogram,
        "cortex_reactor_delay_seconds",
        "How late a timer fires that is due ten times a second: how long the daemon did not look.",
        (),
        _DELAY_SECONDS,
    ),
    Declared(
        "reactor_stalls",
        Counter,
        "cortex_reactor_stalls",
        "How often such a timer was more than a second late.",
        (),
    ),
    Declared(
        "store_available",
        Gauge,
        "cortex_store_available",
        "1 while pins, cordons and what was learned are on the disk, 0 while they are in memory.",
        (),
    ),
    Declared(
        "log_lines_dropped",
        Counter,
        "cortex_log_lines_dropped",
        "Lines of the log that were dropped, because the log could not be written for too long.",
        (),
    ),
)
"""Every metric, in the order of the exposition; a new one gets its row here, and its type and birth
in ``cortexd.telemetry.metrics``."""
