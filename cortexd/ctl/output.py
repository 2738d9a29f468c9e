"""The output of ``cortexctl``: pure functions of the daemon's answers.

Functions whose names end in ``_text`` return text for people; their ``now`` is in unix seconds.
Those that end in ``_data`` return the output of ``--json``. Every text of a node or a client passes
through ``one_line`` before it reaches a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from cortexd.control.summaries import (
    CandidateSummary,
    DecisionSummary,
    ModelReplicaSummary,
    ModelSummary,
    PlanSummary,
    ReplicaSummary,
    RequestSummary,
    UnloadSummary,
)
from cortexd.ctl.abilities import ability_notes
from cortexd.ctl.fairness import request_words
from cortexd.ctl.spans import duration
from cortexd.fleet.catalogue import ModelStatus
from cortexd.fleet.states import ANSWERING_HEALTH, ANSWERING_STATES, ReplicaState
from cortexd.text import one_line

REPLICA_HEADER: Final = ("MODEL", "NODE", "STATE", "MiB", "LEASES", "IDLE", "PINNED")
MODEL_HEADER: Final = (
    "MODEL",
    "STATE",
    "LOADED ON",
    "NODES",
    "MiB",
    "LOAD",
    "LEASES",
    "WAITING",
    "PINNED ON",
    "TEMPLATE",
)

_ANSWERING_HEALTH: Final = frozenset(health.value for health in ANSWERING_HEALTH)
_ANSWERING_STATES: Final = frozenset(state.value for state in ANSWERING_STATES)


class Explanation(msgspec.Struct, kw_only=True, frozen=True):
    """The request and the decisions about ``what``, a model or a request; latest first."""

    what: str
    request: RequestSummary | None
    decisions: list[DecisionSummary]


# ---------------------------------------------------------------------- basic text
WIDEST: Final = 60
"""The most characters of a cell that widens its column: ids of models and endpoints fit."""


def count(number: int, thing: str) -> str:
    """Write a number of things: ``1 request``, ``2 requests``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align rows of texts under a header, two spaces between the columns.

    A column is as wide as its widest cell of at most ``WIDEST`` characters: one long cell would pad
    every other row. What follows it in its own row is moved.
    """
    lines = [header, *([one_line(cell) for cell in row] for row in rows)]
    widths = [
        max((len(cell) for cell in column if len(cell) <= WIDEST), default=WIDEST)
        for column in zip(*lines, strict=True)
    ]
    padded = (
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines
    )
    return "".join("  ".join(line).rstrip() + "\n" for line in padded)


def in_lines(*texts: str) -> str:
    """Show each text in one line."""
    return "".join(one_line(text) + "\n" for text in texts)


def or_dash(text: str | None) -> str:
    """Return a text, or a dash instead of an empty one."""
    return text or "-"


def rest_words(seconds: float | None) -> str:
    """Say when a load is expected to end, after other words; nothing where that is unknown."""
    if seconds is None:
        return ""
    return f", {duration(seconds)} left" if seconds >= 1 else ", due now"


# ---------------------------------------------------------------------- the fleet


def replicas_text(replicas: Sequence[tuple[str, ReplicaSummary]], now: float) -> str:
    """Show the replicas in the nodes' memory, each with the name of its node."""
    return table(REPLICA_HEADER, [_replica_row(name, each) for name, each in replicas])


def replicas_data(replicas: Sequence[tuple[str, ReplicaSummary]]) -> Mapping[str, Any]:
    """Return the replicas, each with the name of its node."""
    return {"replicas": [{"node": name, **msgspec.to_builtins(each)} for name, each in replicas]}


def resident(
    by_node: Mapping[str, Sequence[ReplicaSummary]],
) -> list[tuple[str, ReplicaSummary]]:
    """Return the replicas in the nodes' memory, each with the name of its node."""
    return [
        (name, each)
        for name, replicas in by_node.items()
        for each in replicas
        if each.state != ReplicaState.UNLOADED.value
    ]


def _replica_row(node: str, replica: ReplicaSummary) -> tuple[str, ...]:
    return (
        replica.model,
        node,
        _replica_state(replica),
        _footprint_words(replica),
        f"{replica.leases}/{replica.capacity}"
        + (f", {count(replica.ghosts, 'ghost')}" if replica.ghosts else ""),
        "-" if replica.idle_seconds is None or replica.leases else duration(replica.idle_seconds),
        "yes" if replica.pinned else "-",
    )


def _replica_state(replica: ReplicaSummary) -> str:
    if not _is_there(replica):
        return f"{replica.state}, node {replica.node_health}"
    if replica.ejected_seconds is None:
        return replica.state + rest_words(replica.expected_seconds)
    return f"{replica.state}, ejected for {duration(replica.ejected_seconds)}"


def _footprint_words(replica: ReplicaSummary) -> str:
    if not replica.footprint_mb:
        return "-"
    return f"{'' if replica.footprint_is_known else '~'}{replica.footprint_mb}"


def _is_there(replica: ReplicaSummary | ModelReplicaSummary) -> bool:
    """Return whether the node answers; if it does not, its loaded models are unknown."""
    return replica.node_health in _ANSWERING_HEALTH


