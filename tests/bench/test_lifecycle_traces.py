"""The simulator's traces, made and read from files, and its command line."""

import io
import itertools
import sys
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bench import lifecycle
from bench.simulator import bars
from bench.simulator.peers import LlamaSwap
from bench.simulator.traces import (
    TOKENS,
    TRACES,
    Habits,
    Size,
    Timetable,
    TraceError,
    from_file,
    is_night,
    read_calls,
    write_calls,
    zipf_shares,
)
from bench.simulator.world import Call, play


class TraceTests(SynchronousTestCase):
    def _calls(self, name: str, size: Size) -> tuple[Call, ...]:
        workload = TRACES[name](size).start()
        assert isinstance(workload, Timetable)
        return workload.calls

    def test_a_seed_makes_the_same_trace_again(self) -> None:
        """Equal sizes and seeds give equal runs, another seed gives another."""
        for name in set(TRACES) - {"large"}:
            runs = []
            for seed in (1, 1, 2):
                trace = TRACES[name](Size(hours=0.2, seed=seed))
                run = play(trace, LlamaSwap(trace.fleet))
                runs.append((run.arrivals, run.begun, run.waits, run.loads))
            self.assertEqual(runs[0], runs[1], name)
            self.assertNotEqual(runs[0], runs[2], name)

    def test_any_size_can_be_made(self) -> None:
        """Each trace has the nodes that were asked for, and a fleet that can hold its models."""
        for name, make in TRACES.items():
            for nodes, models in ((3, 3), (3, 40), (30, 100)):
                fleet = make(Size(nodes, models, hours=0.01)).fleet
                self.assertEqual(nodes, len(fleet.nodes), name)
                self.assertGreaterEqual(len(fleet.models), models, name)

    def test_the_most_popular_models_get_their_share(self) -> None:
        """By Zipf's law with exponent 1, the first of three models gets 6 of 11 calls."""
        for expected, share in zip((6 / 11, 9 / 11, 1), zipf_shares(3, 1.0), strict=True):
            self.assertAlmostEqual(expected, share)

    def test_the_rare_model_is_rare_and_does_not_fit(self) -> None:
        """One model gets about 1 % of the calls; the others fill the memory."""
        trace = TRACES["rare"](Size())
        calls = self._calls("rare", Size())
        rare = sum(call.model == list(trace.fleet.models)[-1] for call in calls) / len(calls)
        self.assertTrue(0.006 < rare < 0.014, rare)
        self.assertEqual(len(trace.fleet.models) - 1, trace.fleet.most_replicas)

    def test_nights_are_quiet_and_have_their_own_favourites(self) -> None:
        """At night fewer calls come, most of them for other models than by day."""
        calls = self._calls("day-and-night", Size())
        day, night = ([c.model for c in calls if is_night(c.at) is dark] for dark in (False, True))
        self.assertGreater(len(day), 2 * len(night))
        self.assertNotEqual(max(set(day), key=day.count), max(set(night), key=night.count))

    def test_agents_alternate_and_think(self) -> None:
        """An agent asks the other model after each answer and its thoughts, never in a pause."""
        trace = TRACES["agents-8"](Size())
        workload = trace.start()
        call = next(iter(workload.opening()))
        models, thoughts = [call.model], []
        while (following := workload.next_call(call, call.at + 5)) is not None:
            thoughts.append(following.at - call.at - 5)
            models.append(following.model)
            call = following
        self.assertTrue(all(a != b for a, b in itertools.pairwise(models)))
        self.assertTrue(all(0.5 <= thought <= 3 or thought > 200 for thought in thoughts))
        self.assertEqual(3, sum(thought > 200 for thought in thoughts))

    @given(st.floats(0, 5000), st.floats(0, 60))
    def test_nobody_calls_in_a_pause(self, after: float, think: float) -> None:
        """The next call comes when it was thought of, or later, within a burst."""
        when = Habits((0, 1), 600, 300).next_time(after, think)
        self.assertGreaterEqual(when, after + think)
        self.assertLessEqual(when % 900, 600)


def file_with(text: str, directory: str) -> Path:
    path = Path(directory) / "calls.csv"
    path.write_text(text)
    return path


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=8)


