from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.requesters import Priority, Requester
from cortexd.fleet.shares import DECAY_SECONDS, Shares
from cortexd.scheduling.turns import HEAD_START, Front, Standings, crowded_out, next_turn
from cortexd.scheduling.waiting import Waiter

MAX_WAIT = 30.0
NOW = 1000.0
INTERACTIVE, DEFAULT, BULK = Priority.INTERACTIVE, Priority.DEFAULT, Priority.BULK


def front(
    name: str,
    priority: Priority = DEFAULT,
    standing: float = 0.0,
    *,
    waited: float = 0.0,
    number: int = 1,
    is_passed: bool = False,
) -> Front:
    waiter = Waiter(name, "m", NOW - waited, None, Requester(name, priority), number=number)
    return Front(waiter, waiter.since, standing, is_passed)


def turn(*fronts: Front) -> tuple[str, list[str]]:
    """Return whose turn it is, and which it passes."""
    chosen, passed = next_turn(fronts, NOW, MAX_WAIT)
    return chosen.waiter.request_id, [each.waiter.request_id for each in passed]


class OrderTests(SynchronousTestCase):
    def test_class_share_and_time(self) -> None:
        """The lower rank comes first, then the lower standing, then the earlier arrival."""
        assert "a" == turn(front("b", DEFAULT, 0.0), front("a", INTERACTIVE, 99.0))[0]
        assert "a" == turn(front("b", standing=2.0), front("a", standing=1.0, number=2))[0]
        assert "a" == turn(front("b", number=2), front("a", number=1))[0]

    def test_overdue(self) -> None:
        """It comes first once it has waited for max_wait times its rank, and passes the others."""
        first = front("a", INTERACTIVE)
        assert ("a", []) == turn(first, front("b", BULK, waited=89.0))
        assert ("b", ["a"]) == turn(first, front("b", BULK, waited=90.0))
        assert ("c", ["a"]) == turn(
            first, front("b", BULK, waited=91.0), front("c", DEFAULT, waited=70.0)
        )

    def test_what_must_not_be_passed_again(self) -> None:
        """It comes before what is overdue behind it; what is overdue before it comes first."""
        kept = front("k", DEFAULT, 5.0, is_passed=True)
        late = front("z", BULK, waited=500.0)
        assert ("k", []) == turn(kept, late)
        assert ("a", []) == turn(kept, late, front("a", INTERACTIVE))
        overdue = front("b", DEFAULT, 1.0, waited=60.0)
        assert ("b", ["a"]) == turn(kept, late, front("a", INTERACTIVE), overdue)

    @settings(max_examples=80)
    @given(
        st.lists(
            st.builds(
                front,
                st.sampled_from("abcdef"),
                st.sampled_from(Priority),
                st.sampled_from([0.0, 1.0, 50.0]),
                waited=st.sampled_from([0.0, 29.0, 31.0, 61.0, 91.0]),
                number=st.integers(1, 9),
                is_passed=st.booleans(),
            ),
            min_size=1,
        )
    )
    def test_any_fronts(self, fronts: list[Front]) -> None:
        """Only an overdue request passes others, and none that has been passed already."""
        chosen, passed = next_turn(fronts, NOW, MAX_WAIT)
        assert chosen in fronts
        assert not any(each.is_passed for each in passed)
        assert all(each.key <= chosen.key for each in passed)
        if passed:
            assert chosen.due_at(MAX_WAIT) <= NOW
        else:
            assert chosen.key == min(each.key for each in fronts)


class StandingsTests(SynchronousTestCase):
    def test_one_that_comes_new(self) -> None:
        """It starts a little below the highest standing that was granted in its class."""
        shares = Shares()
        standings, ann, bob = Standings(shares), Requester("ann"), Requester("bob")
        shares.charge("ann", 500.0, 0.0)
        standings.granted("m", ann, 0.0)
        standings.come("m", bob, 0.0)
        standings.come("n", bob, 0.0)
        assert (500.0 - HEAD_START, 0.0) == tuple(standings.of(m, bob, 0.0) for m in "mn")
        assert 500.0 == standings.of("m", ann, 0.0)
        low = Requester("cyd", BULK)
        standings.come("m", low, 0.0)
        assert 0.0 == standings.of("m", low, 0.0)

    def test_it_decays_and_is_forgotten(self) -> None:
        """As the used seconds do."""
        shares = Shares()
        standings, ann, bob = Standings(shares), Requester("ann"), Requester("bob")
        shares.charge("ann", 50.0, 0.0)
        standings.granted("m", ann, 0.0)
        standings.come("m", bob, 0.0)
        assert 45.0 == standings.of("m", bob, 0.0)
        assert 16.0 < standings.of("m", bob, DECAY_SECONDS) < 17.0
        standings.forget(24 * DECAY_SECONDS)
        assert 0.0 == standings.of("m", bob, 0.0)


class CrowdTests(SynchronousTestCase):
    @settings(max_examples=80)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from("abc"), st.sampled_from(Priority), st.sampled_from([1.0, 2.0])
            ),
            max_size=8,
        ),
        st.sampled_from("abcd"),
        st.sampled_from(Priority),
    )
    def test_who_leaves_a_full_queue(
        self, waiting: list[tuple[str, Priority, float]], name: str, priority: Priority
    ) -> None:
        """Never one of a higher class, nor of a requester with no more requests per weight."""
        crowds: dict[Requester, list[Waiter]] = {}
        for number, each in enumerate(waiting):
            requester = Requester(*each)
            crowds.setdefault(requester, []).append(
                Waiter(f"r{number}", "m", 0.0, None, requester, number=number)
            )
        new = Requester(name, priority)
        out = crowded_out(crowds.items(), new)
        if out is None:
            lower = [each for each in crowds if each.priority > priority]
            assert not lower
            return
        theirs = crowds[out.requester]
        assert out is theirs[-1]
        assert out.requester.priority == max(each.priority for each in crowds)
        assert out.requester.priority >= priority
        if out.requester.priority == priority:
            assert len(theirs) / out.requester.weight > len(crowds.get(new, ())) + 1
