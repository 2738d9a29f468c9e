"""Watches over requests that end engines: asks ``cortexd.gateway.fatal``, and carries it out."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime

from cortexd.dialects.wire.exchange import Exchange, Translation
from cortexd.dispatcher import Dispatcher
from cortexd.errors import CortexError, Overloaded, RequestIsFatal
from cortexd.fleet.states import ANSWERING_HEALTH, HealthChanged, NodeHealth, NodeRestarted
from cortexd.gateway.fatal import (
    DEATHS,
    REFUSED_SECONDS,
    FatalRequests,
    Found,
    Verdict,
    fingerprint,
)
from cortexd.scheduling.events import Effect
from cortexd.store.recorder import Recorder
from cortexd.telemetry.metrics import Metrics

WAIT_SECONDS: Final = 5.0
"""After how many seconds at most a client is asked to come again while nodes are polled."""


class Fatalities:
    """Knows the requests that end engines, and tells ``recorder`` of each that is fatal.

    A death is suspected for ``suspected_seconds`` at most. No fingerprint is made as long as no
    engine has died.
    """

    def __init__(
        self,
        suspected_seconds: float,
        dispatcher: Dispatcher,
        recorder: Recorder,
        metrics: Metrics,
        clock: IReactorTime,
    ) -> None:
        self._fleet = dispatcher.fleet
        self._requests = FatalRequests(suspected_seconds, self._survives)
        self._recorder = recorder
        self._metrics = metrics
        self._clock = clock
        dispatcher.listen(self._follow)

    def reconfigure(self, suspected_seconds: float) -> None:
        """Suspect deaths for so long from now on."""
        self._requests.suspected_seconds = suspected_seconds

    def check(self, exchange: Exchange) -> list[str]:
        """Return the fingerprints of a request that may be fatal, none while no request is.

        Raises RequestIsFatal if it is, and Overloaded while that is not known yet.
        """
        now = self._clock.seconds()
        if not self._requests.knows_any(now):
            return []
        prints = self.prints(exchange)
        verdict, seconds = self._requests.verdict(prints, now)
        if verdict is Verdict.ANSWER:
            return prints
        self._metrics.fatal_refusals.inc()
        if verdict is Verdict.REFUSE:
            raise RequestIsFatal(
                f"this request has ended the engines of {DEATHS} nodes and goes to no other node "
                f"for {seconds:.0f} s; change it, or ask the operator to find out why engines end",
                retry_after=seconds,
            )
        raise Overloaded(
            f"{DEATHS} nodes closed their connections behind this request; whether their engines "
            "have ended is being found out",
            code="request_suspected",
            retry_after=min(seconds, WAIT_SECONDS),
        )

    @staticmethod
    def prints(exchange: Exchange) -> list[str]:
        """Return the fingerprints of a request, one for each kind of node."""
        return [
            fingerprint(exchange.model, translation.path, translation.body)
            for translation in exchange.translations.taken.values()
        ]

    def note_failure(
        self,
        exchange: Exchange,
        translation: Translation,
        node: str,
        error: CortexError,
        began_at: float,
    ) -> int:
        """Note how an attempt failed that began then; return how many engines the request ended."""
        is_dead = error.is_poisoned and not error.is_unbegun
        if not (is_dead or error.ends_engine):
            return 0
        now, model = self._clock.seconds(), exchange.model
        known_as = fingerprint(model, translation.path, translation.body)
        if is_dead:
            found = self._requests.note_poisoned(known_as, model, node, began_at, now)
        else:
            found = self._requests.note_death(known_as, model, node, now, is_cut=error.is_cut)
        if found is not None:
            self._tell(found)
        return self._requests.deaths(known_as, now)

    def note_answered(self, prints: list[str]) -> None:
        """Note that a request of these fingerprints was answered."""
        for known_as in prints:
            self._requests.note_answered(known_as)

    def _survives(self, node: str, at: float) -> bool:
        """Return whether a node's process has answered a poll after a time; see FatalRequests."""
        found = self._fleet.nodes.get(node)
        if found is None or found.health not in ANSWERING_HEALTH or found.last_answer_at is None:
            return False
        return found.last_answer_at > at

    def _follow(self, effect: Effect) -> None:
        match effect:
            case NodeRestarted(node) | HealthChanged(node, _, NodeHealth.DOWN):
                for found in self._requests.note_node_lost(node, self._clock.seconds()):
                    self._tell(found)

    def _tell(self, found: Found) -> None:
        self._recorder.tell_fatal(found.fingerprint, found.model, found.nodes, REFUSED_SECONDS)