def models_text(models: Sequence[ModelSummary], now: float) -> str:
    """Show the models, each summed up over all nodes."""
    rows = [
        (
            model.id,
            _model_state(model),
            or_dash(", ".join(map(_place, filter(_answers, model.replicas)))),
            str(len(model.replicas)),
            "?" if model.footprint_mb is None else str(model.footprint_mb),
            "?" if model.load_seconds is None else duration(model.load_seconds),
            str(model.leases),
            str(model.waiting),
            or_dash(", ".join(model.pinned_on)),
            ability_notes(model.abilities),
        )
        for model in models
    ]
    return table(MODEL_HEADER, rows)


def models_data(models: Sequence[ModelSummary]) -> Mapping[str, Any]:
    """Return the models."""
    return {"models": msgspec.to_builtins(models)}


_SOONEST_FIRST: Final = (
    ReplicaState.LOADED,
    ReplicaState.STUCK,
    ReplicaState.LOADING,
    ReplicaState.DRAINING,
    ReplicaState.UNLOADING,
    ReplicaState.UNLOADED,
)


def _model_state(model: ModelSummary) -> str:
    """Return the state of the replica that can answer soonest, or that of an unavailable model."""
    there = [replica for replica in model.replicas if _is_there(replica)]
    answering = [replica for replica in there if replica.state in _ANSWERING_STATES]
    if answering and all(replica.ejected for replica in answering):
        return "ejected"
    states = {replica.state for replica in there}
    known = (state.value for state in _SOONEST_FIRST if state.value in states)
    found = next(known, ModelStatus.UNAVAILABLE.value)
    is_loading = found == ReplicaState.LOADING.value
    return found + (rest_words(model.expected_seconds) if is_loading else "")


def _place(replica: ModelReplicaSummary) -> str:
    return f"{replica.node} (ejected)" if replica.ejected else replica.node


def _answers(replica: ModelReplicaSummary) -> bool:
    return replica.state in _ANSWERING_STATES and _is_there(replica)


# ---------------------------------------------------------------------- decisions


def plan_text(plan: PlanSummary, now: float) -> str:
    """Show the consequences of a load, and its cost on each node."""
    return (
        in_lines(f"{plan.model} would be loaded on {plan.node}: it {_plan_words(plan)}")
        + "\n"
        + _candidates_text(plan.candidates)
    )


def plan_data(plan: PlanSummary) -> Mapping[str, Any]:
    """Return the consequences of a load."""
    return {"plan": msgspec.to_builtins(plan)}


def loading_text(plan: PlanSummary) -> str:
    """Say that a load has begun, and its consequences."""
    return in_lines(f"loading {plan.model} on {plan.node}: it {_plan_words(plan)}")


def _plan_words(plan: PlanSummary) -> str:
    seconds = f"about {duration(plan.seconds)}" if plan.seconds >= 1 else "less than a second"
    how_known = "like its last loads" if plan.is_measured else "an assumption: no load was seen yet"
    return f"{plan.cost} and takes {seconds}, {how_known}"


def _candidates_text(candidates: Sequence[CandidateSummary]) -> str:
    rows = [(each.node, "yes" if each.possible else "no", each.cost) for each in candidates]
    return table(("NODE", "POSSIBLE", "COST"), rows)


def unload_text(unload: UnloadSummary, *, now: bool) -> str:
    """Say that an unload has begun, and what happens to the requests on the model."""
    words = f"unloading {unload.model} from {', '.join(unload.nodes)}"
    requests = count(unload.leases, "request")
    if unload.leases and now:
        words += f", which aborts {requests}"
    elif unload.leases:
        words += f" after {requests} on it {'has' if unload.leases == 1 else 'have'} ended"
    return in_lines(words)


def why_text(explanation: Explanation, now: float) -> str:
    """Show the outcome of a request, the latest decision in full, and the earlier ones."""
    parts: list[str] = []
    if explanation.request is not None:
        parts.append(in_lines(request_words(explanation.request)))
    if not explanation.decisions:
        if explanation.request is None:
            words = "since its start the daemon has decided nothing about"
            parts.append(in_lines(f"{words} {explanation.what}"))
        return "\n".join(parts)
    latest, *earlier = explanation.decisions
    parts.append(_decision_text(latest))
    if latest.candidates:
        parts.append(_candidates_text(latest.candidates))
    if earlier:
        rows = [
            (
                duration(each.age_seconds),
                _action(each),
                or_dash(each.model),
                or_dash(each.node),
                each.reason,
                or_dash(each.cost),
            )
            for each in earlier
        ]
        parts.append(table(("AGE", "ACTION", "MODEL", "NODE", "REASON", "COST"), rows))
    return "\n".join(parts)


def why_data(explanation: Explanation) -> Mapping[str, Any]:
    """Return the request and the decisions."""
    data: Mapping[str, Any] = msgspec.to_builtins(explanation)
    return data


def _decision_text(decision: DecisionSummary) -> str:
    words = [_action(decision), decision.model]
    words += ["on", decision.node] if decision.node is not None else []
    done = " ".join(word for word in words if word)
    lines = [f"{duration(decision.age_seconds)} ago: {done}, because {decision.reason}"]
    if decision.cost:
        lines.append(f"it {decision.cost}, expected to take {duration(decision.seconds)}")
    return in_lines(*lines)


def _action(decision: DecisionSummary) -> str:
    return decision.action.replace("_", " ")
