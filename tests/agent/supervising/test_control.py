"""Orders of sleep, and what an agent's file lets it do."""

from __future__ import annotations

from twisted.internet.defer import succeed
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.supervising.control import SUSPEND_DELAY
from cortexd.agent.supervising.orders import REMEMBERED, Orders
from cortexd.link.contract import Failed
from tests.agent.supervising.scenes import COMMAND, scene
from tests.doubles.process_world import OneProcess

SLEEP = ("sh", "-c", "sleep now")


class SuspendTests(SynchronousTestCase):
    def test_the_answer_comes_first(self) -> None:
        """The machine sleeps a moment later, and once for each order."""
        with scene(suspend_command=SLEEP) as made:
            assert made.control.can_suspend
            commands: list[OneProcess] = []
            made.world.started = commands.append
            for _ in range(2):
                self.successResultOf(made.control.suspend("1"))
            assert [] == commands
            made.world.run(SUSPEND_DELAY + 0.1)
            self.successResultOf(made.control.suspend("1"))
            made.world.run(SUSPEND_DELAY + 0.1)
            assert [SLEEP] == [tuple(each.command) for each in commands]
            made.world.end(commands[0], 0)
            made.world.run()

            self.successResultOf(made.control.suspend("2"))
            made.world.run(SUSPEND_DELAY + 0.1)
            assert 2 == len(commands)

    def test_a_failure_becomes_a_note(self) -> None:
        """It comes after the answer, so the next report says it, until one works."""
        with scene(suspend_command=SLEEP) as made:
            made.world.started = lambda process: made.world.end(process, 1)
            made.control.suspend("1")
            made.world.run(SUSPEND_DELAY + 0.1)
            assert ("suspend_command: sh ended with status 1",) == made.control.notes
            assert made.changes

            made.world.started = lambda process: made.world.end(process, 0)
            made.control.suspend("2")
            made.world.run(SUSPEND_DELAY + 0.1)
            assert not made.control.notes

    def test_what_cannot_work_fails_at_once(self) -> None:
        """Without a command, and without its program."""
        with scene() as made:
            failure = self.failureResultOf(made.control.suspend("1"), Failed)
            assert "no suspend_command in [power]" in str(failure.value)
        with scene(suspend_command=("/nonexistent/sleep",)) as made:
            failure = self.failureResultOf(made.control.suspend("1"), Failed)
            assert "there is no program /nonexistent/sleep" in str(failure.value)

    def test_the_agent_stops_before(self) -> None:
        """The machine stays awake."""
        with scene(suspend_command=SLEEP) as made:
            made.control.suspend("1")
            made.stop()
            assert COMMAND not in [tuple(each.command) for each in made.world.living()]


class OrdersTests(SynchronousTestCase):
    def test_a_failure_is_remembered(self) -> None:
        """The same order gets it again, and does not run again."""
        orders: Orders[None] = Orders()
        begun: list[str] = []

        def begin() -> None:
            begun.append("")
            raise Failed("no")

        for _ in range(2):
            self.failureResultOf(orders.give("1", begin), Failed)  # type: ignore[arg-type] # it raises
        assert 1 == len(begun)

    def test_the_latest_orders_are_remembered(self) -> None:
        """Older ones are forgotten, so that memory does not grow."""
        orders: Orders[int] = Orders()
        numbers = iter(range(1000))
        for name in range(REMEMBERED + 1):
            orders.give(str(name), lambda: succeed(next(numbers)))
        assert 1 == self.successResultOf(orders.give("1", lambda: succeed(next(numbers))))
        assert REMEMBERED < self.successResultOf(orders.give("0", lambda: succeed(next(numbers))))
