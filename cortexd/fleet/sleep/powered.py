"""Nodes that sleep and are woken, and what polls and reports then say: a part of the fleet."""

from __future__ import annotations

from math import inf

from cortexd.fleet.nodes import Node
from cortexd.fleet.reported import ReportedFleet
from cortexd.fleet.sleep.power import PowerState
from cortexd.fleet.states import Change, PollFailure, PollOutcome


class PoweredFleet(ReportedFleet):
    """A fleet whose nodes may sleep."""

    def fail(self, name: str, failure: PollFailure, now: float) -> tuple[Change, ...]:
        """Take the failure of a poll; one of a node that is not awake is expected."""
        node = self.nodes[name]
        if node.power.is_awake:
            return super().fail(name, failure, now)
        node.failures, node.is_heard = node.failures + 1, False
        return ()

    def _step(self, node: Node, outcome: PollOutcome, reason: str, now: float) -> list[Change]:
        if outcome is PollOutcome.ENDED and not node.power.is_awake:
            return []  # polls show whether the engine runs once the machine is awake
        return super()._step(node, outcome, reason, now)

    def set_power(
        self, node: Node, state: PowerState, reason: str, now: float, number: int = 0
    ) -> None:
        """Let a node enter a state of power, with the reason in words.

        It is closed while it is not awake. ``number`` is that of the decision.
        """
        power = node.power
        power.state, power.since, power.number = state, now, number
        power.ended_at, power.failure = inf, ""
        node.closed = "" if power.is_awake else reason
        node.failures = 0
        if power.is_awake:
            power.woken_at, power.attempts, power.retry_at = now, 0, -inf

    def note_suspended(self, node: Node, failure: str, now: float) -> None:
        """Note that the command that lets a node sleep has ended, and why it failed, if it did."""
        node.power.ended_at, node.power.failure = now, failure

    def give_up_wake(self, node: Node, reason: str, retry_at: float, now: float) -> list[Change]:
        """Take a node that was woken in vain for down; return what has changed."""
        attempts = node.power.attempts + 1
        self.set_power(node, PowerState.AWAKE, reason, now)
        node.power.attempts, node.power.retry_at = attempts, retry_at
        node.failures, node.reason = self._down_after, reason
        return self._step(node, PollOutcome.FAILED_TOO_OFTEN, reason, now)
