"""Which profile each replica has: what its node's server takes, and what its model can do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from cortexd.dialects.profile import MISTRALRS, Profile, Speaks
from cortexd.fleet import Fleet


class Profiles:
    """The profiles of a ``fleet``.

    ``speaks`` has what nodes take where that is not chat alone, ``models`` the profiles of models
    of which something is known, ``default`` is that of the others.
    """

    def __init__(
        self,
        fleet: Fleet,
        speaks: Mapping[str, Speaks],
        models: Mapping[str, Profile],
        default: Profile = MISTRALRS,
    ) -> None:
        self._fleet = fleet
        self._speaks = dict(speaks)
        self._models = dict(models)
        self._default = default
        self._made: dict[tuple[Speaks, Profile], Profile] = {}

    def of(self, node: str, model: str) -> Profile:
        """Return the profile of a model on a node. A LoRA adapter has that of its base."""
        replica = self._fleet.nodes[node].replicas.get(model)
        is_adapter = replica is not None and replica.base is not None
        if replica is not None and replica.base is not None and model not in self._models:
            model = replica.base
        known = self._models.get(model, self._default)
        speaks = self._speaks.get(node)
        if speaks is None or (is_adapter and speaks is Speaks.BOTH):
            return known  # no adapter is known to a node's own Messages route (upstream notes 5)
        made = self._made.get((speaks, known))
        if made is None:
            made = self._made[speaks, known] = dataclasses.replace(known, speaks=speaks)
        return made

    def of_model(self, model: str) -> tuple[Profile, ...]:
        """Return each profile that a model has on some node, at least one."""
        nodes = [replica.node.name for replica in self._fleet.replicas(model)]
        return tuple(dict.fromkeys(self.of(node, model) for node in nodes)) or (
            self._models.get(model, self._default),
        )

    def note_blind(self, model: str) -> bool:
        """Take from a node's words that a model cannot see; return whether that is news."""
        for replica in self._fleet.replicas(model):
            model = replica.base or model
        known = self._models.get(model, self._default)
        if known.vision:
            self._models[model] = dataclasses.replace(known, vision=False)
        return known.vision
