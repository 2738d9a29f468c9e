"""The rules of gateways and servers that may hold several loads open at once."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from bench.simulator.fleets import FleetSpec, ModelSpec
from bench.simulator.ledger import Ledger, Node, Replica
from bench.simulator.world import Action, Request

# The age below which ModelMesh takes a full cache for churning.
CHURN_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class _Step:
    """A request in the order of its node, and the models that its own is loaded in place of."""

    request: Request
    victims: tuple[str, ...]


class PlainLru:
    """Least recently used, in order of arrival, with immediate swaps.

    The order of arrivals alone determines a request's node and victims, so they are fixed at its
    arrival: `_planned` has each node's models after all requests so far, least recently used first.
    """

    def __init__(self, fleet: FleetSpec) -> None:
        self._ledger = Ledger(fleet)
        self._models = fleet.models
        self._queues: dict[str, deque[_Step]] = {name: deque() for name in fleet.nodes}
        self._planned: dict[str, dict[str, float]] = {name: {} for name in fleet.nodes}
        self._planned_free_mb = {name: node.memory_mb for name, node in fleet.nodes.items()}
        self._home: dict[str, str] = {}

    def arrive(self, request: Request, now: float) -> list[Action]:
        """Give the request its place in the order of a node."""
        home = self._home.get(request.model)
        victims: tuple[str, ...] = ()
        if home is None:
            home = self._choose_node(self._models[request.model])
            victims = self._plan_swap(self._models[request.model], home)
        planned = self._planned[home]
        planned.pop(request.model, None)
        planned[request.model] = now
        self._queues[home].append(_Step(request, victims))
        return self._advance(self._ledger.nodes[home], now)

    def finished(self, request: Request, now: float) -> list[Action]:
        """Go on with the node's order."""
        return self._advance(self._ledger.finished(request, now).node, now)

    def loaded(self, node: str, model: str, now: float) -> list[Action]:
        """Go on with the node's order."""
        return self._advance(self._ledger.loaded(node, model, now).node, now)

    def unloaded(self, node: str, model: str, now: float) -> list[Action]:
        """Go on with the node's order."""
        return self._advance(self._ledger.unloaded(node, model), now)

    def tick(self, _now: float) -> list[Action]:
        """Time alone changes nothing."""
        return []

    def _choose_node(self, model: ModelSpec) -> str:
        roomy = [name for name in model.nodes if self._planned_free_mb[name] >= model.size_mb]
        if roomy:
            return max(roomy, key=self._planned_free_mb.__getitem__)
        return min(model.nodes, key=lambda name: next(iter(self._planned[name].values())))

    def _plan_swap(self, model: ModelSpec, node: str) -> tuple[str, ...]:
        planned = self._planned[node]
        victims = []
        self._planned_free_mb[node] -= model.size_mb
        while self._planned_free_mb[node] < 0:
            victim = next(iter(planned))
            del planned[victim], self._home[victim]
            self._planned_free_mb[node] += self._models[victim].size_mb
            victims.append(victim)
        self._home[model.id] = node
        return tuple(victims)

    def _advance(self, node: Node, now: float) -> list[Action]:
        queue = self._queues[node.name]
        while queue and self._serve(queue[0], node, now):
            queue.popleft()
        return self._ledger.take_actions()

    def _serve(self, step: _Step, node: Node, now: float) -> bool:
        """Begin the first request, or do what it lacks; answers whether it has begun."""
        victims = [node.replicas[name] for name in step.victims if name in node.replicas]
        for victim in victims:
            if victim.is_idle:
                self._ledger.unload(victim)
        replica = node.replicas.get(step.request.model)
        if replica is None:
            if not victims and not node.loading:
                self._ledger.load(step.request.model, node, now)
            return False
        if not replica.has_seat:
            return False
        self._ledger.begin(step.request, replica, now)
        return True


