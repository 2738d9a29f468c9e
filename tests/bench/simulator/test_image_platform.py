"""The made trace of a platform, whose parameters are fitted to a recorded one."""

from collections import Counter
from itertools import pairwise
from statistics import fmean, median

from twisted.trial.unittest import SynchronousTestCase

from bench.simulator.bounds import least_loads, loads_with_foresight
from bench.simulator.image_platform import HOUR_SHARES, platform
from bench.simulator.likeness import BUSY_CALLS, head, rows_of
from bench.simulator.peers import PlainLru
from bench.simulator.traces import DAY_SECONDS, Size
from bench.simulator.windows import windows_of
from bench.simulator.world import Call


def calls_of(size: Size) -> list[Call]:
    """Return the calls of a made trace."""
    return list(platform(size).start().opening())


class PlatformTests(SynchronousTestCase):
    def test_a_seed_makes_the_same_calls_again(self) -> None:
        """Equal seeds give equal calls, in the order of time; another seed gives others."""
        calls = calls_of(Size(hours=30))
        self.assertEqual(calls, calls_of(Size(hours=30)))
        self.assertNotEqual(calls, calls_of(Size(hours=30, seed=2)))
        self.assertEqual(sorted(call.at for call in calls), [call.at for call in calls])

    def test_any_size_can_be_made(self) -> None:
        """More nodes have more visits; a fleet without a tail of models has calls, too."""
        few, many = (len(calls_of(Size(nodes, 100, hours=12))) for nodes in (3, 9))
        self.assertGreater(many, 2 * few)
        models = {call.model for call in calls_of(Size(1, 4, hours=12))}
        self.assertEqual(4, len(models))

    def test_the_made_trace_is_like_the_recorded_one(self) -> None:
        """On busy days the figures lie near those of the recorded trace: 1,406 calls for 48 models,
        78 % of them for another model than the call before, and 81 loads under Belady's MIN, of
        which LRU makes 1.68 times as many, and a policy that foresees 10 minutes 1.33 times.
        """
        found = []
        for trace in windows_of(calls_of(Size()), 1, "platform", Size()):
            arrivals = [(call.at, call.model) for call in trace.start().opening()]
            if len(arrivals) < BUSY_CALLS:
                continue
            order, slots = [model for _, model in arrivals], trace.fleet.most_replicas
            least = least_loads(order, slots)
            found.append(
                (
                    len(order),
                    len(trace.fleet.models),
                    sum(before != after for before, after in pairwise(order)) / len(order),
                    least,
                    loads_with_foresight(arrivals, slots, 0.0) / least,
                    loads_with_foresight(arrivals, slots, 600.0) / least,
                )
            )
        recorded = (1406, 48, 0.78, 81, 1.68, 1.33)
        for real, made in zip(recorded, map(fmean, zip(*found, strict=True)), strict=True):
            self.assertTrue(0.85 * real < made < 1.15 * real, (real, made))

    def test_few_models_get_most_of_the_calls_at_the_hours_of_work(self) -> None:
        """Ten of 74 models get most of the calls, and eight hours of the day most of the visits."""
        calls = calls_of(Size())
        by_model = Counter(call.model for call in calls).most_common()
        favourites = sum(count for _, count in by_model[:10]) / len(calls)
        self.assertTrue(0.7 < favourites < 0.9, favourites)
        self.assertGreater(len(by_model), 60)
        early = sum(call.at % DAY_SECONDS < 8.5 * 3600 for call in calls) / len(calls)
        self.assertGreater(early, 0.75)
        self.assertAlmostEqual(1.0, sum(HOUR_SHARES))

    def test_most_users_come_once_and_ask_little(self) -> None:
        """The median user sends few requests, and the busiest one many."""
        by_user = Counter(call.client for call in calls_of(Size()))
        self.assertTrue(2 <= median(by_user.values()) <= 4)
        self.assertGreater(max(by_user.values()), 300)

    def test_the_figures_of_days_and_weeks_stand_in_rows(self) -> None:
        """A trace has a row for its busy days and one for its weeks, as wide as the head."""
        calls = calls_of(Size(hours=24 * 7))
        rows = rows_of("platform", calls, {"LRU": PlainLru})
        self.assertEqual(["platform, days", "platform, weeks"], [row[0] for row in rows])
        self.assertEqual({len(head(["LRU"]))}, {len(row) for row in rows})
