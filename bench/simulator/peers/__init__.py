"""The peers' rules for loads and evictions, as their own documents and code describe them, in our
words and reduced to that rule.

All peers choose a node alike: one with free room, else the one whose least recently used model has
been unused for the longest time. No peer loads a second copy of a model, and all models are of one
type, none of them pinned. A node holds as many models as fit, where a peer counts models.

- `PlainLru`: each node serves requests in order of arrival. It loads a missing model at once in
  place of the least recently used models, as soon as these are idle.
- `LlamaSwap`: a request for a loaded model overtakes the queue. The others wait in order of
  arrival, until their swap collides with no other swap and evicts no busy model.
- `Ollama`: one request is pending at a time, and all others queue behind it. It evicts the least
  recently used idle model, else it drains the least recently used busy model.
- `ModelMesh`: a request for a loaded model overtakes the queue too. A model may be evicted only
  after it has been unused for a while (`churn_seconds`). ModelMesh refuses a load until then; here
  the request waits, like a client that retries until it is accepted.
- `LocalAi`: a request for a loaded model overtakes the queue. A load evicts the least recently used
  idle models, and skips busy ones. If too few are idle, it tries again every second, 30 times, and
  then fails with the requests that wait for it. The defaults: it does not force the eviction of a
  busy model, and its watchdog stops no model for being idle or busy too long.
- `Lemonade`: a node prepares one load at a time. It evicts the least recently used model although
  that is busy: from the choice until the model is idle, no request begins on the node.
"""

from collections.abc import Callable

from bench.simulator.fleets import FleetSpec
from bench.simulator.peers.gateways import LlamaSwap, ModelMesh, PlainLru
from bench.simulator.peers.local_ai import LocalAi
from bench.simulator.peers.one_at_a_time import Lemonade, Ollama
from bench.simulator.world import Policy

PEERS: dict[str, Callable[[FleetSpec], Policy]] = {
    "LRU, first come": PlainLru,
    "llama-swap": LlamaSwap,
    "Ollama": Ollama,
    "ModelMesh": ModelMesh,
    "LocalAI": LocalAi,
    "lemonade": Lemonade,
}

__all__ = ["PEERS", "Lemonade", "LlamaSwap", "LocalAi", "ModelMesh", "Ollama", "PlainLru"]
