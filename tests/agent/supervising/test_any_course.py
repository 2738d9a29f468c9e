"""Whatever an engine, its children, its operators and its agents do: rules that always hold."""

from __future__ import annotations

import gc
import signal

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.agent.supervising.scenes import COMMAND, Scene, scene
from tests.doubles.process_world import OneProcess

STEPS = st.one_of(
    st.tuples(st.just("end"), st.sampled_from([0, 1, 127])),
    st.tuples(st.just("kill"), st.just(0)),
    st.tuples(st.just("ignore"), st.just(0)),
    st.tuples(st.just("fork"), st.integers(0, 3)),
    st.tuples(st.just("order"), st.integers(0, 2)),
    st.tuples(st.just("wait"), st.sampled_from([0, 1, 5, 70])),
    st.tuples(st.just("agent"), st.just(0)),
)


class AnyCourseTests(SynchronousTestCase):
    def tearDown(self) -> None:
        """Find Deferreds that failed unseen; once, for a collection takes longer than a course."""
        gc.collect()
        assert [] == self.flushLoggedErrors()

    @settings(max_examples=60, deadline=None)
    @given(st.lists(STEPS, max_size=12))
    def test_rules(self, steps: list[tuple[str, int]]) -> None:
        """Nothing of the last engine is there when the next one starts; each order has an outcome.

        In the end an engine runs or is given up, and after the stop nothing of it is left.
        """
        with scene(stop_seconds=2.0, start_limit=3, start_interval=20.0) as made:
            world, agents, outcomes = made.world, [made], []
            world.started = lambda new: self.assertEqual([new], world.living())

            def engines() -> list[OneProcess]:
                return [each for each in world.living() if tuple(each.command) == COMMAND]

            for name, number in steps:
                running = engines()
                if name == "wait":
                    world.run(number, pace=0.5)
                elif name == "order":
                    outcomes.append(agents[-1].control.restart(str(number), "", 30.0))
                elif name == "agent":
                    agents.append(self.restarted(agents[-1]))
                elif not running:
                    continue
                elif name == "end":
                    world.end(running[0], number)
                elif name == "kill":
                    world.end(running[0], None, signal.SIGKILL)
                elif name == "ignore":
                    running[0].ignored = frozenset({signal.SIGTERM})
                else:
                    ignored = [signal.SIGTERM] if number & 1 else []
                    world.fork(running[0], ignored=ignored, own_session=number > 1)
                world.run(0.1)
            world.run(130.0, pace=0.5)
            control = agents[-1].control
            assert len(engines()) == (0 if control.is_given_up else 1)
            assert bool(control.pids()) == bool(engines())
            assert (control.reason == "") == bool(engines())
            for outcome in outcomes:
                assert outcome.called
                outcome.addErrback(lambda _: None)
            agents[-1].stop()
            assert [] == world.living()

    def restarted(self, before: Scene) -> Scene:
        """Let systemd restart the agent."""
        return before.restart_agent(stop_seconds=2.0, start_limit=3, start_interval=20.0)
