"""Lets nodes sleep that nobody needs, and wakes them for requests.

=========== ==========================================================================
State       What ends it
=========== ==========================================================================
awake       the node was idle for its time, or an operator: suspending
suspending  polls that fail: asleep; polls that are answered after the command: awake
asleep      a request that is served best there, or an operator: waking; an answer: awake
waking      an answer to a poll: awake; no answer in time: awake, and down
=========== ==========================================================================

A node that does not answer, for whatever reason, may be woken too: it may sleep since before this
process began.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from cortexd.errors import OperationRefused
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Node
from cortexd.fleet.sleep.power import PowerState
from cortexd.fleet.states import Change
from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.decisions import Decisions
from cortexd.scheduling.eviction import Claim
from cortexd.scheduling.placement import (
    EvictionTerms,
    Finding,
    Hindrance,
    Obstacle,
    Option,
)
from cortexd.scheduling.powering.events import (
    PowerChanged,
    SleepWanted,
    StartSuspend,
    StartWake,
    SuspendDone,
    SuspendFailed,
    WakeFailed,
    WakeWanted,
)
from cortexd.scheduling.powering.rules import (
    after_wake,
    is_idle_long,
    retry_pause,
    why_awake,
    why_not_woken,
)
from cortexd.scheduling.repairs.events import PollWanted
from cortexd.scheduling.repairs.restarts import Restarts
from cortexd.scheduling.swaps import Swaps
from cortexd.scheduling.waiting import Waiting
from cortexd.scheduling.wishes import node_named

FAILED_POLLS: Final = 2
"""After so many failed polls in a row a node that was let sleep is asleep."""

SETTLE_SECONDS: Final = 60.0
"""How long a node may answer after the command that lets it sleep has ended."""

SUSPEND_SECONDS: Final = 180.0
"""How long a node may take to fall asleep, whatever is heard of the command."""

GRACE_SECONDS: Final = 5.0
"""How much later than its limit the end of an attempt to wake a node may be reported."""

WAKEABLE: Final = frozenset({Hindrance.ASLEEP, Hindrance.NOT_ANSWERING})
"""The hindrances that may pass once a node is woken."""

NO_ANSWER: Final = "the node was woken and did not answer in time"


class Powers:
    """Decides over the power of the nodes in ``fleet``; ``take`` follows changes as of a poll."""

    def __init__(
        self,
        fleet: Fleet,
        waiting: Waiting,
        swaps: Swaps,
        restarts: Restarts,
        decisions: Decisions,
        agenda: Agenda,
        take: Callable[[Node, Sequence[Change]], None],
    ) -> None:
        self._fleet = fleet
        self._waiting = waiting
        self._swaps = swaps
        self._restarts = restarts
        self._decisions = decisions
        self._agenda = agenda
        self._take = take

    @property
    def handlers(self) -> Mapping[type[Any], Callable[[Any, float], None]]:
        """The handlers of its events."""
        return {
            SleepWanted: self.sleep_wanted,
            WakeWanted: self.wake_wanted,
            SuspendDone: self.suspend_done,
            SuspendFailed: self.suspend_failed,
            WakeFailed: self.wake_failed,
        }

    def reconfigured(self, now: float) -> None:
        """Let nodes be awake that may not sleep any more: polls show whether they are."""
        for node in self._fleet.nodes.values():
            if node.power.terms is None and not node.power.is_awake:
                self._wakes(node, "its [[nodes]] has no power any more", now)

    # Time and polls.

    def sweep(self, node: Node, now: float) -> None:
        """Look at a node for what only time brings, if it may sleep."""
        power, terms = node.power, node.power.terms
        if terms is None:
            return
        match power.state:
            case PowerState.AWAKE:
                if is_idle_long(node, terms, now) and not self._why_awake(node, now):
                    self._suspend(node, f"it was idle for {terms.idle_seconds:g} s", now)
            case PowerState.SUSPENDING:
                if now - power.since >= SUSPEND_SECONDS:
                    self._wakes(node, "it still answers", now, failure="it did not fall asleep")
            case PowerState.WAKING:
                if now - power.since >= terms.wake_seconds + GRACE_SECONDS:
                    self._give_up(node, NO_ANSWER, now)

    def polled(self, node: Node, asked_at: float, now: float) -> None:
        """Follow a poll that a node has answered which is not awake."""
        power = node.power
        if asked_at < power.since:
            return  # it says nothing of what has happened since
        if power.state is not PowerState.SUSPENDING:
            self._wakes(node, "it answers", now)
        elif power.failure:
            self._wakes(node, "it still answers", now, failure=power.failure)
        elif now - power.ended_at >= SETTLE_SECONDS:
            self._wakes(node, "it still answers", now, failure="it did not fall asleep")

    def poll_failed(self, node: Node, now: float) -> None:
        """Follow a failed poll of a node that is not awake."""
        if node.power.state is PowerState.SUSPENDING and node.failures >= FAILED_POLLS:
            self._enter(node, PowerState.ASLEEP, "it does not answer any more", now)

    # How orders ended.

    def suspend_done(self, event: SuspendDone, now: float) -> None:
        """Note that a node was ordered to sleep; polls show when it does."""
        node = self._ordered(event.node, event.number, PowerState.SUSPENDING)
        if node is not None:
            self._fleet.note_suspended(node, "", now)
            self._agenda.effects.append(PollWanted(node.name))

    def suspend_failed(self, event: SuspendFailed, now: float) -> None:
        """Note that the order to sleep has failed, unless the node does not answer after all."""
        node = self._ordered(event.node, event.number, PowerState.SUSPENDING)
        if node is not None:
            self._fleet.note_suspended(node, event.reason, now)
            if not node.failures:
                self._wakes(node, "it could not be let sleep", now, failure=event.reason)

    def wake_failed(self, event: WakeFailed, now: float) -> None:
        """Take a node for down that was woken in vain."""
        node = self._ordered(event.node, event.number, PowerState.WAKING)
        if node is not None:
            self._give_up(node, event.reason, now)

    def _ordered(self, name: str, number: int, state: PowerState) -> Node | None:
        node = self._fleet.nodes.get(name)
        if node is None or node.power.state is not state or node.power.number != number:
            return None
        return node

    # The operator.

    def sleep_wanted(self, event: SleepWanted, now: float) -> None:
        """Let a node sleep because an operator wants it. Raises OperationRefused."""
        node = node_named(self._fleet, event.node)
        words = self._why_awake(node, now)
        if words:
            raise OperationRefused(f"node {node.name} cannot be let sleep now: {words}")
        self._suspend(node, "the operator requested it", now)

    def wake_wanted(self, event: WakeWanted, now: float) -> None:
        """Wake a node because an operator wants it. Raises OperationRefused."""
        node = node_named(self._fleet, event.node)
        words = "" if now < node.power.retry_at else why_not_woken(node, now)
        if words:
            raise OperationRefused(f"node {node.name} cannot be woken now: {words}")
        self._wake(node, "the operator requested it", "", now)

    # Requests.

    def weigh(
        self,
        found: list[Finding],
        terms: EvictionTerms,
        now: float,
        *,
        may_evict: bool = True,
        may_drain: bool = False,
        claim: Claim | None = None,
    ) -> None:
        """Put in what a model would cost on nodes that can be woken for it."""
        limits = {"may_evict": may_evict, "may_drain": may_drain}
        for index, finding in enumerate(found):
            if (
                isinstance(finding, Obstacle)
                and finding.hindrance in WAKEABLE
                and finding.replica.node.power.terms is not None
            ):
                found[index] = after_wake(self._fleet, finding, terms, now, claim=claim, **limits)

    def is_woken_for(self, option: Option, reason: str, now: float) -> bool:
        """Wake the node of an option if it does not answer; return whether it does not."""
        replica = option.replica
        node = replica.node
        if not node.power.is_awake or not node.takes_work:
            if node.power.state is not PowerState.WAKING:
                self._wake(node, reason, replica.model, now)
            return True
        return False

    # The steps.

    def _why_awake(self, node: Node, now: float) -> str:
        parts = self._fleet, self._waiting, self._swaps, self._restarts
        return why_awake(node, *parts, now)

    def _suspend(self, node: Node, reason: str, now: float) -> None:
        loaded = [replica.model for replica in node.residents]
        number = self._decisions.record("sleep", "", node.name, reason, now, victims=loaded).number
        self._enter(node, PowerState.SUSPENDING, reason, now, number=number)
        self._agenda.effects.append(StartSuspend(node.name, number, reason))

    def _wake(self, node: Node, reason: str, model: str, now: float) -> None:
        number = self._decisions.record("wake", model, node.name, reason, now).number
        self._enter(node, PowerState.WAKING, reason, now, number=number)
        self._agenda.effects.append(StartWake(node.name, number, reason))

    def _wakes(self, node: Node, reason: str, now: float, *, failure: str = "") -> None:
        """Let a node be awake again, and be used."""
        if node.power.state is PowerState.WAKING and not failure:
            self._fleet.lessons.wakes.learn(node.name, now - node.power.since)
        self._enter(node, PowerState.AWAKE, reason, now, failure=failure)

    def _give_up(self, node: Node, reason: str, now: float) -> None:
        pause = retry_pause(node.power.attempts + 1)
        before = node.power.state
        changes = self._fleet.give_up_wake(node, reason, now + pause, now)
        after = node.power.state
        self._agenda.effects.append(PowerChanged(node.name, before, after, reason, reason))
        self._take(node, changes)

    def _enter(
        self,
        node: Node,
        state: PowerState,
        reason: str,
        now: float,
        *,
        number: int = 0,
        failure: str = "",
    ) -> None:
        before = node.power.state
        words = f"it is {state.value}: {reason}"
        self._fleet.set_power(node, state, words, now, number)
        self._agenda.effects.append(PowerChanged(node.name, before, state, reason, failure))
        self._agenda.reconsider(node)
