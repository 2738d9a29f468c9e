from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import BadRequest, StateNotFound
from cortexd.fleet.affinity import Kept, Place, Reference, StateKind, Whereabouts
from cortexd.gateway.binding import bound_node
from tests.support.nodes import LOADED, fleet_of

RESPONSE = Reference(Kept(StateKind.RESPONSE, "r"), "previous_response_id")
FILE = Reference(Kept(StateKind.FILE, "f"), "messages[0].content[0].file.file_id")
SESSION = Reference(Kept(StateKind.SESSION, "s"), "session_id")


class BindingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.fleet = fleet_of({"ada": {"m": LOADED}, "bob": {"m": LOADED, "n": LOADED}})
        self.known = Whereabouts()

    def keep(self, reference: Reference, node: str, model: str | None = None) -> None:
        self.known.remember(reference.kept, Place(node, model), 0.0)

    def bound(self, *references: Reference, model: str = "m") -> str | None:
        return bound_node(references, model, self.known, self.fleet, 1.0)

    def test_what_is_somewhere(self) -> None:
        """A request goes where all that it names is kept, and one that names nothing anywhere."""
        self.keep(RESPONSE, "bob")
        self.keep(FILE, "bob")

        assert self.bound() is None
        assert "bob" == self.bound(RESPONSE) == self.bound(FILE, RESPONSE)

    def test_what_is_nowhere(self) -> None:
        """It is told by its field, but for a session, which anybody may begin."""
        assert self.bound(SESSION) is None
        for reference in (RESPONSE, FILE):
            with self.assertRaises(StateNotFound) as caught:
                self.bound(SESSION, reference)
            assert reference.param == caught.exception.param

    def test_a_session_of_another_model(self) -> None:
        """A session binds the requests of its own model, in whose engine it is."""
        self.keep(SESSION, "bob", "n")

        assert ("bob", None) == (self.bound(SESSION, model="n"), self.bound(SESSION))

    def test_where_no_node_has_it_all(self) -> None:
        """What is on two nodes, or on one without the model, is the client's mistake."""
        self.keep(RESPONSE, "ada")
        self.keep(FILE, "bob")
        for references, model, words in (
            ((RESPONSE, FILE), "m", "a request can use only one node"),
            ((RESPONSE,), "n", "which does not have model 'n'"),
        ):
            with self.assertRaises(BadRequest) as caught:
                self.bound(*references, model=model)
            assert words in caught.exception.message
            assert references[-1].param == caught.exception.param
