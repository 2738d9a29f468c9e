"""The commands that an operator may give for models, and their consequences: pure.

Each function returns the consequences or raises OperationRefused with a message for the operator.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from cortexd.errors import OperationRefused
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node, Replica
from cortexd.fleet.states import ANSWERING_HEALTH, ANSWERING_STATES, Operation, ReplicaState
from cortexd.scheduling.copying.labels import only_words
from cortexd.scheduling.decisions import Candidate, candidates, cost_words, obstacle_words
from cortexd.scheduling.placement import EvictionTerms, Finding, Obstacle, Option, best, survey

_COPY_STATES: Final = frozenset((*ANSWERING_STATES, ReplicaState.LOADING, ReplicaState.DRAINING))
"""A replica in one of these states is a copy of its model, or becomes one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The consequences of a load: ``option``, chosen among the findings ``found``.

    ``cost`` describes the cost of the option, ``candidates`` that of each node, the best first.
    Both are as of the time when the plan was made.
    """

    option: Option
    found: tuple[Finding, ...]
    cost: str
    candidates: tuple[Candidate, ...]

    @property
    def node(self) -> str:
        """The node that would load the model."""
        return self.option.replica.node.name

    @property
    def victims(self) -> tuple[str, ...]:
        """The models that would be evicted."""
        return tuple(victim.model for victim in self.option.victims.victims)

    @property
    def seconds(self) -> float:
        """The expected seconds of the load, once its victims are idle."""
        return self.option.seconds


def node_named(fleet: Fleet, name: str) -> Node:
    """Return a node by its name."""
    node = fleet.nodes.get(name)
    if node is None:
        names = ", ".join(fleet.nodes)
        raise OperationRefused(f"no node is called {name!r}; the nodes are {names}")
    return node


def _replicas(fleet: Fleet, model: str, node: str | None) -> list[Replica]:
    if model not in fleet:
        raise OperationRefused(
            f"no node lists a model {model!r}; `cortexctl models` shows the models"
        )
    base = next((replica.base for replica in fleet.replicas(model)), None)
    if base is not None:
        raise OperationRefused(
            f"{model!r} is an adapter: it is loaded and unloaded with its base model, {base!r}"
        )
    if node is None:
        return list(fleet.replicas(model))
    replica = node_named(fleet, node).replicas.get(model)
    if replica is None:
        listing = [replica.node.name for replica in fleet.replicas(model)]
        verb = "does" if len(listing) == 1 else "do"
        raise OperationRefused(
            f"node {node} does not list model {model!r}; {', '.join(listing)} {verb}"
        )
    return [replica]


def plan_load(
    fleet: Fleet,
    terms: EvictionTerms,
    swapping: Collection[str],
    model: str,
    node: str | None,
    now: float,
) -> Plan:
    """Return the consequences of loading a model, on the given node or where it costs least.

    An operator may evict models that are in use: the load waits until they are idle. The load of an
    adapter is that of its base, on a node where that brings the adapter.
    """
    base = fleet.base_of(model)
    if base is None:
        replicas = _replicas(fleet, model, node)
    else:
        bases = _replicas(fleet, base, node)
        replicas = [replica for replica in bases if model in replica.node.adapters]
        if not replicas:
            raise OperationRefused(
                f"a load of {base!r} on {node} does not bring the adapter {model!r}"
            )
    loaded = [replica.node.name for replica in replicas if replica.answers]
    if loaded:
        raise OperationRefused(f"model {model!r} is already loaded on {', '.join(loaded)}")
    _check_copies(fleet, replicas[0].model, "load")
    found = survey(fleet, replicas, terms, now, swapping=swapping)
    option = best(found)
    if option is None:
        found = survey(fleet, replicas, terms, now, swapping=swapping, may_drain=True)
        option = best(found)
    if option is None:
        reasons = "; ".join(
            f"{obstacle.replica.node.name} {obstacle_words(obstacle, now)}"
            for obstacle in found
            if isinstance(obstacle, Obstacle)
        )
        raise OperationRefused(f"model {model!r} cannot be loaded now: {reasons}")
    return Plan(option, tuple(found), cost_words(option, now), candidates(found, now))


def _check_copies(fleet: Fleet, model: str, verb: str) -> None:
    """Reject one more copy of a model that has all that its max_copies allows."""
    replicas = fleet.replicas(model)
    most = max((replica.terms.max_copies for replica in replicas), default=0)
    nodes = [
        replica.node.name
        for replica in replicas
        if replica.state in _COPY_STATES or replica.operation is Operation.LOAD
    ]
    if 0 < most <= len(nodes):
        raise OperationRefused(
            f"max_copies of model {model!r} is {most}, and it is loaded on {', '.join(nodes)}; "
            f"run `cortexctl unload {model} --node {nodes[0]}` before you {verb} it elsewhere"
        )


def check_unload(
    fleet: Fleet, swapping: Collection[str], model: str, node: str | None
) -> list[Replica]:
    """Return the replicas to unload: on one node, or on all nodes that answer."""
    loaded = [
        replica
        for replica in _replicas(fleet, model, node)
        if replica.state in (*ANSWERING_STATES, ReplicaState.DRAINING)
    ]
    where = f"on {node}" if node else "on any node"
    if not loaded:
        raise OperationRefused(f"model {model!r} is not loaded {where}")
    silent = [
        replica
        for replica in loaded
        if replica.node.health not in ANSWERING_HEALTH or not replica.node.power.is_awake
    ]
    if len(silent) == len(loaded):
        reasons = "; ".join(
            f"{each.node.name}: {each.node.closed or each.node.reason}" for each in silent
        )
        raise OperationRefused(
            f"model {model!r} is loaded only on nodes that do not answer: {reasons}"
        )
    loaded = [replica for replica in loaded if replica not in silent]
    loaded = _managed(model, loaded)
    pinned = [replica.node.name for replica in loaded if replica.pinned]
    if pinned:
        raise OperationRefused(
            f"model {model!r} is pinned on {', '.join(pinned)}; "
            f"run `cortexctl unpin {model} --node {pinned[0]}` first"
        )
    least = loaded[0].terms.min_copies
    if least and len(loaded) > sum(each.is_copy for each in fleet.replicas(model)) - least:
        raise OperationRefused(
            f"min_copies of model {model!r} keeps {least} of it loaded; "
            "lower it in the configuration first"
        )
    stuck = [replica.node.name for replica in loaded if replica.state is ReplicaState.STUCK]
    if stuck:
        raise OperationRefused(
            f"model {model!r} is stuck on {', '.join(stuck)}: after an unload it could not be "
            "loaded again until the node is restarted"
        )
    busy = [replica.node.name for replica in loaded if replica.node.name in swapping]
    if busy:
        raise OperationRefused(
            f"a model is being loaded or unloaded on {', '.join(busy)}; try again after "
            "that (`cortexctl events -f` shows when)"
        )
    return loaded


def _managed(model: str, loaded: list[Replica]) -> list[Replica]:
    managed = [replica for replica in loaded if replica.node.is_managed]
    if not managed:
        names = ", ".join(replica.node.name for replica in loaded)
        raise OperationRefused(
            f"model {model!r} is loaded on {names}, which loads and unloads models by itself"
        )
    return managed


def check_pin(fleet: Fleet, node: Node, model: str, pinned: bool) -> None:
    """Reject a pin that exists already, does not fit, or is to be removed and does not exist."""
    if pinned and model in node.pins:
        raise OperationRefused(f"model {model!r} is already pinned on {node.name}")
    if not pinned and model not in node.pins:
        raise OperationRefused(f"model {model!r} is not pinned on {node.name}")
    if pinned:
        _replicas(fleet, model, node.name)
        if not node.is_managed:
            raise OperationRefused(
                f"no model can be pinned on {node.name}: it loads and unloads models by itself"
            )
        replica = node.replicas[model]
        if not replica.is_allowed:
            raise OperationRefused(
                f"model {model!r} cannot be pinned on {node.name}, which lacks "
                f"{only_words(replica.terms.only_on)} of the model's only_on"
            )
        if replica.state not in _COPY_STATES and replica.operation is not Operation.LOAD:
            _check_copies(fleet, model, "pin")
        footprints = fleet.footprints
        known = footprints.known_mb(node.name, model) or 0
        others = sum(footprints.known_mb(node.name, other) or 0 for other in node.pins)
        if known + others > node.budget_mb:
            raise OperationRefused(
                f"model {model!r} needs {known} MiB, but the models pinned on {node.name} take "
                f"{others} of its {node.budget_mb} MiB; unpin one of them first"
            )
        if 0 < node.max_resident <= len(node.pins):
            raise OperationRefused(
                f"max_resident of {node.name} is {node.max_resident}, and as many models are "
                "pinned there; unpin one of them first"
            )
