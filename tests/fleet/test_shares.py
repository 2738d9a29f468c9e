from math import exp

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.requesters import ANYONE, Requester
from cortexd.fleet.nodes import Lease
from cortexd.fleet.shares import DECAY_SECONDS, Shares, by_requester

ANN, BOB = Requester("ann"), Requester("bob", weight=2.0)
NAMES = ("ann", "bob", "cyd")


def lease(number: int, requester: Requester = ANN, model: str = "m", node: str = "a") -> Lease:
    return Lease(number, node, model, f"r{number}", 0.0, None, False, requester)


class MeterTests(SynchronousTestCase):
    def test_a_lease_alone(self) -> None:
        """It is charged the time in which it ran."""
        shares = Shares()
        shares.begin(lease(1), 10.0)
        assert 4.0 == shares.of_lease(lease(1), 14.0)
        assert 5.0 == shares.end(lease(1), 15.0)

    def test_leases_at_the_same_time(self) -> None:
        """They share each second equally, whoever they are for."""
        shares = Shares()
        first, second, third = lease(1), lease(2, BOB), lease(3)
        shares.begin(first, 0.0)
        shares.begin(second, 2.0)
        shares.begin(third, 6.0)
        assert 2.0 + 4.0 / 2 + 3.0 / 3 == shares.end(first, 9.0)
        assert 4.0 / 2 + 3.0 / 3 + 1.0 / 2 == shares.end(second, 10.0)
        assert 3.0 / 3 + 1.0 / 2 + 1.0 == shares.end(third, 11.0)

    def test_replicas_of_their_own(self) -> None:
        """Leases on different nodes and of different models do not slow each other down."""
        shares = Shares()
        leases = [lease(1), lease(2, node="b"), lease(3, model="n")]
        for each in leases:
            shares.begin(each, 0.0)
        assert [5.0] * 3 == [shares.end(each, 5.0) for each in leases]

    def test_an_adapter_runs_in_its_base(self) -> None:
        """A lease of the adapter and one of the base share the seconds of one replica."""
        shares = Shares()
        adapter = Lease(1, "a", "m::x", "r1", 0.0, "m", False, ANN)
        shares.begin(adapter, 0.0)
        shares.begin(lease(2, BOB), 0.0)
        assert [2.0, 2.0] == [shares.end(each, 4.0) for each in (adapter, lease(2, BOB))]

    def test_an_adopted_lease(self) -> None:
        """It goes on with the seconds that it used before."""
        shares = Shares()
        shares.begin(lease(1), 100.0, 7.0)
        assert 10.0 == shares.end(lease(1), 103.0)
        assert 2.9 < shares.used("ann", 103.0) < 3.0

    def test_looking_changes_nothing(self) -> None:
        """Whoever asks in between, a lease is charged the same, to the last digit."""
        charged = []
        for asked in ([], [each / 10 for each in range(1, 33)]):
            shares = Shares()
            for number in (1, 2, 3):
                shares.begin(lease(number), 0.1)
            for now in asked:
                shares.of_lease(lease(1), now)
                shares.used("ann", now)
            charged.append((shares.end(lease(1), 3.3), shares.used("ann", 3.3)))
        assert charged[0] == charged[1]

    def test_a_probe(self) -> None:
        """A question of our own is charged to nobody."""
        shares = Shares()
        probe = Lease(1, "a", "m", "p", 0.0, is_probe=True)
        shares.begin(probe, 0.0)
        assert 0.0 == shares.of_lease(probe, 3.0)
        assert None is shares.end(probe, 5.0)
        assert {} == shares.all_used(5.0)


class UsedTests(SynchronousTestCase):
    def test_the_running_request_counts(self) -> None:
        """What a requester uses now counts before it ends."""
        shares = Shares()
        shares.begin(lease(1), 0.0)
        assert 9.9 < shares.used("ann", 10.0) < 10.0

    def test_it_decays(self) -> None:
        """After an hour, used seconds count only 1/e as much; after a day they are forgotten."""
        shares = Shares()
        shares.charge("ann", 100.0, 0.0)
        self.assertAlmostEqual(100.0 / exp(1), shares.used("ann", DECAY_SECONDS))
        shares.forget(DECAY_SECONDS)
        assert ["ann"] == list(shares.all_used(DECAY_SECONDS))
        shares.forget(24 * DECAY_SECONDS)
        assert {} == shares.all_used(24 * DECAY_SECONDS)

    def test_it_is_bounded(self) -> None:
        """A replica in use for ever counts as one hour."""
        shares = Shares()
        shares.begin(lease(1), 0.0)
        self.assertAlmostEqual(DECAY_SECONDS, shares.used("ann", 1e9))
        shares.forget(1e9)
        assert ["ann"] == list(shares.all_used(1e9))

    def test_per_weight(self) -> None:
        """A requester of twice the weight stands at half of what it used."""
        shares = Shares()
        shares.take({"ann": 30.0, "bob": 60.0}, 0.0)
        assert 30.0 == shares.standing(ANN, 0.0) == shares.standing(BOB, 0.0)
        assert 0.0 == shares.standing(ANYONE, 0.0)

    def test_a_load(self) -> None:
        """Each request that waited for it bears the same part of it."""
        assert {"ann": 0.75, "": 0.25} == by_requester([ANN, ANYONE, ANN, ANN])
        assert {} == by_requester([])

    @settings(max_examples=60)
    @given(
        st.lists(
            st.tuples(
                st.integers(0, 9), st.sampled_from(NAMES), st.sampled_from("mn"), st.floats(0, 90)
            ),
            max_size=40,
        )
    )
    def test_nothing_is_lost(self, steps: list[tuple[int, str, str, float]]) -> None:
        """The seconds of all leases add up to the time in which the replicas were in use, and the
        used seconds of all requesters to those seconds, each decayed since it was used.
        """
        shares, now = Shares(), 0.0
        running: dict[int, Lease] = {}
        busy = charged = decayed = 0.0

        def pass_time(seconds: float) -> None:
            nonlocal now, busy, decayed
            in_use = len({each.model for each in running.values()})
            fading = exp(-seconds / DECAY_SECONDS)
            decayed = decayed * fading + in_use * DECAY_SECONDS * (1 - fading)
            busy += in_use * seconds
            now += seconds

        for number, name, model, seconds in steps:
            pass_time(seconds)
            if number in running:
                charged += shares.end(running.pop(number), now) or 0.0
            else:
                running[number] = lease(number, Requester(name), model)
                shares.begin(running[number], now)
            self.assertAlmostEqual(decayed, sum(shares.all_used(now).values()), places=5)
            so_far = charged + sum(shares.of_lease(each, now) for each in running.values())
            self.assertAlmostEqual(busy, so_far, places=5)
