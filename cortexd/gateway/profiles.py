"""The profile of each replica: the requests that its node accepts, and its model's abilities."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from cortexd.dialects.wire.profile import MISTRALRS, NodeKind, Profile, Speaks
from cortexd.fleet.fleet import Fleet


class Profiles:
    """The profiles of a ``fleet``.

    ``kinds`` maps a node's name to its kind. ``models`` has the profiles of described models, and
    all other models have ``default``; these profiles share one node kind.
    """

    def __init__(
        self,
        fleet: Fleet,
        kinds: Mapping[str, NodeKind],
        models: Mapping[str, Profile],
        default: Profile = MISTRALRS,
    ) -> None:
        self._fleet = fleet
        self._kinds = {node: kind for node, kind in kinds.items() if kind != default.kind}
        self._models = dict(models)
        self._default = default
        self._asked_whole: set[str] = set()
        self._made: dict[tuple[NodeKind, Profile], Profile] = {}

    def of(self, node: str, model: str) -> Profile:
        """Return the profile of a model on a node. A LoRA adapter has the profile of its base."""
        known = self._fleet.nodes[node]
        replica = known.replicas.get(model)
        base = known.adapters.get(model) if replica is None else replica.base
        return self._made_for(node, model, base)

    def of_model(self, model: str) -> tuple[Profile, ...]:
        """Return the distinct profiles of a model over all nodes, at least one."""
        replicas = self._fleet.replicas(model)
        nodes = [each.node for each in replicas] or self._fleet.bringing(model)
        profiles = (self.of(node.name, model) for node in nodes)
        return tuple(dict.fromkeys(profiles)) or (self._known(model),)

    def note_blind(self, model: str) -> bool:
        """Record a node's statement that a model cannot see images; return whether it is new."""
        base = self._fleet.base_of(model)
        described = self._described(model, base)
        known = self._known(described)
        if known.vision:
            self._models[described] = dataclasses.replace(known, vision=False)
        return known.vision

    def note_asked_whole(self, model: str) -> bool:
        """Record that a model's stream cannot force a call; return whether that is new."""
        described = self._described(model, self._fleet.base_of(model))
        is_new = described not in self._asked_whole
        self._asked_whole.add(described)
        return is_new

    def is_asked_whole(self, model: str) -> bool:
        """Whether requests that force a call are asked without a stream (nodes.md 4.1.9)."""
        return self._described(model, self._fleet.base_of(model)) in self._asked_whole

    def _made_for(self, node: str, model: str, base: str | None) -> Profile:
        known = self._known(self._described(model, base))
        kind = self._kinds.get(node)
        if kind is None or (base is not None and kind.speaks is Speaks.BOTH):
            return known  # a node's own Messages route does not know adapters (nodes.md 1.11)
        made = self._made.get((kind, known))
        if made is None:
            made = dataclasses.replace(known, **kind._asdict())
            self._made[kind, known] = made
        return made

    def _described(self, model: str, base: str | None) -> str:
        """Return the model whose description applies: this model if it has one, else its base."""
        return model if base is None or model in self._models else base

    def _known(self, model: str) -> Profile:
        return self._models.get(model, self._default)
