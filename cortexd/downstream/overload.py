"""What follows from the delay of the reactor: metrics, and whether new requests are refused."""

from __future__ import annotations

from typing import Any, Final

from cortexd.admission.shedding import Shedder
from cortexd.downstream.crowd import OVERLOAD, Crowd
from cortexd.logs import get_logger
from cortexd.telemetry.metrics import Metrics

STALL_SECONDS: Final = 1.0
"""A delay that is counted as a stall: clients have noticed it."""

log = get_logger("cortexd.http")


class Overload:
    """Lets the ``crowd`` refuse requests while the delay stays above ``target`` seconds."""

    def __init__(self, crowd: Crowd[Any], metrics: Metrics, target: float) -> None:
        self._crowd = crowd
        self._metrics = metrics
        self._shedder = Shedder(target)
        self._refused_before = 0
        self._was_stalled = False

    def reconfigure(self, target: float) -> None:
        """Take another target; requests that are refused stay so until the delay is below it."""
        self._shedder.retarget(target)

    def note_beat(self, now: float, delay: float) -> None:
        """Note a beat of the reactor's heart, and by how many seconds it was late."""
        self._metrics.reactor_delay.observe(delay)
        is_stalled = delay > STALL_SECONDS
        if is_stalled:
            self._metrics.reactor_stalls.inc()
            if not self._was_stalled:
                log.info("reactor_stalled", seconds=round(delay, 3))
        self._was_stalled = is_stalled
        if self._shedder.note(now, delay):
            self._turn(delay)

    def _turn(self, delay: float) -> None:
        crowd = self._crowd
        crowd.is_shedding = self._shedder.is_shedding
        refused = crowd.refused[OVERLOAD]
        if crowd.is_shedding:
            self._refused_before = refused
            log.warning("overloaded", delay=round(delay, 3), connections=len(crowd.connections))
        else:
            log.info("overload_over", refused=refused - self._refused_before)
