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
    LeaseSummary,
    ModelReplicaSummary,
    ModelSummary,
    NodeSummary,
    PlanSummary,
    ReplicaSummary,
    RequestSummary,
    SwapSummary,
    UnloadSummary,
)
from cortexd.ctl.abilities import ability_notes
from cortexd.ctl.fairness import request_words
from cortexd.ctl.spans import duration
from cortexd.fleet.catalogue import ModelStatus
from cortexd.fleet.states import ANSWERING_HEALTH, ANSWERING_STATES, NodeHealth, ReplicaState
from cortexd.text import one_line

NODE_HEADER: Final = (
    "NAME",
    "HEALTH",
    "VERSION",
    "MEMORY",
    "COMMITTED",
    "REPLICAS",
    "LEASES",
    "SINCE",
)
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


MORE_THAN_A_DRIVER_KEEPS: Final = 1.05
"""Tolerance of a warning: GPUs report a little less memory than their nominal size, which is the
value that people configure."""

_ANSWERING_HEALTH: Final = frozenset(health.value for health in ANSWERING_HEALTH)
_ANSWERING_STATES: Final = frozenset(state.value for state in ANSWERING_STATES)


class Status(msgspec.Struct, kw_only=True, frozen=True):
    """The whole fleet; ``replicas`` maps names of nodes to their replicas.

    ``unstored`` says why the daemon's state is only in memory now, None if it is on the disk.
    ``notices`` are further lines about the daemon itself.
    """

    unstored: str | None = None
    notices: list[str] = msgspec.field(default_factory=list)
    nodes: list[NodeSummary]
    replicas: dict[str, list[ReplicaSummary]]
    leases: list[LeaseSummary]
    models: list[ModelSummary]


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


def _lines(*lines: str) -> str:
    return "".join(one_line(line) + "\n" for line in lines)


def _gibibytes(mebibytes: int | None) -> str:
    return "?" if mebibytes is None else f"{mebibytes / 1024:.1f}"


def _or_dash(text: str | None) -> str:
    return text or "-"


# ---------------------------------------------------------------------- the fleet


def status_text(status: Status, now: float) -> str:
    """Show the fleet: nodes, problems and changes, waiting requests, loaded models, leases."""
    parts = [table(NODE_HEADER, [_node_row(node, now) for node in status.nodes])]
    if status.unstored is not None:
        words = "changes of pins and cordons are lost at the next restart"
        parts.insert(0, _lines(f"the state is not stored: {status.unstored}; {words}"))
    if status.notices:
        parts.insert(0, _lines(*status.notices))
    if notes := [note for node in status.nodes for note in _node_notes(node)]:
        parts.append(_lines(*notes))
    if waiting := [
        (
            model.id,
            str(model.waiting),
            duration(model.longest_wait_seconds or 0.0),
            _or_dash(", ".join(model.coming_on)),
        )
        for model in status.models
        if model.waiting
    ]:
        parts.append(table(("MODEL", "WAITING", "LONGEST", "COMING ON"), waiting))
    if loaded := resident(status.replicas):
        parts.append(replicas_text(loaded, now))
    listed = [(name, each) for name, replicas in status.replicas.items() for each in replicas]
    if failed := [
        f"{name} failed {count(each.failures, 'time')} to load {each.model}: {each.failure}"
        for name, each in listed
        if each.failures
    ]:
        parts.append(_lines(*failed))
    if leases := [
        (
            lease.request_id,
            lease.model,
            lease.node,
            _or_dash(lease.key),
            duration(lease.age_seconds),
        )
        for lease in status.leases
    ]:
        parts.append(table(("REQUEST", "MODEL", "NODE", "KEY", "AGE"), leases))
    return "\n".join(parts)


def status_data(status: Status) -> Mapping[str, Any]:
    """Return the nodes with their replicas, the leases, and the models with a queue."""
    nodes = [
        {**msgspec.to_builtins(node), "replicas": msgspec.to_builtins(status.replicas[node.name])}
        for node in status.nodes
    ]
    waited_for = [model for model in status.models if model.waiting]
    unstored = {} if status.unstored is None else {"unstored": status.unstored}
    notices = {"notices": status.notices} if status.notices else {}
    return {
        **unstored,
        **notices,
        "nodes": nodes,
        "leases": msgspec.to_builtins(status.leases),
        "waiting": msgspec.to_builtins(waited_for),
    }


def nodes_text(nodes: Sequence[NodeSummary], now: float) -> str:
    """Show the nodes with all their figures, and their problems and changes."""
    rows = [
        (
            *_node_row(node, now),
            f"{node.memory_leaked_mb} MiB",
            str(node.unloads),
            str(node.restarts),
            str(len(node.pins)),
            node.endpoint,
        )
        for node in nodes
    ]
    parts = [
        table((*NODE_HEADER, "LEAKED", "UNLOADS", "RESTARTS", "PINS", "ENDPOINT"), rows),
    ]
    notes = [note for node in nodes for note in _node_notes(node)]
    notes += [
        f"{node.name} speaks only Messages: it reports neither version nor memory, and loads and "
        "unloads models by itself"
        for node in nodes
        if not node.is_managed
    ]
    if notes:
        parts.append(_lines(*notes))
    return "\n".join(parts)


def nodes_data(nodes: Sequence[NodeSummary]) -> Mapping[str, Any]:
    """Return the nodes."""
    return {"nodes": msgspec.to_builtins(nodes)}


