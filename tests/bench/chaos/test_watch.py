"""What the chaos bench counts as twice delivered, fatally spread, and wrongly taken for down."""

from twisted.trial.unittest import SynchronousTestCase

from bench.chaos.watch import GRACE_SECONDS, Deliveries, Sickness, wrongly_down
from cortexd.testing.journal import Entry


def arrived(request_id: str, text: str = "hi") -> Entry:
    body = {"messages": [{"role": "user", "content": text}]}
    headers = {"x-request-id": request_id}
    detail = {"number": 1, "method": "POST", "path": "/v1/x", "headers": headers, "body": body}
    return Entry(at=0.0, kind="request", model="m", detail=detail)


class WatchTests(SynchronousTestCase):
    def deliveries(self, *came: tuple[str, Entry]) -> Deliveries:
        found = Deliveries()
        for node, entry in came:
            found.take(node, [entry], "c-", "deadly-")
        return found

    def test_one_other_node_is_no_double(self) -> None:
        """A request may go to one other node after a failure."""
        found = self.deliveries(("a", arrived("c-1")), ("b", arrived("c-1")), ("a", arrived("c-2")))
        self.assertEqual(0, found.doubled)

    def test_the_same_node_twice_is_a_double(self) -> None:
        """A node that may have read a request must not get it again."""
        found = self.deliveries(("a", arrived("c-1")), ("a", arrived("c-1")))
        self.assertEqual(1, found.doubled)

    def test_three_nodes_are_a_double(self) -> None:
        """A third node is one too many."""
        found = self.deliveries(*((node, arrived("c-1")) for node in "abc"))
        self.assertEqual(1, found.doubled)

    def test_questions_of_our_own_do_not_count(self) -> None:
        """Probes have ids that no client gave."""
        found = self.deliveries(("a", arrived("probe")), ("a", arrived("probe")))
        self.assertEqual(0, found.doubled)

    def test_fatal_prompts_count_by_their_text(self) -> None:
        """A client that sends a prompt again gives it another id."""
        came = [("a", arrived(f"c-{n}", "deadly-7")) for n in range(3)]
        self.assertEqual(0, self.deliveries(*came[:2]).spread_fatally)
        self.assertEqual(1, self.deliveries(*came).spread_fatally)

    def test_a_restart_allows_two_more(self) -> None:
        """A new process knows nothing of the deaths that the old one has seen."""
        found = self.deliveries(*(("a", arrived(f"c-{n}", "deadly-7")) for n in range(4)))
        self.assertEqual(1, found.spread_fatally)
        found.restarts = [0.0]
        self.assertEqual(0, found.spread_fatally)

    def test_a_node_in_trouble_may_be_down(self) -> None:
        """Until a while after the trouble; at another time, and for another node, it is wrong."""
        sickness = Sickness()
        sickness.note("a", 100.0, 110.0)
        for node, at, count in (
            ("a", 105.0, 0),
            ("a", 110.0 + GRACE_SECONDS, 0),
            ("a", 111.0 + GRACE_SECONDS, 1),
            ("a", 99.0, 1),
            ("b", 105.0, 1),
        ):
            lines = [{"event": "node_down", "node": node, "at": at}]
            self.assertEqual(count, len(wrongly_down(lines, sickness)), (node, at))
        self.assertEqual([], wrongly_down([{"event": "node_up", "node": "b", "at": 1.0}], sickness))
