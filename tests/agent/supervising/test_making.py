"""Whether the agent is stopped for good or restarted."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.supervising.making import is_restarted
from tests.doubles.process_world import OneProcess, ProcessWorld

UNIT = "cortex-agent.service"


class RestartedTests(SynchronousTestCase):
    def asked(self, answer: bytes, status: int = 0) -> bool:
        """Return what comes of an answer of systemctl."""
        world = ProcessWorld()

        def systemctl(process: OneProcess) -> None:
            assert ["systemctl", "list-jobs"] == list(process.command[:2])
            world.write(process, answer)
            world.end(process, status)

        world.started = systemctl
        asked = is_restarted(world, world, {}, UNIT, ["systemctl"])
        world.run()
        return self.successResultOf(asked)

    def test_the_job_of_the_unit_tells(self) -> None:
        """Only a restart of this unit lets an engine outlive the agent."""
        assert self.asked(b"7 other.service stop waiting\n8 cortex-agent.service restart running\n")
        assert not self.asked(b"8 cortex-agent.service stop running\n")
        assert not self.asked(b"8 other.service restart running\n")
        assert not self.asked(b"8 cortex-agent.service restart running\n", status=1)

    def test_without_an_answer(self) -> None:
        """It counts as a stop, so that no engine stays behind unseen."""
        world = ProcessWorld()
        asked = is_restarted(world, world, {}, UNIT, ["systemctl"])
        world.run(10.0, pace=1.0)
        assert not self.successResultOf(asked)
        assert not self.successResultOf(is_restarted(world, world, {}, UNIT, None))
