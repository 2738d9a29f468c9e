"""Records the events of the fleet: in the log, the metrics, the journal and the store.

One module does all four, so that the log, the metrics and ``cortexctl events`` agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from cortexd.dispatcher import Dispatcher
from cortexd.fleet.nodes import ReplicaKey
from cortexd.fleet.states import (
    ANSWERING_HEALTH,
    ANSWERING_STATES,
    HealthChanged,
    NodeAdded,
    NodeHealth,
    NodeRemoved,
    NodeRestarted,
    ReplicaChanged,
    ReplicaEjected,
    ReplicaReturned,
)
from cortexd.logs import get_logger
from cortexd.scheduling.events import (
    CordonChanged,
    Effect,
    Learned,
    LoadDone,
    LoadFailed,
    PinChanged,
    RestartDue,
    StartLoad,
    StartUnload,
    Tick,
    UnloadDone,
    UnloadFailed,
)
from cortexd.scheduling.prefetching.events import Prefetched
from cortexd.store.journal import JournalEntry, KnownAbilities, Store
from cortexd.store.load_times import load_times, put_load_time
from cortexd.store.repair_record import RepairRecord
from cortexd.telemetry.metrics import Metrics

MEBIBYTE = 1024 * 1024

NOTHING: Final[Mapping[str, object]] = MappingProxyType({})

RETRY_SECONDS: Final = 10.0
"""How long the store waits before it tries again to write what it could not write."""

log = get_logger("cortexd.fleet")


class Recorder(Service):
    """Records the effects that ``dispatcher`` hands out, and their outcomes.

    While it runs, the store in ``state_dir`` is open. Its start restores the stored state of the
    fleet, and raises StateInUseError if another daemon uses that directory. While the state cannot
    be stored, it tries again after every RETRY_SECONDS on ``clock``, and restores what it could not
    read before. ``unix_time`` returns the time for the journal, in seconds. The ``restorers`` are
    called each time with the store.
    """

    _store: Store | None = None
    _retries: LoopingCall | None = None

    def __init__(
        self,
        dispatcher: Dispatcher,
        metrics: Metrics,
        state_dir: Path,
        unix_time: Callable[[], float],
        clock: IReactorTime,
    ) -> None:
        self._dispatcher = dispatcher
        self._scheduler = dispatcher.scheduler
        self._metrics = metrics
        self._state_dir = state_dir
        self._unix_time = unix_time
        self._clock = clock
        self._repairs = RepairRecord(metrics, self._note, clock)
        self._expected: dict[ReplicaKey, float] = {}
        self.restorers: list[Callable[[Store], None]] = []
        for name, node in dispatcher.fleet.nodes.items():
            metrics.show_health(name, node.health, answers=False)
        dispatcher.listen(self.tell)

    def startService(self) -> None:
        """Open the store and restore the fleet's pins, cordons and footprints."""
        self._store = store = Store(self._state_dir, self._unix_time())
        super().startService()
        self._restore(store)
        self._metrics.store_available.set(store.unstored is None)
        self._retries = LoopingCall(self._retry, store)
        self._retries.clock = self._clock
        self._retries.start(RETRY_SECONDS, now=False).addErrback(_retries_ended)

    def _restore(self, store: Store) -> None:
        fleet = self._scheduler.fleet
        fleet.footprints.remember(store.learned())
        fleet.lessons.loads.remember(load_times(store))
        fleet.take_wishes(store.pin_overrides(), store.cordons())
        for restore in self.restorers:
            restore(store)

    def stopService(self) -> None:
        """Close the store."""
        super().stopService()
        self._repairs.stop()
        retries, self._retries = self._retries, None
        if retries is not None and retries.running:
            retries.stop()
        store, self._store = self._store, None
        if store is not None:
            store.retry(self._unix_time())
            store.close()

    def _retry(self, store: Store) -> None:
        if store.retry(self._unix_time()):
            self._restore(store)
            # Pins that are gone or new change what may be evicted for those who wait.
            self._dispatcher.dispatch(Tick())
        self._metrics.store_available.set(store.unstored is None)

    @property
    def unstored(self) -> str | None:
        """Why the latest changes of the state are not on the disk; None if they are."""
        return self._store.unstored if self._store is not None else None

    def entries(self, after: int, limit: int, model: str | None = None) -> list[JournalEntry]:
        """Return entries of the journal, as ``Store.entries`` does."""
        return self._store.entries(after, limit, model) if self._store is not None else []

    def abilities(self) -> dict[tuple[str, str], KnownAbilities]:
        """Return the stored abilities, as ``Store.abilities`` does."""
        return self._store.abilities() if self._store is not None else {}

    def put_abilities(self, node: str, model: str, known: KnownAbilities | None) -> None:
        """Store the abilities of a model on a node; ``None`` forgets them."""
        if self._store is not None:
            self._store.put_abilities(node, model, known)

    @property
    def store(self) -> Store | None:
        """The store while it is open."""
        return self._store

    @property
    def last_number(self) -> int:
        """The number of the journal's latest entry."""
        return self._store.last_number if self._store is not None else 0

    def tell_reload(self, changes: Sequence[str], refused: str | None = None) -> None:
        """Record a reload of the configuration, and what it changed or why it was ``refused``."""
        self._metrics.reloads.labels("ok" if refused is None else "refused").inc()
        if refused is not None:
            log.error("reload_refused", reason=refused)
            self._note("reload_refused", None, None, reason=refused)
            return
        self._metrics.last_reload.set(self._unix_time())
        log.info("reloaded", changes=list(changes))
        self._note("reloaded", None, None, changes=list(changes))

    def audit(
        self,
        actor: str,
        command: str,
        *,
        node: str | None = None,
        model: str | None = None,
        logged: Mapping[str, object] = NOTHING,
        **fields: object,
    ) -> None:
        """Record a change that someone commanded, over the control socket, by HTTP or a signal.

        ``actor`` is in words, such as ``uid 1000 (alice)`` or ``key ops at 10.0.0.7``. Fields that
        are ``None`` are left out; those of ``logged`` go to the log only.
        """
        known = {key: value for key, value in fields.items() if value is not None}
        where = {key: value for key, value in (("node", node), ("model", model)) if value}
        log.info("control_change", actor=actor, command=command, **where, **known, **logged)
        self._note("audit", node, model, actor=actor, command=command, **known)

    def tell(self, effect: Effect) -> None:
        """Record an effect when it is decided; a health or a state is recorded when it changes."""
        match effect:
            case StartLoad(node, model):
                self._note_expected(node, model)
                self._metrics.bear("load", model, node)
                self._began("load_started", node, model)
            case StartUnload(node, model):
                self._metrics.bear("unload", model, node)
                self._began("unload_started", node, model)
            case HealthChanged(node, before, after, reason):
                level = log.warning if after is NodeHealth.DOWN else log.info
                level(f"node_{after.value}", node=node, before=before.value, reason=reason)
                self._metrics.show_health(node, after, answers=after in ANSWERING_HEALTH)
                self._note(f"node_{after.value}", node, None, reason=reason)
            case NodeAdded(node):
                self._metrics.show_health(node, NodeHealth.UNKNOWN, answers=False)
                self._note("node_added", node, None)
            case NodeRemoved(node):
                self._repairs.forget(node)
                self._note("node_removed", node, None)
            case NodeRestarted(node):
                log.warning("node_restarted", node=node)
                self._metrics.node_restarts.labels(node).inc()
                self._note("node_restarted", node, None)
            case ReplicaChanged(node, model, before, after):
                if after in ANSWERING_STATES:
                    self._metrics.bear("replica", model, node)
                if before is not None:
                    log.info(
                        "replica_changed",
                        node=node,
                        model=model,
                        before=before.value,
                        after=after.value if after else "gone",
                    )
            case ReplicaEjected(node, model, reason, faults, seconds, poisoned):
                told = {"reason": reason, "faults": faults, "seconds": seconds}
                log.warning("replica_ejected", node=node, model=model, poisoned=poisoned, **told)
                self._metrics.ejections.labels(model, node).inc()
                self._note("ejected", node, model, **told)
            case ReplicaReturned(node, model, reason):
                log.info("replica_returned", node=node, model=model, reason=reason)
                self._note("returned", node, model, reason=reason)
            case Prefetched(node, model, is_used):
                log.info("prefetched", node=node, model=model, used=is_used)
                self._metrics.prefetches.labels(node, "used" if is_used else "unused").inc()
            case RestartDue(node, reason):
                log.warning("node_restart_due", node=node, reason=reason)
                self._metrics.restarts_due.labels(node).inc()
                self._note("restart_due", node, None, reason=reason)
            case Learned(node, model, load, times):
                if self._store is not None:
                    self._store.put_learned(node, model, load)
                    put_load_time(self._store, node, model, times)
            case PinChanged(node, model, pinned):
                log.info("pin_changed", node=node, model=model, pinned=pinned)
                if self._store is not None:
                    self._store.set_pin_override(node, model, pinned)
                self._note("pinned" if pinned else "unpinned", node, model)
            case CordonChanged(node, cordoned):
                log.info("cordon_changed", node=node, cordoned=cordoned)
                if self._store is not None:
                    (self._store.add_cordon if cordoned else self._store.remove_cordon)(node)
                self._note("cordoned" if cordoned else "uncordoned", node, None)
            case _:
                self._repairs.tell(effect)

    def _note_expected(self, node: str, model: str) -> None:
        """Note what is told of a load that begins, unless it is a mere assumption."""
        replica = self._scheduler.fleet.replica(node, model)
        if replica is None:
            return
        load = self._scheduler.expect_load(replica, self._clock.seconds())
        if load.is_measured:
            self._expected[node, model] = load.seconds

    def _began(self, kind: str, node: str, model: str) -> None:
        swap = self._scheduler.swaps.on(node)
        decision = self._scheduler.decisions.number(swap.number) if swap is not None else None
        fields = {
            "reason": decision.reason if decision else "",
            "gives_up": list(decision.victims) if decision else [],
            "target": swap.target.model if swap is not None and swap.target is not None else None,
        }
        log.info(kind, node=node, model=model, **fields)
        self._note(kind, node, model, **fields)

    def tell_end(
        self, end: LoadDone | LoadFailed | UnloadDone | UnloadFailed, seconds: float
    ) -> None:
        """Record the end of a load or unload that took ``seconds``."""
        node, model = end.node, end.model
        took = round(seconds, 3)
        expected = self._expected.pop((node, model), None)
        match end:
            case LoadDone(footprint_mb=footprint_mb):
                log.info("loaded", node=node, model=model, seconds=took, footprint_mb=footprint_mb)
                self._metrics.model_load.labels(model, node).observe(seconds)
                if expected is not None and seconds > 0:
                    error = abs(expected - seconds) / seconds
                    self._metrics.load_estimate_error.labels(model, node).observe(error)
                self._note("loaded", node, model, seconds=took, footprint_mb=footprint_mb)
            case LoadFailed(reason=reason, listed=listed) if listed in ANSWERING_STATES:
                # Another client of the node has loaded the model, so this is not a failure.
                log.info("loaded", node=node, model=model, seconds=took, reason=reason)
                self._note("loaded", node, model, seconds=took, reason=reason)
            case LoadFailed(reason=reason, out_of_memory=out_of_memory):
                log.warning("load_failed", node=node, model=model, seconds=took, reason=reason)
                why = "out_of_memory" if out_of_memory else "other"
                self._metrics.model_load_failures.labels(model, node, why).inc()
                self._note("load_failed", node, model, seconds=took, reason=reason)
            case UnloadDone(leaked_mb=leaked_mb):
                level = log.warning if leaked_mb else log.info
                level("unloaded", node=node, model=model, seconds=took, leaked_mb=leaked_mb)
                self._metrics.model_unload.labels(model, node).observe(seconds)
                self._metrics.leaked.labels(node).inc(leaked_mb * MEBIBYTE)
                self._note("unloaded", node, model, seconds=took, leaked_mb=leaked_mb)
            case UnloadFailed(reason=reason):
                log.warning("unload_failed", node=node, model=model, seconds=took, reason=reason)
                self._metrics.model_unload_failures.labels(model, node).inc()
                self._note("unload_failed", node, model, seconds=took, reason=reason)

    def tell_fatal(
        self, fingerprint: str, model: str, nodes: Sequence[str], seconds: float
    ) -> None:
        """Record that a request has ended the engines of ``nodes``; it is refused for so long."""
        fields = {"fingerprint": fingerprint, "nodes": list(nodes), "refused_seconds": seconds}
        log.warning("request_fatal", model=model, **fields)
        self._metrics.fatal_requests.inc()
        self._note("request_fatal", None, model, **fields)

    def _note(self, kind: str, node: str | None, model: str | None, **fields: object) -> None:
        if self._store is not None:
            self._store.append(self._unix_time(), kind, node, model, fields)


def _retries_ended(failure: Failure) -> None:
    log.error("store_retries_ended", failure=failure)