def _node_row(node: NodeSummary, now: float) -> tuple[str, ...]:
    loaded = sum(node.replica_states.get(state, 0) for state in _ANSWERING_STATES)
    reports_memory = node.memory_total_mb is not None and node.health != NodeHealth.DOWN.value
    memory = f"{_gibibytes(node.memory_free_mb)}/{_gibibytes(node.memory_total_mb)} GiB free"
    committed = f"{_gibibytes(node.memory_committed_mb)}/{_gibibytes(node.memory_budget_mb)} GiB"
    return (
        node.name,
        f"{node.health}, cordoned" if node.cordoned else node.health,
        _or_dash(node.version),
        memory if reports_memory else "-",
        committed if node.memory_budget_mb else "-",
        f"{loaded}/{sum(node.replica_states.values())}",
        str(node.leases),
        duration(now - node.since),
    )


def _node_notes(node: NodeSummary) -> list[str]:
    notes: list[str] = []
    if node.health != NodeHealth.UP.value:
        notes.append(f"{node.name} ({node.endpoint}) is {node.health}: {node.reason}")
    if node.restart_reason is not None:
        notes.append(f"{node.name} needs a restart: {node.restart_reason}")
    notes += [
        f"{node.name} gets no requests for {model}, which failed there: {reason}"
        for model, reason in node.ejected.items()
    ]
    if node.unlisted_pins:
        notes.append(
            f"{node.name} does not list {', '.join(node.unlisted_pins)}, although pinned there; "
            "'cortexctl models' shows the ids"
        )
    total_mb, budget_mb = node.memory_total_mb, node.memory_budget_mb
    if total_mb is not None and budget_mb > total_mb * MORE_THAN_A_DRIVER_KEEPS:
        notes.append(
            f"{node.name} has only {total_mb} MiB, but models may fill {budget_mb} MiB: vram_mb "
            "minus reserve_mb is too large"
        )
    if node.memory_missing_mb:
        notes.append(
            f"{node.name} has {node.memory_missing_mb} MiB less free memory than its models "
            "explain: another program uses it, or it leaked"
        )
    if node.swap is not None:
        notes.append(f"{node.name} {_swap_words(node.swap)}, for {duration(node.swap.age_seconds)}")
    return notes


def _swap_words(swap: SwapSummary) -> str:
    if swap.target is not None and swap.moving == swap.target:
        return f"loads {swap.target}"
    aim = f" to load {swap.target}" if swap.target is not None else ""
    if swap.moving is not None:
        return f"unloads {swap.moving}{aim}"
    running = f"{count(swap.leases, 'request')} on {', '.join(swap.victims)}"
    return f"waits for {running}{aim or ' to unload it'}"


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
        f"{replica.leases}/{replica.capacity}",
        "-" if replica.idle_seconds is None or replica.leases else duration(replica.idle_seconds),
        "yes" if replica.pinned else "-",
    )


def _replica_state(replica: ReplicaSummary) -> str:
    if not _is_there(replica):
        return f"{replica.state}, node {replica.node_health}"
    if replica.ejected_seconds is None:
        return replica.state
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
            _or_dash(", ".join(map(_place, filter(_answers, model.replicas)))),
            str(len(model.replicas)),
            "?" if model.footprint_mb is None else str(model.footprint_mb),
            "?" if model.load_seconds is None else duration(model.load_seconds),
            str(model.leases),
            str(model.waiting),
            _or_dash(", ".join(model.pinned_on)),
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
    return next(known, ModelStatus.UNAVAILABLE.value)


def _place(replica: ModelReplicaSummary) -> str:
    return f"{replica.node} (ejected)" if replica.ejected else replica.node


def _answers(replica: ModelReplicaSummary) -> bool:
    return replica.state in _ANSWERING_STATES and _is_there(replica)


# ---------------------------------------------------------------------- decisions


def plan_text(plan: PlanSummary, now: float) -> str:
    """Show the consequences of a load, and its cost on each node."""
    return (
        _lines(f"{plan.model} would be loaded on {plan.node}: it {_plan_words(plan)}")
        + "\n"
        + _candidates_text(plan.candidates)
    )


def plan_data(plan: PlanSummary) -> Mapping[str, Any]:
    """Return the consequences of a load."""
    return {"plan": msgspec.to_builtins(plan)}


def loading_text(plan: PlanSummary) -> str:
    """Say that a load has begun, and its consequences."""
    return _lines(f"loading {plan.model} on {plan.node}: it {_plan_words(plan)}")


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
    return _lines(words)


def why_text(explanation: Explanation, now: float) -> str:
    """Show the outcome of a request, the latest decision in full, and the earlier ones."""
    parts: list[str] = []
    if explanation.request is not None:
        parts.append(_lines(request_words(explanation.request)))
    if not explanation.decisions:
        if explanation.request is None:
            words = "has neither loaded nor unloaded"
            parts.append(_lines(f"since its start the daemon {words} {explanation.what}"))
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
                each.model,
                _or_dash(each.node),
                each.reason,
                _or_dash(each.cost),
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
    node = f" on {decision.node}" if decision.node is not None else ""
    lines = [
        f"{duration(decision.age_seconds)} ago: {_action(decision)} {decision.model}{node}, "
        f"because {decision.reason}"
    ]
    if decision.cost:
        lines.append(f"it {decision.cost}, expected to take {duration(decision.seconds)}")
    return _lines(*lines)


def _action(decision: DecisionSummary) -> str:
    return decision.action.replace("_", " ")
