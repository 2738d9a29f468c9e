from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.affinity import (
    LIFETIMES,
    LONGEST_ID,
    OF_AN_ENGINE,
    Affinity,
    Kept,
    Place,
    StateKind,
    Whereabouts,
)

NAMES = st.sampled_from("abcdef")
NODES = st.sampled_from(["ada", "bob"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("remember"), NAMES, NODES),
        st.tuples(st.just("forget"), NAMES, NODES),
        st.tuples(st.just("forget_where"), NAMES, NODES),
        st.tuples(st.just("wait"), NAMES, NODES),
    ),
    max_size=60,
)
LIFETIME, LIMIT = 3.0, 4
ADA, BOB = Place("ada"), Place("bob")


class AffinityTests(SynchronousTestCase):
    def test_known(self) -> None:
        """What was remembered is known until its lifetime is over, and nothing else is."""
        affinity: Affinity[str] = Affinity(lifetime=10.0)
        affinity.remember("x", ADA, 5.0)

        assert (ADA, ADA, None) == tuple(affinity.place_of("x", at) for at in (5.0, 14.9, 15.0))
        assert affinity.place_of("y", 5.0) is None

    def test_forgotten(self) -> None:
        """An id that is gone and a place that has lost everything are not known."""
        affinity: Affinity[str] = Affinity(lifetime=10.0)
        for name, place in (("x", ADA), ("y", ADA), ("z", BOB)):
            affinity.remember(name, place, 0.0)
        affinity.forget("x")
        affinity.forget("never heard of")
        assert [None, ADA, BOB] == [affinity.place_of(name, 1.0) for name in "xyz"]

        affinity.forget_where(lambda place: place.node == "ada")
        assert [None, None, BOB] == [affinity.place_of(name, 1.0) for name in "xyz"]

    def test_the_oldest_go(self) -> None:
        """Of more ids than the limit the oldest are not known; telling anew makes an id new."""
        affinity: Affinity[str] = Affinity(lifetime=10.0, limit=2)
        for number, name in enumerate("abac"):
            affinity.remember(name, ADA, float(number))

        assert [ADA, None, ADA] == [affinity.place_of(name, 4.0) for name in "abc"]
        assert 2 == len(affinity)

    def test_nodes(self) -> None:
        """The nodes that have something are those of ids that are still known."""
        affinity: Affinity[str] = Affinity(lifetime=10.0)
        affinity.remember("x", BOB, 0.0)
        affinity.remember("y", ADA, 5.0)
        affinity.remember("z", Place("ada", "m"), 5.0)

        assert [["ada", "bob"], ["ada"], []] == [affinity.nodes(at) for at in (9.9, 10.0, 15.0)]

    @given(STEPS)
    def test_as_a_list_would(self, steps: list[tuple[str, str, str]]) -> None:
        """After any course of things it knows what a plain list of all that was told knows."""
        affinity: Affinity[str] = Affinity(LIFETIME, LIMIT)
        told, now = list[tuple[str, str, float]](), 0.0
        for step, name, node in steps:
            if step == "wait":
                now += 1.0
            elif step == "remember":
                affinity.remember(name, Place(node), now)
                told = [each for each in told if each[0] != name] + [(name, node, now)]
                told = [each for each in told if now < each[2] + LIFETIME][-LIMIT:]
            elif step == "forget":
                affinity.forget(name)
                told = [each for each in told if each[0] != name]
            else:
                affinity.forget_where(lambda place, lost=node: place.node == lost)  # type: ignore[misc] # a default cannot be typed in a lambda
                told = [each for each in told if each[1] != node]
            known = {each: kept for each, kept, since in told if now < since + LIFETIME}
            for each in "abcdef":
                place = affinity.place_of(each, now)
                assert known.get(each) == (place.node if place else None)
            assert sorted(set(known.values())) == affinity.nodes(now)
            assert len(known) <= len(affinity) <= LIMIT


class WhereaboutsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.known = Whereabouts()

    def test_kinds_are_apart(self) -> None:
        """The same id of two kinds names two things, each with its own lifetime."""
        for kind in StateKind:
            self.known.remember(Kept(kind, "x"), Place(kind.value), 0.0)
        for kind in StateKind:
            assert Place(kind.value) == self.known.place_of(Kept(kind, "x"), 1.0)
            assert self.known.place_of(Kept(kind, "x"), LIFETIMES[kind]) is None

        self.known.forget(Kept(StateKind.FILE, "x"), 1.0)
        assert self.known.place_of(Kept(StateKind.FILE, "x"), 1.0) is None
        assert self.known.place_of(Kept(StateKind.SESSION, "x"), 1.0) is not None
        assert ["approval"] == self.known.nodes_with(StateKind.APPROVAL, 1.0)

    def test_long_ids(self) -> None:
        """An id that only a client could have chosen so long is not kept in memory."""
        for length, place in ((LONGEST_ID, ADA), (LONGEST_ID + 1, None)):
            self.known.remember(Kept(StateKind.SESSION, "x" * length), ADA, 0.0)
            assert place == self.known.place_of(Kept(StateKind.SESSION, "x" * length), 0.0)

    def test_lifetimes(self) -> None:
        """No id is forgotten before the node itself forgets it."""
        least = dict.fromkeys(StateKind, 1800.0) | {StateKind.APPROVAL: 300.0}

        assert [] == [kind for kind in StateKind if LIFETIMES[kind] < least[kind]]

    def test_sessions_are_of_a_model(self) -> None:
        """Two models may have a session of the same id; without a model it is the latest."""
        session = Kept(StateKind.SESSION, "s")
        first, second = Place("ada", "m"), Place("bob", "n")
        self.known.remember(session, first, 0.0)
        self.known.remember(session, second, 1.0)

        assert [first, second, None, second] == [
            self.known.place_of(session, 2.0, model) for model in ("m", "n", "o", None)
        ]
        self.known.forget(session, 2.0)
        assert [first, None, None] == [
            self.known.place_of(session, 2.0, model) for model in ("m", "n", None)
        ]

    def test_other_kinds_are_of_a_node(self) -> None:
        """A file is found whatever model is asked: a node looks for it in all its engines."""
        file = Kept(StateKind.FILE, "f")
        self.known.remember(file, Place("ada", "m"), 0.0)

        assert Place("ada", "m") == self.known.place_of(file, 1.0, "n")

    def test_a_lost_engine(self) -> None:
        """With a model goes what its engine kept, and nothing of other models or nodes."""
        lost, other, elsewhere = Place("ada", "m"), Place("ada", "n"), Place("bob", "m")
        unknown = Place("ada")
        for kind in StateKind:
            for number, place in enumerate((lost, other, elsewhere, unknown)):
                self.known.remember(Kept(kind, str(number)), place, 0.0)
        self.known.forget_engine("ada", "m")

        for kind in StateKind:
            assert [None if kind in OF_AN_ENGINE else lost, other, elsewhere, unknown] == [
                self.known.place_of(Kept(kind, str(number)), 1.0) for number in range(4)
            ]
        assert self.known.place_of(Kept(StateKind.SESSION, "0"), 1.0, "m") is None

    def test_a_lost_process(self) -> None:
        """With a node's process goes everything it kept."""
        for kind in StateKind:
            self.known.remember(Kept(kind, "x"), Place("ada", "m"), 0.0)
            self.known.remember(Kept(kind, "y"), Place("bob", "m"), 0.0)
        self.known.forget_node("ada")

        for kind in StateKind:
            assert [None, Place("bob", "m")] == [
                self.known.place_of(Kept(kind, name), 1.0) for name in "xy"
            ]
