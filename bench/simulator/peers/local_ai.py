"""LocalAI's rule: idle models go, the least recently used first, else a load tries again."""

from __future__ import annotations

from math import inf

from bench.simulator.fleets import FleetSpec, ModelSpec
from bench.simulator.ledger import Node, Replica
from bench.simulator.peers.gateways import LlamaSwap, roomiest
from bench.simulator.world import Action, Refuse

RETRIES = 30
RETRY_SECONDS = 1.0


class LocalAi(LlamaSwap):
    """A load evicts the least recently used of the idle models. If too few are idle, it looks again
    every second; after the last try it fails, and so do the requests that wait for it.
    """

    def __init__(self, fleet: FleetSpec) -> None:
        super().__init__(fleet)
        self._tried: dict[str, int] = {}
        self._next_try_at: dict[str, float] = {}

    def tick(self, now: float) -> list[Action]:
        """Try the loads again that found too few idle models, and those that found no node."""
        for model in list(self._waiting):
            self._try(model, now)
        return self._ledger.take_actions()

    def _swap(self, model: ModelSpec, now: float) -> None:
        if self._next_try_at.get(model.id, -inf) > now:
            return
        listed = self._ledger.nodes_of(model.id)
        nodes = [node for node in listed if node.name not in self._swapping_in]
        if not nodes:
            return
        victims_of = {node.name: _idle_victims(node, model.size_mb) for node in nodes}
        able = [node for node in nodes if victims_of[node.name] is not None]
        if not able:
            self._fail_try(model.id, now)
            return
        self._tried.pop(model.id, None)
        self._next_try_at.pop(model.id, None)
        node = roomiest(able, model) or min(able, key=_oldest_idle_use)
        self._swapping_in[node.name] = model.id
        for victim in victims_of[node.name] or ():
            self._ledger.unload(victim)
        self._load_if_there_is_room(node, now)

    def _fail_try(self, model: str, now: float) -> None:
        self._tried[model] = self._tried.get(model, 0) + 1
        self._next_try_at[model] = now + RETRY_SECONDS
        if self._tried[model] < RETRIES:
            return
        del self._tried[model], self._next_try_at[model]
        reason = "every model that could make room is busy"
        self._ledger.actions += [Refuse(request, reason) for request in self._waiting.pop(model)]
        for node in self._ledger.models[model].nodes:
            del self._waiting_on[node][model]


def _idle_victims(node: Node, need_mb: int) -> list[Replica] | None:
    """Return idle replicas, least recently used first, whose eviction frees `need_mb`; `None` where
    all of them together are too small.
    """
    victims: list[Replica] = []
    free_mb = node.free_mb
    idle = [replica for replica in node.replicas.values() if replica.is_idle]
    for replica in sorted(idle, key=lambda each: each.used_at):
        if free_mb >= need_mb:
            break
        victims.append(replica)
        free_mb += replica.model.size_mb
    return victims if free_mb >= need_mb else None


def _oldest_idle_use(node: Node) -> float:
    return min((each.used_at for each in node.replicas.values() if each.is_idle), default=inf)
