from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing import Entry, Journal


class JournalTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Record three entries of a possible four."""
        self.journal = Journal(capacity=4)
        self.journal.record(1, "request", "acme/a", path="/v1/models", body=None)
        self.journal.record(2, "unload", "acme/a", leaked_mb=3)
        self.journal.record(3, "unload", "acme/b", leaked_mb=0)

    def test_of(self) -> None:
        """Entries are found by kind, and by model where one is named."""
        unload = Entry(at=2, kind="unload", model="acme/a", detail={"leaked_mb": 3})
        self.assertEqual([unload], self.journal.of("unload", "acme/a"))
        self.assertEqual(2, len(self.journal.of("unload")))
        self.assertEqual([], self.journal.of("restarted"))

    def test_requests(self) -> None:
        """Requests are found by path."""
        self.assertEqual(1, len(self.journal.requests("/v1/models")))
        self.assertEqual(1, len(self.journal.requests()))
        self.assertEqual([], self.journal.requests("/health"))

    def test_list_like(self) -> None:
        """A journal can be iterated, measured and indexed."""
        self.assertEqual(3, len(self.journal))
        self.assertEqual(self.journal[2], list(self.journal)[-1])
        self.assertIn("request, unload, unload", repr(self.journal))

    def test_bounded(self) -> None:
        """Beyond its capacity the oldest entries are forgotten."""
        for at in range(4, 9):
            self.journal.record(at, "restarted")
        self.assertEqual([5, 6, 7, 8], [entry.at for entry in self.journal])

    def test_clear(self) -> None:
        """A cleared journal is empty."""
        self.journal.clear()
        self.assertEqual(0, len(self.journal))