class CsvTests(SynchronousTestCase):
    @given(
        st.lists(st.builds(Call, st.floats(0, 1e9), NAMES, NAMES, st.integers(*TOKENS)), min_size=1)
    )
    def test_what_is_written_is_read(self, calls: list[Call]) -> None:
        """A trace comes back from its file as it was, in the order of time."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "calls.csv"
            write_calls(calls, path)
            self.assertEqual(tuple(sorted(calls, key=lambda call: call.at)), read_calls(path))

    def test_what_is_wrong_is_said_with_its_line(self) -> None:
        """Missing columns and values that are no numbers are told with file and line."""
        head = "time,client,model,tokens\n"
        for text, words in (
            ("time,client,model\n1,c,m\n", "line 1: no column 'tokens'"),
            (f"{head}1,c,m,5\nsoon,c,m,5\n", "line 3: found time 'soon'"),
            (f"{head}1,c,m,\n", "line 2: found time '1' and tokens ''"),
            (f"{head}1,c,m\n", "line 2: found time '1' and tokens None"),
            (f"{head}-1,c,m,5\n", "line 2: time and tokens must not be below 0"),
            (f"{head}1,c,,5\n", "and a model be named"),
            (head, "expected one call at least"),
        ):
            with tempfile.TemporaryDirectory() as directory:
                error = self.assertRaises(TraceError, read_calls, file_with(text, directory))
                self.assertIn(words, str(error))
        self.assertRaises(TraceError, read_calls, Path("no/such/file.csv"))

    def test_a_file_is_a_trace_for_a_fleet_of_its_models(self) -> None:
        """Its models are those asked, a third of which fits; hours cut it."""
        lines = "".join(f"{number * 600},c,m{number},100\n" for number in range(9))
        with tempfile.TemporaryDirectory() as directory:
            path = file_with(f"time,client,model,tokens\n{lines}", directory)
            whole, cut = from_file(path, Size()), from_file(path, Size(nodes=1, hours=0.5))
        self.assertEqual((9, 3), (len(whole.fleet.models), whole.fleet.most_replicas))
        self.assertEqual(
            (["m0", "m1", "m2", "m3"], 1), (list(cut.fleet.models), cut.fleet.most_replicas)
        )


HEAD = "time,client,model,tokens\n"
SHORT_FILE = HEAD + "".join(f"{at * 60},c,m{at % 4},100\n" for at in range(30))
DAYS_FILE = HEAD + "".join(f"{at * 43_200 + 60},c,m{at % 3},100\n" for at in range(6))


class CommandTests(SynchronousTestCase):
    def _command(self, *arguments: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "argv", ["lifecycle", *arguments])
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        return lifecycle.main(), out.getvalue(), err.getvalue()

    def test_a_trace_is_run_under_every_policy(self) -> None:
        """The Markdown table has a row for each, and the bounds stand beneath."""
        status, out, _ = self._command("--trace", "agents-8", "--hours", "0.05", "--markdown")
        self.assertEqual(0, status)
        for name in lifecycle.POLICIES:
            self.assertEqual(1, out.count(f"\n| {name} |"), name)
        self.assertEqual(2, out.count("\n- at least "))

    def test_days_of_a_file_are_run_alone_or_each(self) -> None:
        """Some days of a file are a trace; every day of it is one row, with the sums beneath."""
        ours = ("--policy", lifecycle.OURS)
        with tempfile.TemporaryDirectory() as directory:
            path = str(file_with(DAYS_FILE, directory))
            status, out, _ = self._command("--csv", path, "--from-day", "1", "--days", "1", *ours)
            self.assertEqual(0, status)
            self.assertIn("calls, day 1: 3 nodes, 2 models", out)
            status, out, _ = self._command("--csv", path, "--windows", "day", *ours)
            self.assertEqual((0, 3), (status, out.count("\ncalls, day ")))
            self.assertIn("\ncalls, every day", out)
            status, _, err = self._command("--csv", path, "--from-day", "3")
            self.assertEqual(2, status)
            self.assertIn("no call within days 3 to 5", err)

    def test_a_summary_has_a_row_of_each_policy_for_made_traces_and_files(self) -> None:
        """Made traces and files stand in one table, the windows of a file in another."""
        policies = [word for name in lifecycle.CHECKED for word in ("--policy", name)]
        with tempfile.TemporaryDirectory() as directory:
            path = str(file_with(SHORT_FILE, directory))
            arguments = ("--summary", "--csv", path, "--trace", "agents-8", "--hours", "0.1")
            status, out, _ = self._command(*arguments, "--markdown", *policies)
        self.assertEqual(0, status)
        for name in lifecycle.CHECKED:
            self.assertEqual(1, out.count(f"\n| agents-8 | {name} |"))
            self.assertEqual(1, out.count(f"\n| calls | {name} |"))
        self.assertEqual(1, out.count("\n| window |"))

    def test_the_check_tells_what_is_missed_by_its_status(self) -> None:
        """A check prints every bar of the made traces and of the file; a missed one fails it."""
        with tempfile.TemporaryDirectory() as directory:
            path = str(file_with(SHORT_FILE, directory))
            arguments = ("--check", "--csv", path, "--trace", "agents-8", "--hours", "0.2")
            status, out, _ = self._command(*arguments)
            self.assertIn("agents-8", out)
            self.assertIn("loads over MIN", out)
            self.assertEqual("MISS" in out, status == 1)
            self.patch(bars, "LRU_LIMIT", 0.0)
            status, out, _ = self._command(*arguments)
            self.assertEqual(1, status)
            self.assertIn("bars are missed", out)

    def test_a_trace_is_written_and_read_back(self) -> None:
        """A written trace runs from its file; one that depends on its answers cannot be written."""
        with tempfile.TemporaryDirectory() as directory:
            path = str(Path(directory) / "zipf.csv")
            written = self._command("--trace", "zipf", "--hours", "0.1", "--write", path)
            self.assertEqual((0, ""), written[:2])
            self.assertEqual(0, self._command("--csv", path)[0])
        status, _, err = self._command("--trace", "agents-8", "--write", "nowhere.csv")
        self.assertEqual(2, status)
        self.assertIn("choose a trace that comes by the clock", err)

    def test_a_file_that_is_no_trace_is_told(self) -> None:
        """The path stands in the error, and the status says that the call was wrong."""
        status, _, err = self._command("--csv", "no/such.csv")
        self.assertEqual(2, status)
        self.assertIn("no/such.csv: cannot be read", err)
