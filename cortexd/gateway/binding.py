"""Binds a request to the one node that stores the state that the request names."""

from __future__ import annotations

from collections.abc import Sequence

from cortexd.dialects.routes.kept import not_found
from cortexd.errors import BadRequest
from cortexd.fleet.affinity import Reference, StateKind, Whereabouts
from cortexd.fleet.fleet import Fleet


def bound_node(
    references: Sequence[Reference],
    model: str,
    known: Whereabouts,
    fleet: Fleet,
    now: float,
    owner: str = "",
) -> str | None:
    """Return the node that has all state that the request of an owner for a model names.

    ``None`` where any node can serve the request: the chosen node starts an unknown session anew.
    Raises StateNotFound for any other unknown state, and BadRequest where no single node has
    everything; both name the field.
    """
    bound: tuple[str, Reference] | None = None
    for reference in references:
        kept, param = reference.kept, reference.param
        place = known.place_of(kept, now, model, owner)
        if place is None:
            if kept.kind is StateKind.SESSION:
                continue
            raise not_found(kept, param)
        if model not in fleet.nodes[place.node].replicas:
            raise BadRequest(
                f"{param}: {kept.kind.value} {kept.id!r} is on node {place.node}, which does "
                f"not have model {model!r}",
                param=param,
            )
        if bound is None:
            bound = (place.node, reference)
        elif bound[0] != place.node:
            raise BadRequest(
                f"{bound[1].param} is on node {bound[0]}, and {param} on node {place.node}; "
                "a request can use only one node",
                param=param,
            )
    return bound[0] if bound is not None else None
