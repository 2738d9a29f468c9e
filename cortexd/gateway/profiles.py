"""The profile of each replica: the requests that its node accepts, and its model's abilities."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from cortexd.dialects.probing.learned import Learned
from cortexd.dialects.wire.profile import MISTRALRS, NodeKind, Profile, Speaks
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import ReplicaKey


class Profiles:
    """The profiles of a ``fleet``.

    ``kinds`` maps a node's name to its kind. ``models`` has the profiles of described models, and
    all other models have ``default``; these profiles share one node kind. ``explicit`` has the
    abilities, by a described model's id, that are as described whatever a probe finds.

    A request has one translation for each profile, so replicas with equal abilities share one.
    """

    def __init__(
        self,
        fleet: Fleet,
        kinds: Mapping[str, NodeKind],
        models: Mapping[str, Profile],
        default: Profile = MISTRALRS,
        explicit: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self._fleet = fleet
        self._blind: set[str] = set()
        self._shared: dict[tuple[Any, ...], Profile] = {}
        self.reconfigure(kinds, models, default, explicit)
        self._learned: dict[ReplicaKey, Learned] = {}
        self._agreed: dict[str, Learned] = {}
        self._made: dict[tuple[Profile, Learned | None, NodeKind | None], Profile] = {}
        self._asked_whole: set[str] = set()

    def reconfigure(
        self,
        kinds: Mapping[str, NodeKind],
        models: Mapping[str, Profile],
        default: Profile,
        explicit: Mapping[str, Collection[str]] | None,
    ) -> None:
        """Take another configuration; what probes and nodes have shown stays.

        A profile that stays equal stays the same object: a request that waits has its translations
        by profile.
        """

        def shared(profile: Profile) -> Profile:
            return self._shared.setdefault(_values(profile), profile)

        self._default = shared(default)
        self._kinds = {node: kind for node, kind in kinds.items() if kind != default.kind}
        self._models = {model: shared(profile) for model, profile in models.items()}
        self._explicit = {name: set(fixed) for name, fixed in (explicit or {}).items()}
        for described in self._blind:
            self._take_blind(described)

    def of(self, node: str, model: str) -> Profile:
        """Return the profile of a model on a node. A LoRA adapter has the profile of its base."""
        known = self._fleet.nodes.get(node)
        if known is None:  # It has left the configuration while a request runs there.
            return self._made_for(node, model, None)
        replica = known.replicas.get(model)
        base = known.adapters.get(model) if replica is None else replica.base
        return self._made_for(node, model, base)

    def of_model(self, model: str) -> tuple[Profile, ...]:
        """Return the distinct profiles of a model over all nodes, at least one."""
        replicas = self._fleet.replicas(model)
        nodes = [each.node for each in replicas] or self._fleet.bringing(model)
        profiles = (self.of(node.name, model) for node in nodes)
        return tuple(dict.fromkeys(profiles)) or (self._known(model),)

    def learn(self, node: str, model: str, learned: Learned | None) -> None:
        """Take what a probe found of a model on a node; ``None`` forgets it.

        Where probes on several nodes agree, it is assumed of those nodes too that have not loaded
        the model yet: most nodes serve the same model under an id, and a request then has one
        translation for all of them.
        """
        if learned is None:
            self._learned.pop((node, model), None)
        else:
            self._learned[node, model] = learned
        found = {each for (_, known), each in self._learned.items() if known == model}
        self._agreed.pop(model, None)
        if len(found) == 1:
            self._agreed[model] = found.pop()

    def note_blind(self, model: str) -> bool:
        """Record a node's statement that a model cannot see images; return whether it is new.

        It holds on every node, whatever a probe found there.
        """
        base = self._fleet.base_of(model)
        described = self._described(model, base)
        is_new = self._known(described).vision
        self._blind.add(described)
        self._take_blind(described)
        return is_new

    def _take_blind(self, described: str) -> None:
        known = self._known(described)
        self._explicit.setdefault(described, set()).add("vision")
        if known.vision:
            self._models[described] = dataclasses.replace(known, vision=False)

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
        described = self._described(model, base)
        known = self._known(described)
        kind = self._kinds.get(node)
        if base is not None and kind is not None and kind.speaks is Speaks.BOTH:
            kind = None  # a node's own Messages route does not know adapters (nodes.md 1.11)
        learned = self._learned.get((node, base or model)) or self._agreed.get(base or model)
        if kind is None and learned is None:
            return known
        if learned is not None:
            learned = learned.without(self._explicit.get(described, ()))
        made = self._made.get((known, learned, kind))
        if made is None:
            made = known if learned is None else learned.applied_to(known)
            if kind is not None:
                made = dataclasses.replace(made, **kind._asdict())
            made = self._made[known, learned, kind] = self._shared.setdefault(_values(made), made)
        return made

    def _described(self, model: str, base: str | None) -> str:
        """Return the model whose description applies: this model if it has one, else its base."""
        return model if base is None or model in self._models else base

    def _known(self, model: str) -> Profile:
        return self._models.get(model, self._default)


def _values(profile: Profile) -> tuple[Any, ...]:
    return tuple(getattr(profile, each.name) for each in dataclasses.fields(Profile))
