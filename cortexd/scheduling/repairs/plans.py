"""What a restart of a node would do now, for the operator who thinks of one: pure."""

from __future__ import annotations

from dataclasses import dataclass

from cortexd.errors import OperationRefused
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node
from cortexd.fleet.states import ANSWERING_HEALTH
from cortexd.scheduling.repairs.reasons import can_restart
from cortexd.scheduling.repairs.restarts import Phase, Restarts
from cortexd.scheduling.repairs.terms import RepairTerms
from cortexd.scheduling.repairs.windows import in_the_way
from cortexd.scheduling.swaps import Swaps
from cortexd.scheduling.wishes import node_named


@dataclass(frozen=True, slots=True)
class RestartPlan:
    """What a restart of ``node`` would do if an operator ordered it now.

    ``reason`` is why the engine needs one by itself, empty if it does not. ``leases`` is how many
    requests run there and would end first, ``moving`` the model that is loaded or unloaded there
    now, if any. ``after`` are the nodes whose restarts must end first. ``begun`` is how many
    restarts the node had in the last hour, of ``budget`` that it may have without an operator.
    ``models`` are loaded afterwards, in a cold start only ``pins``. ``alone`` are the models that
    no other node has loaded now. ``planned`` is the phase of a restart that is planned already.
    """

    node: str
    reason: str
    leases: int
    moving: str
    after: tuple[str, ...]
    begun: int
    budget: int
    models: tuple[str, ...]
    pins: tuple[str, ...]
    alone: tuple[str, ...]
    planned: str = ""


def check_restart(fleet: Fleet, restarts: Restarts, name: str, *, cuts: bool = False) -> Node:
    """Return the node of a restart that an operator wants, which ``cuts`` its leases or not.

    Raises OperationRefused where nobody can restart it, or where it is being restarted.
    """
    node = node_named(fleet, name)
    if not node.power.is_awake:
        raise OperationRefused(
            f"node {name} is {node.power.state.value}; `cortexctl wake {name}` wakes it first"
        )
    if node.agent is None:
        raise OperationRefused(
            f"node {name} has no agent that could restart its engine: restart it on its machine, "
            "or run an agent there (docs/agent.md)"
        )
    if not can_restart(node):
        raise OperationRefused(
            f"the agent of node {name} cannot restart its engine: its [engine] has neither command "
            "nor restart_command"
        )
    restart = restarts.on(name)
    if restart is None or restart.phase is Phase.DUE:
        return node
    if restart.phase is Phase.DRAINING and cuts and not restart.cuts:
        return node
    raise OperationRefused(
        f"node {name} is being restarted already ({restart.phase.value}); `cortexctl events -f` "
        "shows its end"
    )


def plan_restart(
    fleet: Fleet,
    restarts: Restarts,
    swaps: Swaps,
    terms: RepairTerms,
    node: Node,
    reason: str,
    now: float,
) -> RestartPlan:
    """Return what a restart of a node would do now. Raises OperationRefused."""
    name = node.name
    check_restart(fleet, restarts, name, cuts=True)
    restart, swap = restarts.on(name), swaps.on(name)
    loaded = [replica.model for replica in node.residents]
    models = tuple(dict.fromkeys((*loaded, *node.pins)))
    return RestartPlan(
        node=name,
        reason=reason,
        leases=node.leases,
        moving=swap.moving.model if swap is not None and swap.moving is not None else "",
        after=in_the_way(node, restarts),
        begun=restarts.begun(name, now),
        budget=terms.restart_budget,
        models=models,
        pins=tuple(node.pins),
        alone=tuple(model for model in loaded if not _elsewhere(fleet, model, node)),
        planned=restart.phase.value if restart is not None else "",
    )


def _elsewhere(fleet: Fleet, model: str, node: Node) -> bool:
    return any(
        replica.answers and replica.node.health in ANSWERING_HEALTH
        for replica in fleet.replicas(model)
        if replica.node is not node
    )
