"""How many nodes a request may reach: the rule by itself, and on the routes."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.errors import BadGateway, BadKey, BadRequest, CortexError, NodeError, RateLimited
from cortexd.gateway.retries import OTHERS_AFTER_FAILURE, OTHERS_AFTER_SILENCE, Reach, Retries
from tests.support.fleets import MODEL, Client, InMemoryFleet
from tests.support.relays import OUT_OF_MEMORY, RelayTestCase, answers, refusal_of, reset
from tests.support.scripted import ScriptedNode
from tests.testing.client import CHAT

HELLO = [{"role": "user", "content": "hi"}]
FAILURE, DEATH = NodeError("it failed", elsewhere=True), BadGateway("it died", elsewhere=True)
DEATH.ends_engine = True
ERRORS = st.sampled_from([FAILURE, DEATH, BadGateway("closed", elsewhere=True)])


def deliveries(*failures: tuple[CortexError, Reach], may_repeat: bool = True) -> int:
    """Return how many of these attempts are made, one after the other, each at another node."""
    retries = Retries()
    for made, (error, reach) in enumerate(failures, 1):
        if not retries.allow(error, reach, may_repeat=may_repeat):
            return made
    return len(failures)


class RetriesTests(SynchronousTestCase):
    def test_unsent(self) -> None:
        """What no node has read may go to any number of nodes, also what must not happen twice."""
        unsent = [(DEATH, Reach.UNSENT)] * 9
        assert 9 == deliveries(*unsent) == deliveries(*unsent, may_repeat=False)

    def test_refusals(self) -> None:
        """A node that refuses a request before any work on it costs it nothing."""
        for error in (RateLimited("later", elsewhere=True), BadKey("no", elsewhere=True)):
            assert 9 == deliveries(*[(error, Reach.ANSWERED)] * 9, may_repeat=False)

    def test_silence(self) -> None:
        """Behind a request that had no answer one other node follows, whatever that one does."""
        unanswered, failed = (DEATH, Reach.UNANSWERED), (FAILURE, Reach.ANSWERED)
        for second in (unanswered, failed, (DEATH, Reach.ANSWERED)):
            assert 1 + OTHERS_AFTER_SILENCE == deliveries(unanswered, second, failed, failed)

    def test_failures(self) -> None:
        """Behind one that was answered with a failure two may follow; words of a death count so."""
        failed, died = (FAILURE, Reach.ANSWERED), (DEATH, Reach.ANSWERED)
        assert 1 + OTHERS_AFTER_FAILURE == deliveries(*[failed] * 9)
        assert 1 + OTHERS_AFTER_SILENCE == deliveries(*[died] * 9)
        assert 3 == deliveries(failed, died, failed, failed)

    def test_mistakes_of_the_client(self) -> None:
        """They go nowhere else."""
        assert 1 == deliveries(*[(BadRequest("no"), Reach.ANSWERED)] * 9)

    @settings(max_examples=50)
    @given(st.lists(st.tuples(ERRORS, st.sampled_from(Reach)), max_size=12))
    def test_any_course(self, course: list[tuple[CortexError, Reach]]) -> None:
        """Whatever happens, three nodes at most work on a request, and one where it acts."""
        for may_repeat, most in ((True, 1 + OTHERS_AFTER_FAILURE), (False, 1)):
            retries = Retries()
            for error, reach in course:
                if not retries.allow(error, reach, may_repeat=may_repeat):
                    break
            assert retries.deliveries <= most


class NodesReachedTests(RelayTestCase):
    def nodes(self) -> tuple[InMemoryFleet, list[ScriptedNode]]:
        nodes = [self.scripted(name) for name in "abcde"]
        return self.fleet(*nodes), nodes

    def fail_each(self, fleet: InMemoryFleet, nodes: list[ScriptedNode], fault: Any) -> int:
        """Fail each attempt at the node that has it; return how many nodes were reached."""
        failed: list[ScriptedNode] = []
        while asked := [node for node in nodes if node.requests and node not in failed]:
            for node in asked:
                fault(node)
            failed += asked
            fleet.flush()
        for node in nodes:
            node.requests.clear()
        return len(failed)

    def ask(self, fleet: InMemoryFleet, path: str = CHAT, **fields: Any) -> Client:
        return fleet.request("POST", path, json={"model": MODEL, **fields})

    def test_a_request_that_ends_its_nodes(self) -> None:
        """It reaches two of five, and its client is told so in the first node's words."""
        fleet, nodes = self.nodes()
        client = self.ask(fleet, messages=HELLO)
        assert 2 == self.fail_each(fleet, nodes, reset)
        words = refusal_of(client)["message"]
        assert words.startswith("node a: the connection was closed")
        assert "2 nodes failed on this request" in words

    def test_a_request_that_fails(self) -> None:
        """With an answer that says so it reaches three of five."""
        fleet, nodes = self.nodes()
        client = self.ask(fleet, messages=HELLO)
        assert 3 == self.fail_each(fleet, nodes, answers(500, OUT_OF_MEMORY))
        assert refusal_of(client)["message"].startswith("CUDA out of memory; 3 nodes failed")

    def test_nodes_that_refuse(self) -> None:
        """Or cannot be reached: all five are tried."""
        fleet, nodes = self.nodes()
        self.ask(fleet, messages=HELLO)
        assert 5 == self.fail_each(fleet, nodes, answers(429, b"later"))

    def test_what_must_not_happen_twice(self) -> None:
        """Work with the node's own tools, or in a session, reaches one node."""
        fleet, nodes = self.nodes()
        own_work: tuple[dict[str, Any], ...] = (
            {"session_id": "s"},
            {"enable_shell": True},
            {"web_search_options": {}},
            {"tools": [{"type": "code_interpreter"}]},
        )
        for fields in own_work:
            client = self.ask(fleet, messages=HELLO, **fields)
            assert 1 == self.fail_each(fleet, nodes, reset), fields
            assert "must not happen twice" in refusal_of(client)["message"]

    def test_stored_responses_of_nodes(self) -> None:
        """A node that stores the response itself may have done so; one that does not has not."""
        nodes = [self.scripted(name) for name in "abcde"]
        fleet = self.fleet(*nodes, node_keys={n.name: {"responses": "native"} for n in nodes})
        for stores, reached in ((True, 1), (False, 2)):
            self.ask(fleet, "/v1/responses", input="hi", store=stores)
            assert reached == self.fail_each(fleet, nodes, reset), stores
