"""Windows of a recorded trace."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bench.simulator.bars import DAY_LIMIT, WEEK_LIMIT, WHOLE_LIMIT
from bench.simulator.traces import DAY_SECONDS, Size, Timetable, TraceError
from bench.simulator.windows import Window, checked_windows, days_of, window_of, windows_of
from bench.simulator.world import Call, Trace


def calls_on(*days: float, models: str = "ABCDEFGHIJKL") -> tuple[Call, ...]:
    """Make a call on each of these days, for one model after the other."""
    return tuple(
        Call(day * DAY_SECONDS, "client", models[number % len(models)], 50)
        for number, day in enumerate(days)
    )


def times_of(trace: Trace) -> list[float]:
    """Return the days of a trace's calls."""
    workload = trace.start()
    assert isinstance(workload, Timetable)
    return [call.at / DAY_SECONDS for call in workload.calls]


class WindowTests(SynchronousTestCase):
    def test_a_window_begins_at_second_0(self) -> None:
        """The calls from its first day on, before the day after its last, keep their hours."""
        trace = window_of(calls_on(0.5, 1.0, 1.25, 2.5, 3.0), Window(1, 2), "file", Size())
        self.assertEqual([0.0, 0.25, 1.5], times_of(trace))
        self.assertEqual("file, days 1 to 2", trace.name)
        self.assertEqual(1.5 * DAY_SECONDS, trace.seconds)

    def test_a_window_has_the_fleet_of_its_own_models(self) -> None:
        """Nodes hold a third of the models that are asked within the window."""
        calls = calls_on(*(number / 10 for number in range(9)), 1.5, models="ABCDEFGHI")
        fleet = window_of(calls, Window(0, 1), "file", Size()).fleet
        self.assertEqual((9, 3), (len(fleet.models), fleet.most_replicas))
        fleet = window_of(calls, Window(1, 1), "file", Size(nodes=2)).fleet
        self.assertEqual((["A"], 2), (list(fleet.models), fleet.most_replicas))

    def test_a_window_without_calls_is_an_error(self) -> None:
        """The error names the window and the days that there are."""
        error = self.assertRaises(
            TraceError, window_of, calls_on(0, 1.5), Window(2, 1), "file", Size()
        )
        self.assertIn("file: no call within day 2, expected days from 0 to 1", str(error))

    def test_a_window_begins_on_each_day(self) -> None:
        """Windows are whole; those of several days overlap; each has calls."""
        calls = calls_on(0.1, 1.1, 3.9)
        self.assertEqual(
            ["day 0", "day 1", "day 3"],
            [trace.name.partition(", ")[2] for trace in windows_of(calls, 1, "file", Size())],
        )
        self.assertEqual(
            ["days 0 to 1", "days 1 to 2", "days 2 to 3"],
            [trace.name.partition(", ")[2] for trace in windows_of(calls, 2, "file", Size())],
        )
        self.assertEqual(["file"], [each.name for each in windows_of(calls, 4, "file", Size())])

    @settings(max_examples=30)
    @given(st.lists(st.floats(0, 9), min_size=1, max_size=12).map(sorted))
    def test_days_have_each_call_once(self, days: list[float]) -> None:
        """The windows of a day together have every call of the file."""
        calls = calls_on(*days)
        traces = windows_of(calls, 1, "file", Size())
        self.assertEqual(len(calls), sum(len(times_of(trace)) for trace in traces))
        self.assertLessEqual(len(traces), days_of(calls))

    def test_a_long_file_is_checked_by_its_days_and_weeks(self) -> None:
        """A file of a week or more has bars for both, a shorter one has one bar for the whole."""
        long = checked_windows(calls_on(*range(8)), "file", Size())
        self.assertEqual(
            [("file, every day", DAY_LIMIT, 8), ("file, every week", WEEK_LIMIT, 2)],
            [(name, limit, len(traces)) for name, limit, traces in long],
        )
        short = checked_windows(calls_on(*range(6)), "file", Size())
        self.assertEqual(
            [("file", WHOLE_LIMIT, 1)],
            [(name, limit, len(traces)) for name, limit, traces in short],
        )
