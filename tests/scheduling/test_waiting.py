from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.scheduling.waiting import Waiter, Waiting


def waiting_for(*waiters: tuple[str, str, float]) -> Waiting:
    waiting = Waiting()
    for waiter in waiters:
        waiting.add(Waiter(*waiter))
    return waiting


class WaitingTests(SynchronousTestCase):
    def test_nobody(self) -> None:
        """Where nobody waits there is no model, no head and no count."""
        waiting = Waiting()

        assert "m" not in waiting
        assert (0, None, 0, [], [], ()) == (
            len(waiting),
            waiting.head("m"),
            waiting.count("m"),
            waiting.models(),
            list(waiting),
            waiting.of("m"),
        )

    def test_in_turn(self) -> None:
        """Who came first is served first."""
        waiting = waiting_for(("r1", "m", 1), ("r2", "n", 2), ("r3", "m", 3))

        assert ["r1", "r3"] == [waiter.request_id for waiter in waiting.of("m")]
        assert Waiter("r1", "m", 1) == waiting.head("m")
        assert (2, 1, 3) == (waiting.count("m"), waiting.count("n"), len(waiting))

    def test_among(self) -> None:
        """Of a node's models those are named that requests wait for, in the node's order."""
        waiting = waiting_for(("r1", "m", 1), ("r2", "n", 2))

        assert ["n", "m"] == waiting.among(["o", "n", "m"])
        assert [] == Waiting().among(["m"])

    def test_remove(self) -> None:
        """Who leaves is out of the queue, and with the last of a model the model is too."""
        waiting = waiting_for(("r1", "m", 1), ("r2", "m", 2))

        assert Waiter("r1", "m", 1) == waiting.remove("r1")
        assert None is waiting.remove("r1")
        assert Waiter("r2", "m", 2) == waiting.head("m")
        waiting.remove("r2")
        assert "m" not in waiting

    def test_twice(self) -> None:
        """Who waits already does not wait once more, for whatever model."""
        waiting = waiting_for(("r1", "m", 1))
        for model in "mn":
            with self.assertRaises(KeyError):
                waiting.add(Waiter("r1", model, 2))

        assert [Waiter("r1", "m", 1)] == list(waiting)

    def test_lines(self) -> None:
        """Who is bound to the same nodes stands in one line, and each line has its head."""
        waiting = Waiting()
        a, b, c = frozenset("a"), frozenset("bd"), frozenset("c")
        bound = [Waiter(f"r{at}", "m", at, only) for at, only in enumerate([a, None, a, b])]
        for waiter in (*bound, Waiter("other", "n", 9, c)):
            waiting.add(waiter)
        first, free, second, third = bound

        assert [first, free, third] == waiting.lines("m")
        assert [first, free, third, Waiter("other", "n", 9, c)] == waiting.heads()
        assert (free, third, None) == tuple(waiting.line_head("m", only) for only in (None, b, c))
        waiting.remove(first.request_id)
        assert [free, second, third] == waiting.lines("m")
        assert waiting.wants("m", "c")
        waiting.remove(free.request_id)
        assert [True, True, False, True] == [waiting.wants("m", node) for node in "abcd"]
        assert not waiting.wants("never", "a")

    def test_dependence(self) -> None:
        """Somebody depends on a node who may be served there and on none of the others."""
        waiting = waiting_for(("free", "m", 0))
        assert not waiting.depends_on("m", "a", [])
        waiting.add(Waiter("bound", "m", 1, frozenset("ab")))

        assert [True, True, False] == [
            waiting.depends_on("m", "a", others) for others in ("", "cd", "bc")
        ]
        assert not waiting.depends_on("m", "c", "")

    def test_models(self) -> None:
        """The model with the longest wait comes first."""
        waiting = waiting_for(("r1", "b", 5), ("r2", "c", 7), ("r3", "a", 6), ("r4", "b", 1))

        assert ["b", "a", "c"] == waiting.models()
        waiting.remove("r1")
        assert ["b", "a", "c"] == waiting.models()
        waiting.remove("r4")
        assert ["a", "c"] == waiting.models()

    def test_removal_on_the_way(self) -> None:
        """Whoever goes through all who wait may let them go."""
        waiting = waiting_for(("r1", "m", 1), ("r2", "m", 2), ("r3", "n", 3))
        for waiter in waiting:
            waiting.remove(waiter.request_id)

        assert 0 == len(waiting)

    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.sampled_from("abc"))))
    def test_as_one_list(self, steps: list[tuple[bool, int, str]]) -> None:
        """Each model's queue is the list of all who wait, without the others."""
        waiting, everybody = Waiting(), list[Waiter]()
        for now, (comes, number, model) in enumerate(steps):
            name = str(number)
            present = [waiter for waiter in everybody if waiter.request_id == name]
            if comes and not present:
                waiter = Waiter(name, model, now)
                waiting.add(waiter)
                everybody.append(waiter)
            elif not comes:
                assert (present[0] if present else None) == waiting.remove(name)
                everybody = [waiter for waiter in everybody if waiter not in present]
            for each in "abc":
                queue = [waiter for waiter in everybody if waiter.model == each]
                assert tuple(queue) == waiting.of(each)
                assert (len(queue), bool(queue)) == (waiting.count(each), each in waiting)
                assert (queue[0] if queue else None) == waiting.head(each)
            heads = {waiter.model: waiter for waiter in reversed(everybody)}
            assert sorted(heads.values(), key=lambda head: head.since) == [
                waiting.head(model) for model in waiting.models()
            ]
            assert {id(head) for head in heads.values()} == {id(head) for head in waiting.heads()}
            assert len(everybody) == len(waiting)
