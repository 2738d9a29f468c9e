"""The rules of servers that work on one load at a time: while it is prepared, others wait."""

from __future__ import annotations

from collections import deque

from bench.simulator.fleets import FleetSpec
from bench.simulator.ledger import Ledger, Node, Phase, Replica
from bench.simulator.peers.gateways import roomiest
from bench.simulator.world import Action, Request


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
        node = self._room_on or roomiest(nodes, model)
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


class Lemonade:
    """One load at a time on a node. Its victim is the least recently used model, busy or idle, and
    nothing begins on the node from its choice until it is idle.
    """

    def __init__(self, fleet: FleetSpec) -> None:
        self._ledger = Ledger(fleet)
        self._waiting: dict[str, deque[Request]] = {}
        # What a node is to load once its victims have gone.
        self._clearing_for: dict[str, str] = {}
        self._victims: dict[str, list[Replica]] = {}

    def arrive(self, request: Request, now: float) -> list[Action]:
        """Start the request, let it wait for its model, or choose the victims of its load."""
        self._waiting.setdefault(request.model, deque()).append(request)
        return self._go_on(now)

    def finished(self, request: Request, now: float) -> list[Action]:
        """Unload a victim that has become idle."""
        node = self._ledger.finished(request, now).node
        self._unload_idle(node)
        return self._go_on(now)

    def loaded(self, node: str, model: str, now: float) -> list[Action]:
        """Start what waited for the model, then the next load."""
        self._ledger.loaded(node, model, now)
        return self._go_on(now)

    def unloaded(self, node: str, model: str, now: float) -> list[Action]:
        """Load what the node was cleared for, once all its victims have gone."""
        cleared = self._ledger.unloaded(node, model)
        target = self._clearing_for.get(node)
        if target is not None and cleared.free_mb >= self._ledger.models[target].size_mb:
            del self._clearing_for[node], self._victims[node]
            self._ledger.load(target, cleared, now)
        return self._go_on(now)

    def tick(self, _now: float) -> list[Action]:
        """Time alone changes nothing."""
        return []

    def _go_on(self, now: float) -> list[Action]:
        for model in list(self._waiting):
            waiting = self._waiting[model]
            if self._ledger.replicas(model):
                self._let_in(waiting, now)
            elif model not in self._clearing_for.values():
                self._begin_load(model, now)
            if not waiting:
                del self._waiting[model]
        return self._ledger.take_actions()

    def _let_in(self, waiting: deque[Request], now: float) -> None:
        while waiting:
            replica = self._ledger.ready_replica(waiting[0].model)
            if replica is None or replica.node.name in self._clearing_for:
                return
            self._ledger.begin(waiting.popleft(), replica, now)

    def _begin_load(self, model: str, now: float) -> None:
        spec = self._ledger.models[model]
        listed = self._ledger.nodes_of(model)
        nodes = [
            node for node in listed if not node.loading and node.name not in self._clearing_for
        ]
        if not nodes:
            return
        node = roomiest(nodes, spec) or min(nodes, key=lambda each: each.oldest_use)
        victims = node.least_recently_used(spec.size_mb)
        if victims is None:
            return
        if not victims:
            self._ledger.load(model, node, now)
            return
        self._clearing_for[node.name] = model
        self._victims[node.name] = victims
        self._unload_idle(node)

    def _unload_idle(self, node: Node) -> None:
        for victim in self._victims.get(node.name, ()):
            if victim.is_idle:
                self._ledger.unload(victim)
