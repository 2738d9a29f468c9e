"""The simulated fleet: nodes and models; memory in MiB, times in seconds."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

GIB = 1024
# A model is listed on so many nodes of a larger fleet: nobody keeps all weights everywhere.
LISTED_ON = 10
MIXED_SIZES_MB = tuple(size * GIB for size in (4, 8, 8, 16, 24, 40))
SIZE_MB = 16 * GIB
LOAD_SECONDS = 20.0


def seeded(*parts: object) -> random.Random:
    """Return a random generator that yields the same numbers for the same parts, in any process."""
    return random.Random("/".join(map(str, parts)))  # noqa: S311 -- makes traces, not secrets


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A machine and the MiB that its models may fill."""

    name: str
    memory_mb: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model, the names of the nodes that list it, and the seats of each of its replicas."""

    id: str
    size_mb: int
    load_seconds: float
    nodes: tuple[str, ...]
    unload_seconds: float = 0.5
    seats: int = 32


@dataclass(frozen=True)
class FleetSpec:
    """Nodes and models by name; ValueError for a model that is too large for a node that lists it,
    and for one that no node lists.
    """

    nodes: Mapping[str, NodeSpec] = field(repr=False)
    models: Mapping[str, ModelSpec] = field(repr=False)

    def __post_init__(self) -> None:
        for model in self.models.values():
            if not model.nodes:
                raise ValueError(f"no node lists model {model.id}: list it on one at least")
            for name in model.nodes:
                if model.size_mb > self.nodes[name].memory_mb:
                    raise ValueError(
                        f"model {model.id} has {model.size_mb} MiB and node {name}, which lists it,"
                        f" {self.nodes[name].memory_mb}: list it elsewhere"
                    )

    @property
    def memory_mb(self) -> int:
        """The memory of all nodes together."""
        return sum(node.memory_mb for node in self.nodes.values())

    @property
    def most_replicas(self) -> int:
        """How many replicas fit at most, were all as small as the smallest model."""
        smallest = min(model.size_mb for model in self.models.values())
        return sum(node.memory_mb // smallest for node in self.nodes.values())

    @property
    def sizes_mb(self) -> dict[str, int]:
        """The size of each model."""
        return {model.id: model.size_mb for model in self.models.values()}

    @property
    def has_equal_sizes(self) -> bool:
        """Whether all models take the same memory."""
        return len({model.size_mb for model in self.models.values()}) == 1


def _names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}-{number:0{len(str(count - 1))}}" for number in range(count)]


def numbered_models(count: int) -> list[str]:
    """Make ids for so many models."""
    return _names("model", count)


def make_fleet(
    nodes: int,
    model_ids: Sequence[str],
    *,
    slots: int,
    listed_on: int = LISTED_ON,
    mixed_sizes: bool = False,
    seed: object = 0,
) -> FleetSpec:
    """Make nodes that hold `slots` models of 16 GiB each, and models with these ids.

    All models have 16 GiB and load in 20 s; or, with `mixed_sizes`, 4 to 40 GiB, with the load time
    in proportion. Each is listed on `listed_on` nodes, or all where there are no more.
    """
    chance = seeded("fleet", seed)
    names = _names("node", nodes)
    specs = {name: NodeSpec(name, slots * SIZE_MB) for name in names}
    models = {}
    for model_id in model_ids:
        listed = sorted(chance.sample(names, listed_on)) if nodes > listed_on else names
        size_mb = SIZE_MB
        if mixed_sizes:
            size_mb = min(chance.choice(MIXED_SIZES_MB), slots * SIZE_MB)
        seconds = LOAD_SECONDS * size_mb / SIZE_MB
        models[model_id] = ModelSpec(model_id, size_mb, seconds, tuple(listed))
    return FleetSpec(specs, models)
