"""Tests of what loads took, in the state's file."""

import sqlite3

from cortexd.fleet.learning.load_times import LoadTime
from cortexd.fleet.learning.timing import Timing
from cortexd.store.load_times import load_times, put_load_time
from tests.support.stores import StoreTestCase

KNOWN = LoadTime(Timing(2, 40.0, 4.5), Timing(1, 8, 0.0), process=1_790_000_000)


class LoadTimesTests(StoreTestCase):
    def test_they_outlive_the_daemon(self) -> None:
        """What was stored last of a model on a node is read again."""
        opened = self.open()
        put_load_time(opened, "ada", "a", LoadTime())
        put_load_time(opened, "ada", "a", KNOWN)
        put_load_time(opened, "bob", "a", LoadTime())

        expected = {("ada", "a"): KNOWN, ("bob", "a"): LoadTime()}
        assert expected == load_times(self.reopened(opened))

    def test_a_nan_is_refused(self) -> None:
        """What is no time is not stored, and harms nothing else."""
        opened = self.open()
        with self.assertRaises(sqlite3.IntegrityError):
            put_load_time(opened, "ada", "a", LoadTime(Timing(1, float("nan"))))

        put_load_time(opened, "ada", "a", KNOWN)
        assert {("ada", "a"): KNOWN} == load_times(opened)
