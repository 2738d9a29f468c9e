"""The context of log events."""

import threading

from twisted.logger import capturedLogs
from twisted.python import context
from twisted.python import log as legacy_log
from twisted.trial.unittest import SynchronousTestCase

from cortexd.logs import FlatContextTracker


class FlatContextTrackerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.tracker = FlatContextTracker()

    def seen(self) -> object:
        return self.tracker.getContext("system", "none")

    def test_the_innermost_context_counts(self) -> None:
        """Until it is left, be it by an error."""

        def fail() -> None:
            raise ValueError

        def inner_and_outer() -> tuple[object, object]:
            self.assertRaises(ValueError, self.tracker.callWithContext, {"system": "bad"}, fail)
            return self.tracker.callWithContext({"system": "inner"}, self.seen), self.seen()

        found = self.tracker.callWithContext({"system": "outer"}, inner_and_outer)

        self.assertEqual((("inner", "outer"), "none"), (found, self.seen()))

    def test_each_thread_has_its_own(self) -> None:
        """Another one sees nothing of this one's, and Twisted's pool finds what to hand on."""
        found: list[object] = []

        def elsewhere() -> None:
            thread = threading.Thread(target=lambda: found.append(self.seen()))
            thread.start()
            thread.join(30)
            found.append(self.tracker.currentContext().contexts[-1])

        self.tracker.callWithContext({"system": "here"}, elsewhere)

        self.assertEqual(["none", {"system": "here"}], found)

    def test_twisted_logs_under_it(self) -> None:
        """Once installed, a line of Twisted's has the name of the connection that it is about."""
        for name in ("theContextTracker", "call", "get"):
            self.patch(context, name, getattr(context, name))
        context.installContextTracker(self.tracker)

        with capturedLogs() as events:
            legacy_log.callWithContext({"system": "Node,4"}, legacy_log.msg, "hello")

        self.assertEqual(["Node,4"], [event["log_system"] for event in events])
