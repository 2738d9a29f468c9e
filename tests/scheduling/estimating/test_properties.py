"""What is expected, of any fleet in any state: a time, the same for the same state, never earlier.

Clients that do not wait are part of the fleet here, so that the rules of the scheduler are checked
with them too.
"""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from cortexd.scheduling.estimating.expectation import Expectation, Phase
from cortexd.scheduling.events import Submit
from cortexd.scheduling.hints import Hints
from tests.scheduling.scheduler.test_properties import NUMBERS, WildMachine

UNHURRIED = (Phase.EVICTING, Phase.LOADING, Phase.WAKING, Phase.RESTARTING)
"""The phases that only an event makes shorter."""

LATER = 3.0
ROUNDING = 0.1


class ExpectingMachine(WildMachine):
    """Whatever happens, with clients that wait for a short time, or not at all."""

    @rule(number=NUMBERS, wait=st.sampled_from([0.0, 0.0, 1.0, 20.0]))
    def submit_impatient(self, number: int, wait: float) -> None:
        world = self.world
        name = f"impatient-{len(world.journal)}"
        world.tell(Submit(name, self.model(number), hints=Hints(wait)))
        if wait == 0.0:
            assert name in world.leases or name in world.errors

    @precondition(lambda self: hasattr(self, "world"))
    @invariant()
    def what_is_expected_is_a_time(self) -> None:
        scheduler, now = self.world.scheduler, self.world.now
        asked = [(waiter.model, waiter.request_id) for waiter in scheduler.waiting]
        for model, request_id in [*asked, *((model, None) for model in self.world.setup.models)]:
            expected = scheduler.expect(model, request_id, now)
            self.check(expected, now)
            assert expected == scheduler.expect(model, request_id, now)
            later = scheduler.expect(model, request_id, now + LATER)
            self.check(later, now + LATER)
            if expected.phase in UNHURRIED and later.phase is expected.phase:
                assert later.ends_at >= expected.ends_at - ROUNDING, (expected, later)

    def check(self, expected: Expectation, now: float) -> None:
        assert math.isfinite(expected.ends_at)
        assert expected.ends_at >= now
        assert (expected.place == 0) == (expected.phase in (Phase.READY, Phase.FAILED))

    @precondition(lambda self: hasattr(self, "world"))
    @invariant()
    def stand_ins_are_few(self) -> None:
        waiting = self.world.scheduler.waiting
        for model in self.world.setup.models:
            stand_ins = [each for each in waiting.of(model) if each.is_stand_in]
            assert len(stand_ins) <= 1
            if stand_ins:
                replicas = self.world.fleet.replicas(model)
                assert not any(each.answers for each in replicas), f"{model} is loaded"


class PropertyTests(SynchronousTestCase):
    def test_any_fleet(self) -> None:
        """Whatever has happened, each request may expect a time that is not over."""
        run_state_machine_as_test(
            ExpectingMachine,
            settings=settings(
                max_examples=60, stateful_step_count=40, derandomize=True, database=None
            ),
        )
