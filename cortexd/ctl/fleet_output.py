"""The fleet in the output of ``cortexctl``, as in ``cortexd.ctl.output``: status and nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from cortexd.control.summaries import (
    AgentSummary,
    LeaseSummary,
    ModelSummary,
    NodeSummary,
    ReplicaSummary,
    SwapSummary,
)
from cortexd.ctl.output import (
    count,
    in_lines,
    or_dash,
    replicas_text,
    resident,
    rest_words,
    table,
)
from cortexd.ctl.restarting import restart_words
from cortexd.ctl.spans import duration
from cortexd.fleet.states import ANSWERING_STATES, NodeHealth

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

AGENT_HEADER: Final = (
    "NODE",
    "AGENT",
    "PEER",
    "CONNECTED",
    "ENGINE",
    "MEMORY",
    "OTHERS",
    "SOURCE",
    "RESTARTS",
    "CAN",
)

MORE_THAN_A_DRIVER_KEEPS: Final = 1.05
"""Tolerance of a warning: GPUs report a little less memory than their nominal size, which is the
value that people configure."""

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


def status_text(status: Status, now: float) -> str:
    """Show the fleet: nodes, problems and changes, waiting requests, loaded models, leases."""
    parts = [table(NODE_HEADER, [_node_row(node, now) for node in status.nodes])]
    if status.unstored is not None:
        words = "changes of pins and cordons are lost at the next restart"
        parts.insert(0, in_lines(f"the state is not stored: {status.unstored}; {words}"))
    if status.notices:
        parts.insert(0, in_lines(*status.notices))
    if notes := [note for node in status.nodes for note in _node_notes(node)]:
        parts.append(in_lines(*notes))
    if waiting := [
        (
            model.id,
            str(model.waiting),
            duration(model.longest_wait_seconds or 0.0),
            or_dash(", ".join(model.coming_on)),
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
        parts.append(in_lines(*failed))
    if leases := [
        (
            lease.request_id,
            lease.model,
            lease.node,
            or_dash(lease.key),
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
            node.agent or "no agent",
            node.endpoint,
        )
        for node in nodes
    ]
    parts = [
        table((*NODE_HEADER, "LEAKED", "UNLOADS", "RESTARTS", "PINS", "AGENT", "ENDPOINT"), rows),
    ]
    notes = [note for node in nodes for note in _node_notes(node)]
    notes += [
        f"{node.name} speaks only Messages: it reports neither version nor memory, and loads and "
        "unloads models by itself"
        for node in nodes
        if not node.is_managed
    ]
    if notes:
        parts.append(in_lines(*notes))
    return "\n".join(parts)


def nodes_data(nodes: Sequence[NodeSummary]) -> Mapping[str, Any]:
    """Return the nodes."""
    return {"nodes": msgspec.to_builtins(nodes)}


def agents_text(agents: Sequence[AgentSummary], now: float) -> str:
    """Show the agents, what they see of their engines, and what they cannot do."""
    rows = [_agent_row(agent) for agent in agents]
    notes = [
        f"{agent.node}: {words}"
        for agent in agents
        for words in (*([agent.life_reason] if agent.life_reason else []), *agent.notes)
    ]
    parts = [table(AGENT_HEADER, rows), *([in_lines(*notes)] if notes else [])]
    return "\n".join(parts)


def agents_data(agents: Sequence[AgentSummary]) -> Mapping[str, Any]:
    """Return the nodes and their agents."""
    return {"agents": msgspec.to_builtins(agents)}


def _agent_row(agent: AgentSummary) -> tuple[str, ...]:
    if not agent.connected:
        return (agent.node, "no agent", *["-"] * (len(AGENT_HEADER) - 2))
    free_mb, total_mb = agent.memory_free_mb, agent.memory_total_mb
    memory = f"{_gibibytes(free_mb)}/{_gibibytes(total_mb)} GiB free"
    restarts = "?" if agent.engine_restarts is None else str(agent.engine_restarts)
    return (
        agent.node,
        agent.version,
        agent.peer,
        duration(agent.age_seconds),
        or_dash(agent.life),
        memory if total_mb is not None else "-",
        "-" if agent.others_mb is None else f"{_gibibytes(agent.others_mb)} GiB",
        or_dash(agent.source),
        restarts,
        or_dash(", ".join(agent.abilities)),
    )


def _node_row(node: NodeSummary, now: float) -> tuple[str, ...]:
    loaded = sum(node.replica_states.get(state, 0) for state in _ANSWERING_STATES)
    reports_memory = node.memory_total_mb is not None and node.health != NodeHealth.DOWN.value
    memory = f"{_gibibytes(node.memory_free_mb)}/{_gibibytes(node.memory_total_mb)} GiB free"
    committed = f"{_gibibytes(node.memory_committed_mb)}/{_gibibytes(node.memory_budget_mb)} GiB"
    return (
        node.name,
        ", ".join([node.health, *["cordoned"] * node.cordoned, *["closed"] * bool(node.closed)]),
        or_dash(node.version),
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
    if node.engine_given_up:
        notes.append(
            f"the agent of {node.name} no longer starts the engine by itself: "
            f"{node.engine_given_up}; 'cortexctl logs {node.name}' shows the engine's last words, "
            f"'cortexctl restart {node.name}' tries again"
        )
    notes += _repair_notes(node)
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
        age, rest = duration(node.swap.age_seconds), rest_words(node.swap.expected_seconds)
        notes.append(f"{node.name} {_swap_words(node.swap)}, for {age}{rest}")
    return notes


def _repair_notes(node: NodeSummary) -> list[str]:
    """Say why a node needs a restart or is closed, and what it has too much of."""
    notes: list[str] = []
    if node.restart is not None:
        notes.append(f"{node.name} {restart_words(node.restart)}; because {node.restart.reason}")
    elif node.restart_reason is not None:
        notes.append(f"{node.name} needs a restart: {node.restart_reason}")
    if node.closed and node.restart is None:
        notes.append(f"{node.name} takes no work for now: {node.closed}")
    if node.over_budget_mb:
        notes.append(
            f"the models on {node.name} take {node.over_budget_mb} MiB more than they may: idle "
            "ones are unloaded, pinned ones last"
        )
    if node.others_mb:
        notes.append(
            f"other programs take {node.others_mb} MiB of the memory that models may fill on "
            f"{node.name}"
        )
    return notes


def _swap_words(swap: SwapSummary) -> str:
    if swap.target is not None and swap.moving == swap.target:
        return f"loads {swap.target}"
    aim = f" to load {swap.target}" if swap.target is not None else ""
    if swap.moving is not None:
        return f"unloads {swap.moving}{aim}"
    running = f"{count(swap.leases, 'request')} on {', '.join(swap.victims)}"
    return f"waits for {running}{aim or ' to unload it'}"


def _gibibytes(mebibytes: int | None) -> str:
    return "?" if mebibytes is None else f"{mebibytes / 1024:.1f}"
