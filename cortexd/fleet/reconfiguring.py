"""What a new configuration makes of a fleet: which nodes stay, and by which terms.

A node stays if its name, its endpoint and its engine stay: then all that is known of it stays too,
and its new terms hold at once. Any other node of the old fleet leaves it, even if the new fleet has
one of the same name, which may be another machine. Only its agent stays, which has proved that
it may speak for that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from cortexd.fleet.breaker import BreakerTerms
from cortexd.fleet.footprints import Footprints
from cortexd.fleet.leases import Leases
from cortexd.fleet.memory import book, note_others, over_mb
from cortexd.fleet.nodes import ModelTerms, Node, NodeTerms, Replica, ReplicaKey
from cortexd.fleet.states import Change, NodeAdded, NodeRemoved, ReplicaChanged


@dataclass(frozen=True, slots=True)
class FleetTerms:
    """The configuration of a fleet.

    ``nodes`` are in their order. ``models`` has the terms of the models in the configuration; all
    others have ``default_terms``. ``footprint_mb`` returns the configured MiB of a model on a node,
    both by name, or ``None``. A node is down after ``down_after`` failed polls in a row. A load may
    take ``load_timeout`` seconds. ``breaker_terms`` say when a replica that fails is ejected.
    """

    nodes: tuple[NodeTerms, ...]
    models: Mapping[str, ModelTerms]
    default_terms: ModelTerms
    footprint_mb: Callable[[str, str], int | None]
    down_after: int
    load_timeout: float
    breaker_terms: BreakerTerms = field(default_factory=BreakerTerms)

    def terms_of(self, model: str) -> ModelTerms:
        """Return the terms of a model, in the configuration or not."""
        return self.models.get(model, self.default_terms)


class Wishes:
    """What an operator wishes beside the configuration: it outlives reloads and nodes.

    ``pins`` says of a node and a model whether the operator pinned the model there or removed the
    pin; ``cordons`` are names of nodes.
    """

    def __init__(self) -> None:
        self.pins: dict[ReplicaKey, bool] = {}
        self.cordons: set[str] = set()

    def pin(self, node: Node, model: str, pinned: bool, *, is_allowed: bool = True) -> None:
        """Pin a model to a node, or remove the pin.

        A pin has no effect as long as the model is not allowed on the node.
        """
        self.pins[node.name, model] = pinned
        if pinned and is_allowed:
            node.pins[model] = None
        else:
            node.pins.pop(model, None)
        replica = node.replicas.get(model)
        if replica is not None:
            replica.take_terms(replica.terms)

    def pinned_on(self, node: str, configured: Iterable[str]) -> dict[str, None]:
        """Return the models pinned on a node: those of the configuration under the wishes."""
        pins = dict.fromkeys(configured)
        for (name, model), pinned in self.pins.items():
            if name == node and pinned:
                pins[model] = None
            elif name == node:
                pins.pop(model, None)
        return pins


def stays(node: Node, terms: NodeTerms | None) -> bool:
    """Return whether a node is the one that new terms of its name describe."""
    return (
        terms is not None
        and (node.endpoint, node.engine) == (terms.endpoint, terms.engine)
        and node.is_managed == terms.is_managed
    )


TermsOf = Callable[[str], ModelTerms]
"""Returns the terms of a model."""


def make_node(
    position: int, terms: NodeTerms, wishes: Wishes, terms_of: TermsOf, now: float
) -> Node:
    """Return a node that was not polled yet."""
    node = Node(
        position,
        terms.name,
        terms.endpoint,
        terms.budget_mb,
        terms.max_resident,
        since=now,
        is_managed=terms.is_managed,
        engine=terms.engine,
    )
    take_terms(node, position, terms, wishes, terms_of)
    return node


def take_terms(
    node: Node, position: int, terms: NodeTerms, wishes: Wishes, terms_of: TermsOf
) -> None:
    """Let the terms of a node hold, under the operator's wishes for it."""
    node.labels = frozenset(terms.labels)
    node.position = position
    node.budget_mb, node.max_resident = terms.budget_mb, terms.max_resident
    node.pins.clear()
    pins = wishes.pinned_on(node.name, terms.pinned)
    node.pins.update({model: None for model in pins if terms_of(model).allow(node.labels)})
    node.cordoned = node.name in wishes.cordons
    node.power.terms = terms.power


def is_overfull(node: Node) -> bool:
    """Return whether the resident replicas of a node exceed what it may fill, or their number."""
    too_many = 0 < node.max_resident < node.resident
    return node.is_managed and (too_many or over_mb(node) > 0)


def rebuild(
    nodes: dict[str, Node],
    replicas: dict[str, dict[str, Replica]],
    leases: Leases,
    wishes: Wishes,
    footprints: Footprints,
    terms: FleetTerms,
    now: float,
) -> list[Change]:
    """Make ``nodes`` those of the terms, in their order, and return what has changed.

    ``replicas`` has the replicas of each model by node. Those of a node that leaves are forgotten;
    its leases go on to their end.
    """
    footprints.reconfigure(terms.footprint_mb)
    wanted = {each.name: each for each in terms.nodes}
    changes: list[Change] = []
    before = dict(nodes)
    for node in list(nodes.values()):
        if not stays(node, wanted.get(node.name)):
            changes += _forget(node, replicas)
            leases.depart(node)
            del nodes[node.name]
    staying = dict(nodes)
    nodes.clear()
    for position, each in enumerate(terms.nodes):
        known = staying.get(each.name)
        if known is None:
            changes.append(NodeAdded(each.name))
            known = make_node(position, each, wishes, terms.terms_of, now)
            _keep_agent(before.get(each.name), known)
        else:
            take_terms(known, position, each, wishes, terms.terms_of)
        nodes[each.name] = known
    for model, those in replicas.items():
        replicas[model] = in_order(those)
        for replica in those.values():
            replica.take_terms(terms.terms_of(model))
    for node in nodes.values():
        footprints.note_budget(node.name, node.budget_mb)
    for node in nodes.values():
        if node.system is not None:
            note_others(node, node.system)
        book(node, footprints)
        node.is_shrinking = is_overfull(node)
    return changes


def _keep_agent(before: Node | None, node: Node) -> None:
    """Let a node that is made anew keep its agent, which speaks for whatever has its name."""
    if before is not None and before.agent is not None:
        node.agent, node.report, node.reported_at = before.agent, before.report, before.reported_at
        if node.report is not None and node.report.system is not None:
            node.system = node.report.system


def _forget(node: Node, replicas: dict[str, dict[str, Replica]]) -> list[Change]:
    changes: list[Change] = []
    for model, replica in node.replicas.items():
        changes.append(ReplicaChanged(node.name, model, replica.state, None))
        del replicas[model][node.name]
        if not replicas[model]:
            del replicas[model]
    return [*changes, NodeRemoved(node.name)]


def in_order(replicas: Mapping[str, Replica]) -> dict[str, Replica]:
    """Return the replicas of a model in the order of their nodes."""
    return dict(sorted(replicas.items(), key=lambda item: item[1].node.position))
