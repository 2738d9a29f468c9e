"""The fleet of `twistd cortex --demo`, and the single node of `python -m cortexd.testing`."""

from collections.abc import Collection

from twisted.internet.interfaces import IReactorTime

from cortexd.testing.model import SimulatedModel
from cortexd.testing.node import SimulatedNode

# A comfortable reading speed, and a prompt phase that is long enough to notice.
TOKEN_SECONDS = 0.02
PROMPT_SECONDS = 0.2

CHAT_8B = SimulatedModel(id="acme/chat-8b", size_mb=6_144, load_seconds=3, context_tokens=32_768)


def demo_fleet(clock: IReactorTime) -> tuple[SimulatedNode, ...]:
    """Return three nodes of different sizes that do not listen yet.

    One model is on two of them, and one is an embedding model. Two models start unloaded, and fit
    their node only after an eviction.
    """
    return (
        _node(
            clock,
            "gpu-large",
            49_152,
            SimulatedModel(
                id="acme/large-chat-70b", size_mb=36_864, load_seconds=8, context_tokens=131_072
            ),
            CHAT_8B,
            SimulatedModel(
                id="acme/writer-32b",
                size_mb=20_480,
                load_seconds=6,
                context_tokens=65_536,
                loaded=False,
            ),
        ),
        _node(
            clock,
            "gpu-medium",
            24_576,
            SimulatedModel(
                id="acme/reasoner-14b",
                size_mb=10_240,
                load_seconds=4,
                context_tokens=65_536,
                thinks=True,
            ),
            CHAT_8B,
            SimulatedModel(
                id="acme/coder-22b",
                size_mb=14_336,
                load_seconds=5,
                context_tokens=65_536,
                loaded=False,
            ),
        ),
        _node(
            clock,
            "gpu-small",
            12_288,
            SimulatedModel(
                id="acme/mini-chat-3b", size_mb=3_072, load_seconds=2, context_tokens=16_384
            ),
            SimulatedModel(
                id="acme/embed-small",
                size_mb=1_024,
                load_seconds=1,
                kind="embedding",
                context_tokens=8_192,
            ),
        ),
    )


def single_node(
    clock: IReactorTime,
    *,
    fast: bool,
    memory_mb: int = 24_576,
    cold: Collection[str] = (),
    kind: type[SimulatedNode] = SimulatedNode,
    version: str = "0.9.2",
    prompt_token_seconds: float = 0.0,
) -> SimulatedNode:
    """Return one node with two chat models of 6 GiB each and an embedding model of 1 GiB.

    With `fast`, it answers without delays, except that each token of a prompt that is not cached
    takes `prompt_token_seconds`. The models in `cold` start unloaded. `kind` is the class of the
    node, `version` that of its server. Raises ValueError for an unknown id, and if the loaded
    models do not fit.
    """
    models = [
        SimulatedModel(id="acme/chat", size_mb=6_144, load_seconds=0 if fast else 3),
        SimulatedModel(id="acme/thinker", size_mb=6_144, thinks=True),
        SimulatedModel(id="acme/embed", size_mb=1_024, kind="embedding"),
    ]
    unknown = set(cold) - {model.id for model in models}
    if unknown:
        raise ValueError(f"there is no model {', '.join(sorted(unknown))}")
    return kind(
        clock,
        name="simulated",
        models=models,
        memory_mb=memory_mb,
        starts_loaded=[model.id for model in models if model.id not in cold],
        prompt_seconds=0 if fast else PROMPT_SECONDS,
        prompt_token_seconds=prompt_token_seconds,
        token_seconds=0 if fast else TOKEN_SECONDS,
        version=version,
    )


def _node(clock: IReactorTime, name: str, memory_mb: int, *models: SimulatedModel) -> SimulatedNode:
    node = SimulatedNode(
        clock,
        name=name,
        memory_mb=memory_mb,
        models=models,
        prompt_seconds=PROMPT_SECONDS,
        token_seconds=TOKEN_SECONDS,
    )
    # As on real machines, the answer to an unload comes before the driver has freed the memory.
    node.faults.free_delay_seconds = 0.5
    return node
