from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.scheduling.affinity import table as table_module
from cortexd.scheduling.affinity.table import HEADS_OF_REPLICA, LIFETIME, LONGEST_SESSION, Table
from cortexd.scheduling.hints import Hints
from tests.support.nodes import LOADED, fleet_of, replica_on

FIRST = Hints(prefixes=(1, 2))
SECOND = Hints(prefixes=(1, 2, 3))


class TableTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.replica = replica_on(fleet_of({"ada": {"m": LOADED}}), "ada", "m")
        self.table = Table()

    def match(self, hints: Hints, now: float = 0.0) -> tuple[float, bool] | None:
        """Return the tokens that the replica should hold, and whether the head is its own."""
        holding = self.table.holding(self.replica)
        match = holding.match(hints, self.table.sizes, now) if holding is not None else None
        return None if match is None else (match.tokens, match.is_own)

    def add(self, hints: Hints, tokens: float = 0.0, now: float = 0.0) -> None:
        self.table.add(self.replica, hints, now).tokens = tokens

    def test_goes_on(self) -> None:
        """A prompt that goes on where another ended finds all of it, and takes its place."""
        self.add(FIRST, tokens=500)

        assert (500, True) == self.match(SECOND)
        self.add(SECOND, tokens=700)
        assert (700, True) == self.match(Hints(prefixes=(1, 2, 3, 4)))
        assert 1 == len(self.table)

    def test_begins_alike(self) -> None:
        """A prompt that only begins like another finds the part that they share."""
        self.add(FIRST, tokens=500)
        self.table.learn_size(1, 200)

        assert (200, False) == self.match(Hints(prefixes=(1, 9)))
        assert None is self.match(Hints(prefixes=(8, 9)))

    def test_sessions(self) -> None:
        """A session finds its own conversation among those that begin alike."""
        self.add(Hints(session="s", prefixes=(1, 2)), tokens=500)
        self.add(Hints(session="t", prefixes=(1, 2)), tokens=300)

        assert (500, True) == self.match(Hints(session="s", prefixes=(1, 2)))
        assert 2 == len(self.table)

    def test_session_alone(self) -> None:
        """A session without prefixes is enough, and an unknown one finds nothing."""
        self.add(Hints(session="s"), tokens=500)

        assert (500, True) == self.match(Hints(session="s"))
        assert None is self.match(Hints(session="t"))

    def test_session_of_two_prompts(self) -> None:
        """Two kinds of prompts under one session, as of an agent's helpers, are both kept."""
        self.add(Hints(session="s", prefixes=(1, 2)), tokens=500)
        self.add(Hints(session="s", prefixes=(7, 8)), tokens=300)

        assert (500, True) == self.match(Hints(session="s", prefixes=(1, 2, 3)))
        assert (300, True) == self.match(Hints(session="s", prefixes=(7, 8, 9)))

    def test_least_recently_used(self) -> None:
        """A replica holds so many conversations; the one used longest ago goes first."""
        for number in range(HEADS_OF_REPLICA):
            self.add(Hints(prefixes=(1, 100 + number)), tokens=500)
        self.add(Hints(prefixes=(1, 100)), tokens=500)
        self.add(Hints(prefixes=(1, 999)))

        assert HEADS_OF_REPLICA == len(self.table)
        assert (500, True) == self.match(Hints(prefixes=(1, 100)))
        assert (0, False) == self.match(Hints(prefixes=(1, 101)))

    def test_new_engine(self) -> None:
        """A replica that is loaded anew holds nothing, and so does one whose node restarted."""
        for attribute, owner in (("loaded_at", self.replica), ("restarts", self.replica.node)):
            self.add(FIRST)
            setattr(owner, attribute, 5)

            assert None is self.match(FIRST)
            assert 0 == len(self.table)

    def test_expiry(self) -> None:
        """What was not used for an hour is taken for forgotten."""
        self.add(Hints(session="s", prefixes=(1,)), tokens=500)

        assert None is not self.match(Hints(prefixes=(1,)), LIFETIME - 1)
        assert None is self.match(Hints(session="s", prefixes=(1,)), LIFETIME)

    def test_long_session(self) -> None:
        """A session with a very long name is not remembered by it."""
        name = "s" * (LONGEST_SESSION + 1)
        self.add(Hints(session=name))

        assert None is self.match(Hints(session=name))

    def test_drop(self) -> None:
        """What an engine has dropped takes everything with it that was used before."""
        for number in range(3):
            self.add(Hints(prefixes=(number,)), now=float(number))
        self.table.drop_used_by(self.replica, 1.0)

        assert [False, False, True] == [
            self.match(Hints(prefixes=(number,))) is not None for number in range(3)
        ]

    @given(
        st.lists(
            st.tuples(
                st.integers(0, 3),
                st.sampled_from(["", "s", "t", "u"]),
                st.lists(st.integers(0, 5), max_size=4).map(tuple),
                st.integers(0, 2),
            ),
            max_size=60,
        )
    )
    @settings(max_examples=60)
    def test_bounds(self, steps: list[tuple[int, str, tuple[int, ...], int]]) -> None:
        """Whatever comes, the memory has its bounds, and the books are right."""
        self.patch(table_module, "MOST_HEADS", 12)
        self.patch(table_module, "HEADS_OF_REPLICA", 5)
        self.patch(table_module, "MOST_SIZES", 4)
        fleet = fleet_of({name: {"m": LOADED} for name in "abcd"})
        replicas = [replica_on(fleet, name, "m") for name in "abcd"]
        table = Table()
        for now, (index, session, prefixes, restarts) in enumerate(steps):
            replica = replicas[index]
            replica.node.restarts = max(replica.node.restarts, restarts)
            table.add(replica, Hints(session=session, prefixes=prefixes), float(now))
            for prefix in prefixes:
                table.learn_size(prefix, 10.0)

            holdings = table.of("m")
            assert len(table) == sum(map(len, holdings.values())) <= 12
            assert all(0 < len(holding) <= 5 for holding in holdings.values())
            assert len(table.sizes) <= 4
