"""The peers' rules for loads and evictions, as their own documents and code describe them, in our
words and reduced to that rule.

All peers choose a node alike: one with free room, else the one whose least recently used model has
been unused for the longest time. No peer loads a second copy of a model.

- `PlainLru`: each node serves requests in order of arrival. It loads a missing model at once in
  place of the least recently used models, as soon as these are idle.
- `LlamaSwap`: a request for a loaded model overtakes the queue. The others wait in order of
  arrival, until their swap collides with no other swap and evicts no busy model.
- `Ollama`: one request is pending at a time, and all others queue behind it. It evicts the least
  recently used idle model, else it drains the least recently used busy model.
- `ModelMesh`: a request for a loaded model overtakes the queue too. A model may be evicted only
  after it has been unused for a while (`churn_seconds`). ModelMesh refuses a load until then; here
  the request waits, like a client that retries until it is accepted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from bench.simulator.fleets import FleetSpec, ModelSpec
from bench.simulator.ledger import Ledger, Node, Phase, Replica
from bench.simulator.world import Action, Policy, Request

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
        node = _roomiest(nodes, model) or min(nodes, key=lambda each: each.oldest_use)
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


def _roomiest(nodes: list[Node], model: ModelSpec) -> Node | None:
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


class Ollama:
    """One pending request at a time; all others wait behind it.

    A request whose load has begun waits apart, with its model: the next becomes the pending one.
    """

    def __init__(self, fleet: FleetSpec) -> None:
        self._ledger = Ledger(fleet)
        self._queue: deque[Request] = deque()
        self._joined: dict[tuple[str, str], deque[Request]] = {}
        self._room_on: Node | None = None
        self._running_out: Replica | None = None

    def arrive(self, request: Request, now: float) -> list[Action]:
        """Queue the request."""
        self._queue.append(request)
        return self._process_pending(now)

    def finished(self, request: Request, now: float) -> list[Action]:
        """Start a request that waits for a seat, or unload a drained model."""
        self._let_in(self._ledger.finished(request, now), now)
        return self._process_pending(now)

    def loaded(self, node: str, model: str, now: float) -> list[Action]:
        """Start the requests that waited for the load."""
        self._let_in(self._ledger.loaded(node, model, now), now)
        return self._process_pending(now)

    def unloaded(self, node: str, model: str, now: float) -> list[Action]:
        """Process the pending request, which may fit now."""
        self._ledger.unloaded(node, model)
        self._running_out = None
        return self._process_pending(now)

    def tick(self, _now: float) -> list[Action]:
        """Time alone changes nothing."""
        return []

    def _let_in(self, replica: Replica, now: float) -> None:
        joined = self._joined.get((replica.node.name, replica.model.id))
        while joined and replica.has_seat:
            self._ledger.begin(joined.popleft(), replica, now)

    def _is_idle(self, replica: Replica) -> bool:
        return replica.is_idle and not self._joined.get((replica.node.name, replica.model.id))

    def _process_pending(self, now: float) -> list[Action]:
        while self._queue and self._process(self._queue[0], now):
            self._queue.popleft()
            self._room_on = None
        return self._ledger.take_actions()

    def _process(self, request: Request, now: float) -> bool:
        """Do what the pending request needs; answers whether the next may become pending."""
        replica = next(iter(self._ledger.replicas(request.model)), None)
        if replica is not None:
            self._join(request, replica, now)
            return True
        if self._running_out is not None:
            self._unload_when_idle(self._running_out)
            return False
        model = self._ledger.models[request.model]
        nodes = self._ledger.nodes_of(request.model)
        node = self._room_on or _roomiest(nodes, model)
        if node is None:
            node = min(nodes, key=lambda each: each.oldest_use)
            self._room_on = node
        if node.loading:
            return False
        if node.free_mb < model.size_mb:
            self._make_room(node)
            return False
        self._ledger.load(model.id, node, now)
        self._join(request, node.replicas[model.id], now)
        return True

    def _join(self, request: Request, replica: Replica, now: float) -> None:
        key = replica.node.name, replica.model.id
        self._joined.setdefault(key, deque()).append(request)
        self._let_in(replica, now)

    def _make_room(self, node: Node) -> None:
        ready = [each for each in node.replicas.values() if each.phase is Phase.READY]
        idle = [each for each in ready if self._is_idle(each)]
        victim = min(idle or ready, key=lambda each: each.used_at)
        self._running_out = victim
        self._unload_when_idle(victim)

    def _unload_when_idle(self, victim: Replica) -> None:
        if self._is_idle(victim):
            self._ledger.unload(victim)


PEERS: dict[str, Callable[[FleetSpec], Policy]] = {
    "LRU, first come": PlainLru,
    "llama-swap": LlamaSwap,
    "Ollama": Ollama,
    "ModelMesh": ModelMesh,
}
