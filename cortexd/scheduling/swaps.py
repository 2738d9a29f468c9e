"""The change of models under way on one node.

A swap goes through these phases, forward only; a load alone begins in the third.

==========  =================================================  =================================
phase       what happens                                       what ends it
==========  =================================================  =================================
draining    victims get no new requests and end those they     all are idle, or the target is no
            have                                               longer wanted
unloading   one victim after the other is unloaded, and the    the target fits
            node's memory verified
loading     the target is loaded                               the load ends, well or badly
==========  =================================================  =================================

A swap without a target only unloads. When the target is no longer wanted before its load has begun,
victims that are not being unloaded answer again, and the load does not begin.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cortexd.fleet.nodes import Node, Replica, counted
from cortexd.fleet.states import Operation, ReplicaState
from cortexd.text import printable


@dataclass(slots=True, eq=False, repr=False)
class Swap:
    """The change under way on ``node``: ``victims`` go, then ``target`` comes.

    ``number`` is that of the last decision about it; ``evicted`` are the models that have gone.
    ``evicts_all`` says that the target's load ran out of memory once, so that all victims go before
    the next try. ``at_once`` unloads victims that requests still use. ``abandoned`` says that the
    node is gone, so that nothing waits for what is moving there. ``disturbed`` says that something
    else changed on the node since the load began, so that the load measures nothing. ``is_copy``
    says that the target is a further copy, which is worth these victims and no others.
    ``is_prefetch`` says that it comes before any request for it, and only into free memory.
    """

    node: Node
    target: Replica | None
    victims: list[Replica]
    number: int
    since: float
    evicted: list[str] = field(default_factory=list)
    evicts_all: bool = False
    at_once: bool = False
    abandoned: bool = False
    disturbed: bool = False
    is_copy: bool = False
    is_prefetch: bool = False

    @property
    def moving(self) -> Replica | None:
        """The replica that is being loaded or unloaded right now."""
        for victim in self.victims:
            if victim.operation is Operation.UNLOAD or victim.operation is Operation.LOAD:
                return victim
        target = self.target
        if target is not None and target.operation in (Operation.LOAD, Operation.UNLOAD):
            return target
        return None

    @property
    def draining(self) -> list[Replica]:
        """The victims whose unload has not begun: each is unloaded or spared later."""
        return [victim for victim in self.victims if victim.operation is Operation.DRAIN]

    @property
    def phase(self) -> str:
        """The phase in a word."""
        moving = self.moving
        if moving is None:
            return "draining"
        return "loading" if moving.operation is Operation.LOAD else "unloading"

    def __repr__(self) -> str:
        moving, target = self.moving, self.target
        phase = self.phase if moving is None else f"{self.phase} {printable(moving.model)}"
        victims = counted(len(self.victims), "victim")
        then = "no target" if target is None else f"then {printable(target.model)}"
        return f"<Swap on {printable(self.node.name)}: {phase}, {victims}, {then}>"


class Swaps:
    """The swaps under way, at most one for each node, by node and by target."""

    def __init__(self) -> None:
        self._by_node: dict[str, Swap] = {}
        self._by_target: dict[str, list[Swap]] = {}

    def __contains__(self, node: str) -> bool:
        return node in self._by_node

    def __iter__(self) -> Iterator[Swap]:
        return iter(list(self._by_node.values()))

    def on(self, node: str) -> Swap | None:
        """Return the swap under way on a node, if any."""
        return self._by_node.get(node)

    @property
    def nodes(self) -> dict[str, Swap]:
        """The swaps by node, to be read."""
        return self._by_node

    def brings(self, model: str) -> bool:
        """Whether a swap loads the model."""
        return model in self._by_target

    def bringing(self, model: str) -> tuple[Swap, ...]:
        """Return the swaps that load the model, in the order in which they began."""
        return tuple(self._by_target.get(model, ()))

    def add(self, swap: Swap) -> None:
        """Add a swap that begins. Raises KeyError where its node has one already."""
        if swap.node.name in self._by_node:
            raise KeyError(f"node {swap.node.name} is changing models already")
        self._by_node[swap.node.name] = swap
        if swap.target is not None:
            self._by_target.setdefault(swap.target.model, []).append(swap)

    def remove(self, swap: Swap) -> None:
        """Remove a swap that ends."""
        del self._by_node[swap.node.name]
        if swap.target is not None:
            others = self._by_target[swap.target.model]
            others.remove(swap)
            if not others:
                del self._by_target[swap.target.model]


def still_drains(victim: Replica) -> bool:
    """Whether a victim is still to be unloaded.

    Another client of the node may have unloaded or bricked it meanwhile, and an operator may have
    pinned it.
    """
    return victim.state is ReplicaState.DRAINING and victim.is_listed and not victim.pinned
