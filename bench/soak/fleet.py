"""The nodes of the soak, the daemon's configuration for them, and their troubles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from twisted.internet.defer import Deferred, gatherResults

from cortexd.testing import SimulatedModel, SimulatedNode

# MiB. All models together take three times what all nodes have.
CHAT_SIZES = {"a": 9_000, "b": 7_000, "c": 6_000, "d": 5_000, "e": 4_000}
EMBEDDING_MB = 2_000
MEMORY = {"large": 11_000, "medium": 7_000, "small": 4_000}

EMBEDDING = "acme/embed"
GIVEN, LEARNED = "given", "learned"
"""How the daemon comes by a model's footprint: there is one of each size for either way."""

PROMPT_SECONDS, TOKEN_SECONDS = 0.2, 0.02
FREE_DELAY_SECONDS = 0.5
"""How long after an unload the memory comes back, until there is trouble with it."""

TROUBLES = (
    "restart",
    "vanish",
    "leak",
    "late memory",
    "deaf while loading",
    "failing load",
    "panicking load",
)
LEAK_MB = 400
LATEST_MEMORY_SECONDS = 1.5
AWAY_SECONDS = (2.0, 12.0)

QUEUE_SECONDS = 60.0
CONFIG = """\
[gateway]
listen = "127.0.0.1:{port}"
metrics_listen = "127.0.0.1:{metrics_port}"
control_socket = "{directory}/control.sock"
state_dir = "{directory}/state"
hold_seconds = 2.0
keepalive_seconds = 2.0

[polling]
interval = 1.0
timeout = 1.0

[eviction]
interval = 2.0

[scheduling]
load_timeout = 30.0
max_queue = 64
queue_timeout = {queue_seconds}
max_wait = 8.0
min_residency = 5.0
"""


def simulated_models() -> list[SimulatedModel]:
    """Return all models; a larger model takes longer to load, from 1 s to 4 s."""
    sizes = {f"acme/{name}": size for name, size in CHAT_SIZES.items()}
    return [
        SimulatedModel(
            id=f"{name}-{origin}",
            size_mb=size,
            load_seconds=0.2 + size / 2_400,
            kind="embedding" if name == EMBEDDING else "chat",
        )
        for origin in (GIVEN, LEARNED)
        for name, size in {**sizes, EMBEDDING: EMBEDDING_MB}.items()
    ]


def given_footprints() -> dict[str, int]:
    """Return the MiB of each model with a configured footprint, by id."""
    models = simulated_models()
    return {model.id: model.size_mb for model in models if model.id.endswith(GIVEN)}


def simulated_nodes(clock: Any) -> dict[str, SimulatedNode]:
    """Return the nodes, by name: each lists all models that fit, and starts with one loaded."""
    nodes = {}
    for name, memory_mb in MEMORY.items():
        models = [model for model in simulated_models() if model.size_mb <= memory_mb]
        nodes[name] = SimulatedNode(
            clock,
            name=name,
            memory_mb=memory_mb,
            models=models,
            starts_loaded=[models[-1].id],
            prompt_seconds=PROMPT_SECONDS,
            token_seconds=TOKEN_SECONDS,
        )
        nodes[name].faults.free_delay_seconds = FREE_DELAY_SECONDS
    return nodes


def config_text(directory: Path, port: int, metrics_port: int, nodes: Mapping[str, int]) -> str:
    """Return the daemon's configuration; `nodes` are the nodes' ports by name."""
    text = CONFIG.format(
        port=port, metrics_port=metrics_port, directory=directory, queue_seconds=QUEUE_SECONDS
    )
    for name, node_port in nodes.items():
        text += f'\n[[nodes]]\nname = "{name}"\nendpoint = "http://127.0.0.1:{node_port}"\n'
        text += f"vram_mb = {MEMORY[name]}\n"
    for model, size_mb in given_footprints().items():
        text += f'\n[[models]]\nid = "{model}"\nvram_mb = {size_mb}\n'
    return text


class Troubles:
    """The troubles of the nodes: every kind once, in random order, then every kind again.

    `counts` has the number of troubles of each kind.
    """

    kinds: ClassVar[tuple[str, ...]] = TROUBLES

    def __init__(self, reactor: Any, nodes: Mapping[str, SimulatedNode], dice: Random) -> None:
        self._reactor = reactor
        self._nodes = nodes
        self._dice = dice
        self._to_come: list[str] = []
        self._away: dict[str, Deferred[None]] = {}
        self.counts: Counter[str] = Counter()

    def strike(self) -> None:
        """Apply the next trouble to one of the nodes that are up."""
        if not self._to_come:
            self._to_come = list(self.kinds)
            self._dice.shuffle(self._to_come)
        trouble = self._to_come.pop()
        name = self._dice.choice([name for name in self._nodes if name not in self._away])
        self.counts[trouble] += 1
        self.befall(self._nodes[name], trouble)

    def befall(self, node: SimulatedNode, trouble: str) -> None:
        """Let a trouble of one of our kinds befall a node."""
        faults, dice = node.faults, self._dice
        model = dice.choice([each.id for each in simulated_models()])
        match trouble:
            case "restart":
                faults.panic_load.clear()
                node.restart()
            case "vanish":
                faults.panic_load.clear()
                self.send_away(node, dice.uniform(*AWAY_SECONDS))
            case "leak":
                faults.leak_mb_per_unload = LEAK_MB - faults.leak_mb_per_unload
            case "late memory":
                faults.free_delay_seconds = dice.uniform(0.0, LATEST_MEMORY_SECONDS)
                faults.free_steps = dice.randint(1, 4)
            case "deaf while loading":
                faults.deaf_while_loading = not faults.deaf_while_loading
            case "failing load":
                faults.fail_load[model] = "simulated weights are damaged"
                faults.fail_load_times[model] = 1
            case "panicking load":
                faults.panic_load.add(model)

    def send_away(self, node: SimulatedNode, seconds: float) -> None:
        """End a node's process, and start another one after some seconds."""
        away = Deferred.fromCoroutine(node.vanish(self._reactor, seconds))
        self._away[node.name] = away
        away.addBoth(self._returned, node.name)

    def _returned(self, result: object, name: str) -> object:
        del self._away[name]
        return result

    def over(self) -> Deferred[list[None]]:
        """Return a Deferred that fires once every node is up again."""
        return gatherResults(list(self._away.values()))
