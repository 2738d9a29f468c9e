from twisted.trial.unittest import SynchronousTestCase

from cortexd.scheduling.agenda import Agenda
from cortexd.scheduling.waiting import Waiter, Waiting
from tests.support.nodes import LOADED, UNLOADED, fleet_of


class AgendaTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.waiting = Waiting()
        self.agenda = Agenda(self.waiting)
        fleet = fleet_of({"ada": {"a": LOADED, "b": UNLOADED, "c": UNLOADED}, "bob": {}})
        self.ada, self.bob = fleet.nodes.values()

    def wait_for(self, *models: str) -> None:
        for model in models:
            self.waiting.add(Waiter(f"{model}-1", model, 0.0))

    def test_order(self) -> None:
        """Entries come out in the order in which they were first entered, each one once."""
        for model in ("b", "a", "b"):
            self.agenda.look_for(model)
        for node in (self.bob, self.ada, self.bob):
            self.agenda.look_at(node)

        assert ["b", "a"] == [self.agenda.next_model() for _ in range(2)]
        assert [self.bob, self.ada] == [self.agenda.next_node() for _ in range(2)]
        assert not self.agenda.models
        assert not self.agenda.nodes

    def test_only_what_requests_wait_for(self) -> None:
        """Of a node's models those are looked for that a request waits for."""
        self.agenda.look_for_all_of(self.ada)
        assert not self.agenda.models

        self.wait_for("c", "a", "elsewhere")
        self.agenda.look_for_all_of(self.ada)
        assert ["a", "c"] == list(self.agenda.models)
        assert not self.agenda.nodes

    def test_reconsider(self) -> None:
        """A node on which anything may have changed is looked at, and all that it lists."""
        self.wait_for("b")
        self.agenda.reconsider(self.ada)

        assert (["b"], ["ada"]) == (list(self.agenda.models), list(self.agenda.nodes))

    def test_more_room_on_one_node(self) -> None:
        """A model is sought on one node while more room there is the only reason to seek it."""
        self.agenda.seek_on("a", self.ada)
        self.agenda.seek_on("a", self.ada)
        assert {"a": self.ada} == self.agenda.sought

        self.agenda.seek_on("a", self.bob)
        assert {"a": None} == self.agenda.sought

    def test_any_reason(self) -> None:
        """A model that is sought on every node stays so, whatever node has more room."""
        self.agenda.seek("a")
        self.agenda.seek_on("a", self.ada)
        assert {"a": None} == self.agenda.sought

        self.agenda.seek_on("b", self.ada)
        self.agenda.seek("b")
        assert {"a": None, "b": None} == self.agenda.sought
