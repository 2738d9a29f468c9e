"""The catalogue: every model of every node once, and the names by which clients request it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType

from cortexd.access.callers import ANYBODY, Caller
from cortexd.access.sight import allowed, is_limited, without_names
from cortexd.errors import (
    RETRY_WHEN_DOWN,
    RETRY_WHEN_UNLOADED,
    CortexError,
    Forbidden,
    ModelNotFound,
    ModelNotLoaded,
    Overloaded,
)
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Replica
from cortexd.fleet.states import ANSWERING_HEALTH, ANSWERING_STATES, NodeHealth, ReplicaState

DEFAULT = "default"
"""The name that mistral.rs gives to the model it takes for a request without one."""


class ModelStatus(enum.Enum):
    """How soon a model of the catalogue can answer.

    A replica that drains or unloads takes no new requests: it counts as unloaded. A replica on a
    cordoned node, or on a node that does not answer, does not count at all.
    """

    LOADED = "loaded"
    LOADING = "loading"
    UNLOADED = "unloaded"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One model: its id, its best status on any node, the nodes that list it, its aliases."""

    id: str
    status: ModelStatus
    nodes: tuple[str, ...]
    aliases: tuple[str, ...]


class Catalogue:
    """The models of ``fleet`` under the names of the configuration.

    ``aliases`` maps a client's name to a model id. ``named`` are the ids in the configuration, in
    the order in which they are preferred as the default.

    A key allows models by any of their names. The questions with a ``caller`` are answered as if
    there were no other models.
    """

    def __init__(self, fleet: Fleet, aliases: Mapping[str, str], named: Sequence[str]) -> None:
        self._fleet = fleet
        self._aliases: dict[str, str] = {}
        self.aliases: Mapping[str, str] = MappingProxyType(self._aliases)
        self.reconfigure(aliases, named)

    def reconfigure(self, aliases: Mapping[str, str], named: Sequence[str]) -> None:
        """Take the names of another configuration; ``aliases`` shows them from then on."""
        self._aliases.clear()
        self._aliases.update(aliases)
        self._aliases_by_model: dict[str, tuple[str, ...]] = {}
        for alias, model in sorted(aliases.items()):
            self._aliases_by_model[model] = (*self._aliases_by_model.get(model, ()), alias)
        self._named = tuple(dict.fromkeys(named))

    def entries(self) -> tuple[CatalogueEntry, ...]:
        """Return an entry for each model that any node lists, sorted by id.

        An adapter that was listed before has one too: a request for it loads its base.
        """
        return tuple(map(self.entry_of, self.ids))

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all models that have an entry, sorted."""
        models, adapters = self._fleet.models, self._fleet.adapters
        return tuple(sorted({*models, *adapters})) if adapters else models

    def sight(self, caller: Caller) -> Callable[[str], bool]:
        """Return whether a model, by its id, is there for the caller, as a function."""
        if caller.key is None or not is_limited(caller):
            return _all
        globs = caller.key.models
        return lambda model: allowed(globs, self.names_of(model))

    def names_of(self, model: str) -> tuple[str, ...]:
        """Return a model's id and its aliases; an alias that is an id of another means that one."""
        aliases = self._aliases_by_model.get(model, ())
        return (model, *(alias for alias in aliases if not self._knows(alias)))

    def entry(self, name: str, caller: Caller = ANYBODY) -> CatalogueEntry:
        """Return the entry of one model, by any of its names. Raises as ``find`` does."""
        return self.entry_of(self.find(name, caller))

    def find(self, name: str, caller: Caller = ANYBODY) -> str:
        """Return a model's id, as ``resolve`` does, for a caller that wants to see or unload it.

        Raises as ``resolve`` does. A model that is not there for the caller is unknown.
        """
        if name != DEFAULT and not self._allows(name, caller):
            raise self._missing(name, repr(name), is_hidden=True)
        return self.resolve(name, caller)

    def check(self, name: str, caller: Caller) -> None:
        """Raise Forbidden where the caller may not request a model of this name.

        The error is the same whether there is such a model or not. Each caller may request
        ``default``.
        """
        if is_limited(caller) and name != DEFAULT and not self._allows(name, caller):
            raise Forbidden(
                f"the key {caller.name!r} may not use model {name!r}; GET /v1/models lists the "
                "models that it may use",
                param="model",
            )

    def _allows(self, name: str, caller: Caller) -> bool:
        """Return whether a key allows a name, or any other name of the model that it means."""
        if not is_limited(caller):
            return True
        target = self.target(name)
        if target != name or self._knows(name):
            return self.sight(caller)(target)
        return caller.sees((name,))

    def resolve(self, name: str, caller: Caller = ANYBODY) -> str:
        """Return the id of the model that a client means by ``name``.

        An id names itself, an alias its model. ``default`` is the alias of that name if there is
        one; else the first loaded model that the configuration names, in its order; else the first
        other loaded model by id. The gateway never uses a node's own ``default``, because that
        moves from model to model (nodes.md 2.5.6).

        Raises ModelNotFound, Overloaded if a node that does not answer may list the model, or
        Forbidden as ``check`` does.
        """
        if self._knows(name) and not is_limited(caller):
            return name
        self.check(name, caller)
        if self._knows(name) and (name != DEFAULT or self.sight(caller)(name)):
            return name
        if name in self._aliases:
            target = self._aliases[name]
            if name != DEFAULT or self.sight(caller)(target):
                if self._knows(target):
                    return target
                raise self._missing(target, f"{target!r} (requested as {name!r})")
        if name == DEFAULT:
            return self._first_loaded(lambda replica: True, caller)
        raise self._missing(name, repr(name))

    def target(self, name: str) -> str:
        """Return the id that an alias stands for, and any other name as it is."""
        return name if self._knows(name) else self._aliases.get(name, name)

    def default(self, takes: Callable[[Replica], bool], caller: Caller = ANYBODY) -> str:
        """Return the model of ``default`` for a request that not every replica ``takes``.

        If no replica takes it, ``default`` means the same as for any other request. Raises as
        ``resolve`` does.
        """
        is_there = self.sight(caller)
        target = self._aliases.get(DEFAULT)
        if target is not None and is_there(target) and self._is_taken(target, takes):
            return target
        try:
            return self._first_loaded(takes, caller)
        except ModelNotLoaded:
            models = filter(is_there, self._fleet.models)
            if any(self._is_taken(model, takes) for model in models):
                raise
        return self.resolve(DEFAULT, caller)

    def conceal(self, error: CortexError, caller: Caller) -> None:
        """Take the names of models that are not there for the caller out of an error's message.

        A node's own message may list all of its models (nodes.md 4.4), and the queue of an adapter
        is that of its base.
        """
        if is_limited(caller):
            error.message = self.concealed(error.message, caller)

    def concealed(self, text: str, caller: Caller) -> str:
        """Return a text without the names of models that are not there for the caller."""
        if not is_limited(caller):
            return text
        is_there = self.sight(caller)
        named = [
            name
            for name in chain(self.ids, self._named, self._aliases)
            if name in text and not is_there(self.target(name))
        ]
        return without_names(text, named) if named else text

    def _is_taken(self, model: str, takes: Callable[[Replica], bool]) -> bool:
        return any(map(takes, self._fleet.replicas(model)))

    def label(self, model: str | None) -> str:
        """Return the model's id if the catalogue knows it, else ``unknown``.

        This is for metrics: a name that a client invents must never become a label.
        """
        return model if model is not None and self._knows(model) else "unknown"

    def _knows(self, model: str) -> bool:
        return model in self._fleet or self._fleet.base_of(model) is not None

    def _first_loaded(self, takes: Callable[[Replica], bool], caller: Caller) -> str:
        known = (model for model in self._named if model in self._fleet)
        for model in filter(self.sight(caller), chain(known, self._fleet.models)):
            if self._status(filter(takes, self._fleet.replicas(model))) is ModelStatus.LOADED:
                return model
        raise ModelNotLoaded(
            "no loaded model can serve 'default'; request a model by its id from GET /v1/models",
            retry_after=RETRY_WHEN_UNLOADED,
        )

    def _missing(
        self, model: str, described: str, *, is_hidden: bool = False
    ) -> ModelNotFound | Overloaded:
        """Return the error for a name without a model; ``is_hidden`` for one that must look so."""
        health = {name: node.health for name, node in self._fleet.nodes.items()}
        unknown = [name for name, state in health.items() if state is NodeHealth.UNKNOWN]
        if unknown:
            return Overloaded(
                f"model {described} may be on a node that has not answered yet: "
                f"{', '.join(unknown)}",
                retry_after=RETRY_WHEN_DOWN,
            )
        silent = [name for name, state in health.items() if state not in ANSWERING_HEALTH]
        if silent and model in self._named and not is_hidden:
            return Overloaded(
                f"model {described} may be on a node that does not answer: {', '.join(silent)}",
                retry_after=RETRY_WHEN_DOWN,
            )
        return ModelNotFound(
            f"no node lists model {described}; GET /v1/models lists the models", param="model"
        )

    def entry_of(self, model: str) -> CatalogueEntry:
        """Return the entry of a model by its id; one that no node lists is unavailable."""
        replicas = self._fleet.replicas(model)
        nodes = [replica.node for replica in replicas] or self._fleet.bringing(model)
        base = None if replicas else self._fleet.base_of(model)
        if base is not None:
            # Its base is not loaded there, or the adapter would be listed.
            replicas = [replica for node in nodes if (replica := node.replicas.get(base))]
        return CatalogueEntry(
            id=model,
            status=self._status(replicas),
            nodes=tuple(node.name for node in nodes),
            aliases=self.names_of(model)[1:],
        )

    @staticmethod
    def _status(replicas: Iterable[Replica]) -> ModelStatus:
        states = {replica.state for replica in replicas if replica.node.takes_work}
        if states & ANSWERING_STATES:
            return ModelStatus.LOADED
        if ReplicaState.LOADING in states:
            return ModelStatus.LOADING
        return ModelStatus.UNLOADED if states else ModelStatus.UNAVAILABLE


def _all(model: str) -> bool:
    return True