class LlamaSwap:
    """First come, first served, but requests for loaded models overtake the queue."""

    def __init__(self, fleet: FleetSpec) -> None:
        self._ledger = Ledger(fleet)
        self._waiting: dict[str, deque[Request]] = {}
        # What waits for each node, by the time of the first request of each model.
        self._waiting_on: dict[str, dict[str, None]] = {name: {} for name in fleet.nodes}
        self._swapping_in: dict[str, str] = {}

    def arrive(self, request: Request, now: float) -> list[Action]:
        """Start the request, let it join its model's load, swap for it, or queue it."""
        if request.model not in self._waiting:
            self._waiting[request.model] = deque()
            for node in self._ledger.models[request.model].nodes:
                self._waiting_on[node][request.model] = None
        self._waiting[request.model].append(request)
        self._try(request.model, now)
        return self._ledger.take_actions()

    def finished(self, request: Request, now: float) -> list[Action]:
        """Process the node's queue."""
        return self._drain(self._ledger.finished(request, now).node, now)

    def loaded(self, node: str, model: str, now: float) -> list[Action]:
        """Process the node's queue: the swap is done."""
        del self._swapping_in[node]
        return self._drain(self._ledger.loaded(node, model, now).node, now)

    def unloaded(self, node: str, model: str, now: float) -> list[Action]:
        """Load the swap's model, once all its victims are unloaded."""
        free_node = self._ledger.unloaded(node, model)
        self._load_if_there_is_room(free_node, now)
        return self._drain(free_node, now)

    def tick(self, _now: float) -> list[Action]:
        """Time alone changes nothing: waiting improves no request's position in the queue."""
        return []

    def _may_give_up(self, victims: list[Replica], _now: float) -> bool:
        return all(victim.is_idle for victim in victims)

    def _drain(self, node: Node, now: float) -> list[Action]:
        for model in list(self._waiting_on[node.name]):
            self._try(model, now)
        return self._ledger.take_actions()

    def _try(self, model: str, now: float) -> None:
        waiting = self._waiting[model]
        while waiting and (replica := self._ledger.ready_replica(model)) is not None:
            self._ledger.begin(waiting.popleft(), replica, now)
        if not waiting:
            del self._waiting[model]
            for node in self._ledger.models[model].nodes:
                del self._waiting_on[node][model]
        elif not self._ledger.replicas(model) and not self._is_swapped_in(model):
            self._swap(self._ledger.models[model], now)

    def _is_swapped_in(self, model: str) -> bool:
        nodes = self._ledger.models[model].nodes
        return any(self._swapping_in.get(node) == model for node in nodes)

    def _swap(self, model: ModelSpec, now: float) -> None:
        listed = self._ledger.nodes_of(model.id)
        nodes = [node for node in listed if node.name not in self._swapping_in]
        if not nodes:
            return
        node = roomiest(nodes, model) or min(nodes, key=lambda each: each.oldest_use)
        victims = node.least_recently_used(model.size_mb)
        if victims is None or not self._may_give_up(victims, now):
            return
        self._swapping_in[node.name] = model.id
        for victim in victims:
            self._ledger.unload(victim)
        self._load_if_there_is_room(node, now)

    def _load_if_there_is_room(self, node: Node, now: float) -> None:
        model = self._ledger.models[self._swapping_in[node.name]]
        if model.id not in node.replicas and node.free_mb >= model.size_mb:
            self._ledger.load(model.id, node, now)


def roomiest(nodes: list[Node], model: ModelSpec) -> Node | None:
    """Return the node with the most free memory of those that a model fits on as they are."""
    roomy = [node for node in nodes if node.free_mb >= model.size_mb]
    return max(roomy, key=lambda node: node.free_mb, default=None)


class ModelMesh(LlamaSwap):
    """Like LlamaSwap, but a node whose least recently used model is young evicts no model."""

    def __init__(self, fleet: FleetSpec, churn_seconds: float = CHURN_SECONDS) -> None:
        super().__init__(fleet)
        self._churn_seconds = churn_seconds

    def tick(self, now: float) -> list[Action]:
        """Retry refused loads: the least recently used model may be old enough now."""
        for model in list(self._waiting):
            self._try(model, now)
        return self._ledger.take_actions()

    def _may_give_up(self, victims: list[Replica], now: float) -> bool:
        return all(
            victim.is_idle and now - victim.used_at >= self._churn_seconds for victim in victims
        )
