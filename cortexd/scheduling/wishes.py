"""What an operator may ask of the fleet's models, and what would come of it: pure.

Each function either returns what is to be done or raises OperationRefused in words for a person.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cortexd.errors import OperationRefused
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node, Replica
from cortexd.fleet.states import ANSWERING_HEALTH, ANSWERING_STATES, ReplicaState
from cortexd.scheduling.decisions import Candidate, candidates, cost_words, obstacle_words
from cortexd.scheduling.placement import EvictionTerms, Finding, Obstacle, Option, best, survey


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load would do: take ``option``, out of what was ``found``.

    ``cost`` is what it would cost in words, ``candidates`` what each node would, the best first;
    both as it was when the plan was made.
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
        """The models that would be given up."""
        return tuple(victim.model for victim in self.option.victims.victims)

    @property
    def seconds(self) -> float:
        """How long the load is expected to take, once its victims are idle."""
        return self.option.seconds


def node_named(fleet: Fleet, name: str) -> Node:
    """Return a node by its name."""
    node = fleet.nodes.get(name)
    if node is None:
        raise OperationRefused(f"no node is called {name!r}; there are {', '.join(fleet.nodes)}")
    return node


def _replicas(fleet: Fleet, model: str, node: str | None) -> list[Replica]:
    if model not in fleet:
        raise OperationRefused(
            f"no node lists a model {model!r}; `cortexctl models` shows what there is"
        )
    base = next((replica.base for replica in fleet.replicas(model)), None)
    if base is not None:
        raise OperationRefused(
            f"{model!r} is an adapter: it comes and goes with its base, {base!r}"
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
    """Return what loading a model would do: on a certain node, or where it costs least.

    An operator may have models given up that are answering, once they are idle.
    """
    replicas = _replicas(fleet, model, node)
    loaded = [replica.node.name for replica in replicas if replica.answers]
    if loaded:
        raise OperationRefused(f"model {model!r} is loaded on {', '.join(loaded)} already")
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


def check_unload(
    fleet: Fleet, swapping: Collection[str], model: str, node: str | None
) -> list[Replica]:
    """Return the replicas to unload: of one node, or of all that answer and have it loaded."""
    loaded = [
        replica
        for replica in _replicas(fleet, model, node)
        if replica.state in (*ANSWERING_STATES, ReplicaState.DRAINING)
    ]
    where = f"on {node}" if node else "on any node"
    if not loaded:
        raise OperationRefused(f"model {model!r} is not loaded {where}")
    silent = [replica for replica in loaded if replica.node.health not in ANSWERING_HEALTH]
    if len(silent) == len(loaded):
        reasons = "; ".join(f"{each.node.name}: {each.node.reason}" for each in silent)
        raise OperationRefused(
            f"model {model!r} is loaded only on nodes that do not answer: {reasons}"
        )
    loaded = [replica for replica in loaded if replica not in silent]
    loaded = _managed(model, loaded)
    pinned = [replica.node.name for replica in loaded if replica.pinned]
    if pinned:
        raise OperationRefused(
            f"model {model!r} is pinned on {', '.join(pinned)}; "
            f"`cortexctl unpin {model} --node {pinned[0]}` first"
        )
    stuck = [replica.node.name for replica in loaded if replica.state is ReplicaState.STUCK]
    if stuck:
        raise OperationRefused(
            f"model {model!r} is stuck on {', '.join(stuck)}: unloaded, it could not be loaded "
            "again before the node is restarted"
        )
    busy = [replica.node.name for replica in loaded if replica.node.name in swapping]
    if busy:
        raise OperationRefused(
            f"{', '.join(busy)} is changing models; `cortexctl events` shows it: try again after"
        )
    return loaded


def _managed(model: str, loaded: list[Replica]) -> list[Replica]:
    managed = [replica for replica in loaded if replica.node.is_managed]
    if not managed:
        names = ", ".join(replica.node.name for replica in loaded)
        raise OperationRefused(
            f"model {model!r} is loaded on {names}, whose models come and go as it likes"
        )
    return managed


def check_pin(fleet: Fleet, node: Node, model: str, pinned: bool) -> None:
    """Refuse a pin that is there already, or the end of one that is not."""
    if pinned and model in node.pins:
        raise OperationRefused(f"model {model!r} is pinned on {node.name} already")
    if not pinned and model not in node.pins:
        raise OperationRefused(f"model {model!r} is not pinned on {node.name}")
    if pinned:
        _replicas(fleet, model, node.name)
        if not node.is_managed:
            raise OperationRefused(
                f"nothing can be pinned on {node.name}, whose models come and go as it likes"
            )
        footprints = fleet.footprints
        known = footprints.known_mb(node.name, model) or 0
        others = sum(footprints.known_mb(node.name, other) or 0 for other in node.pins)
        if known + others > node.budget_mb:
            raise OperationRefused(
                f"model {model!r} needs {known} MiB, and what is pinned on {node.name} takes "
                f"{others} of its {node.budget_mb}: unpin something first"
            )
        if 0 < node.max_resident <= len(node.pins):
            raise OperationRefused(
                f"max_resident of {node.name} is {node.max_resident}, and as many models are "
                "pinned there: unpin something first"
            )
