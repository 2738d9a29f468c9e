from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.learning.prefills import Reading
from cortexd.scheduling.affinity.events import AnswerBegan
from cortexd.scheduling.affinity.ghosts import LONGEST_SECONDS, MOST_GHOSTS
from tests.scheduling.affinity.worlds import answer, copies, leave

LEFT = Reading(10_000, is_left=True)
"""The client of a long prompt has left: ten seconds at the assumed rate."""


class GhostTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = copies("ada", "bob")
        self.ada = self.world.replica("ada", "m")

    def leave(self, reading: Reading = LEFT, node: str = "ada") -> None:
        leave(self.world, self.world.submit("m", only=[node]), reading)

    def granted(self) -> str:
        """Return the node that a request gets, and let its client leave before it is sent."""
        request = self.world.submit("m")
        node = self.world.leases[request].node
        self.world.end(request)
        return node

    def test_busy_engine(self) -> None:
        """The engine that reads for nobody counts as busy until the prefill should be over."""
        self.leave()
        self.world.submit("m", only=["bob"])
        self.world.submit("m", only=["bob"])

        assert 1 == self.ada.ghosts
        assert "ada" == self.granted()
        self.leave()
        self.leave()
        assert "bob" == self.granted()
        self.world.pass_time(10)
        self.world.sweep()
        assert 0 == self.ada.ghosts
        assert "ada" == self.granted()

    def test_never_waits(self) -> None:
        """A ghost takes no slot: a request goes to the busy engine where no other is free."""
        for _ in range(4):
            self.leave()
            self.world.submit("m", only=["bob"])

        assert "ada" == self.granted()

    def test_engine_answers(self) -> None:
        """The answer to a later request shows that the prompt before it was read."""
        earlier = self.world.leases[self.world.submit("m", only=["ada"])]
        self.leave()
        later = self.world.leases[self.world.submit("m", only=["ada"])]

        self.world.tell(AnswerBegan(earlier))
        assert 1 == self.ada.ghosts
        self.world.tell(AnswerBegan(later))
        assert 0 == self.ada.ghosts
        assert not self.world.scheduler.ghosts

    def test_other_engine(self) -> None:
        """The answer of another node says nothing about a ghost."""
        self.leave()
        self.world.tell(AnswerBegan(self.world.leases[self.world.submit("m", only=["bob"])]))

        assert 1 == self.ada.ghosts

    def test_learned_rate(self) -> None:
        """How long a prefill lasts follows from what the engine has shown."""
        request = self.world.submit("m", only=["ada"])
        answer(self.world, request, Reading(1_000, 0, 10.0, 1.0))
        self.leave()
        self.world.pass_time(99)
        self.world.sweep()
        assert 1 == self.ada.ghosts
        self.world.pass_time(1)
        self.world.sweep()
        assert 0 == self.ada.ghosts

    def test_limits(self) -> None:
        """No ghost lasts beyond its limit, and no engine has more than so many."""
        for _ in range(MOST_GHOSTS + 5):
            self.leave(Reading(10**9, is_left=True))
        assert MOST_GHOSTS == self.ada.ghosts
        self.world.pass_time(LONGEST_SECONDS)
        self.world.sweep()

        assert 0 == self.ada.ghosts

    def test_evicted(self) -> None:
        """A ghost does not hold up an unload, and goes with its engine."""
        self.leave()
        self.world.unload("m", "ada")
        self.world.finish_all()
        self.world.sweep()

        assert 0 == self.ada.ghosts

    def test_restart(self) -> None:
        """A ghost goes with the process that it was in."""
        self.leave()
        self.world.restart("ada")
        self.world.sweep()

        assert 0 == self.ada.ghosts

    def test_answered(self) -> None:
        """A client that leaves after the first content leaves no ghost."""
        self.leave(Reading(10_000, 0, 3.0, 1.0))

        assert 0 == self.ada.ghosts

    def test_no_probe(self) -> None:
        """A question of our own does not go to a node whose engine is reading."""
        self.leave()

        assert not self.world.scheduler.is_idle(self.ada)
