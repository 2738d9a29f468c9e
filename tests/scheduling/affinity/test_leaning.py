from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.learning.prefills import Reading
from cortexd.fleet.nodes import Replica
from cortexd.scheduling.hints import Hints
from cortexd.scheduling.routing import choose_replica
from cortexd.scheduling.terms import SchedulingTerms
from tests.scheduling.affinity.worlds import answer, copies, leave, submit
from tests.support.scheduling import World, replay
from tests.support.scheduling_rules import words

LONG = Reading(20_000, 0, 20.0, 10.0)
"""A long prompt, read at 1,000 tokens a second, with an answer of ten seconds."""

TURN = Hints(session="s", prefixes=(1, 2))
NEXT = Hints(session="s", prefixes=(1, 2, 3))


class LeaningTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = copies("ada", "bob")

    def talk(self, hints: Hints, reading: Reading = LONG, *, only: str = "") -> str:
        """Let a request be answered, and return its node; with ``only`` it may go nowhere else."""
        request = submit(self.world, hints, only)
        node = self.world.leases[request].node
        self.world.pass_time(30)
        answer(self.world, request, reading)
        return node

    def granted(self, hints: Hints, world: World | None = None) -> tuple[str, str]:
        """Return the node that a request gets, which it keeps, and how that fits."""
        world = world or self.world
        grant = world.grants[submit(world, hints)]
        return grant.lease.node, grant.affinity

    def test_conversation(self) -> None:
        """Each turn of a conversation goes to the copy that has read the ones before."""
        assert "ada" == self.talk(TURN)
        assert ("ada", "session") == self.granted(NEXT)

    def test_prefix_without_session(self) -> None:
        """Without the name of a session, what the prompt begins with is enough."""
        self.talk(Hints(prefixes=(1, 2)))

        assert ("ada", "prefix") == self.granted(Hints(prefixes=(1, 2, 3)))

    def test_unknown(self) -> None:
        """A new conversation goes where routing sends it."""
        self.talk(TURN)

        assert ("bob", "new") == self.granted(Hints(session="t", prefixes=(8, 9)))

    def test_busy_copy(self) -> None:
        """A copy with free slots is worth its other requests while it saves more than they cost."""
        self.talk(TURN)
        for _ in range(3):
            self.world.submit("m", only=["ada"])

        assert ("ada", "session") == self.granted(NEXT)

    def test_not_worth_it(self) -> None:
        """A short prompt is read again rather than answered on a busy copy."""
        self.talk(TURN)
        self.talk(Hints(session="t", prefixes=(7,)), Reading(100, 0, 0.1, 10.0), only="ada")
        self.world.submit("m", only=["ada"])

        assert ("bob", "elsewhere") == self.granted(Hints(session="t", prefixes=(7,)))
        assert ("ada", "session") == self.granted(NEXT)

    def test_small_prompts(self) -> None:
        """Short prompts that are repeated spread over the copies."""
        nodes = [self.talk(TURN, Reading(50, 0, 0.1, 1.0)) for _ in range(4)]

        assert ["ada", "bob", "ada", "bob"] == nodes

    def test_full_copy(self) -> None:
        """A request never waits for the copy that it leans towards while another is free."""
        self.talk(TURN)
        for _ in range(4):
            self.world.submit("m", only=["ada"])

        assert ("bob", "elsewhere") == self.granted(NEXT)

    def test_shared_beginning(self) -> None:
        """Conversations that only begin alike spread over the copies."""
        self.talk(TURN)
        nodes = {self.granted(Hints(session=f"t{n}", prefixes=(1, 10 + n)))[0] for n in range(4)}

        assert {"ada", "bob"} == nodes

    def test_queue(self) -> None:
        """A request that has waited leans as well, where several slots are free at its turn."""
        self.talk(TURN)
        held = [self.world.submit("m") for _ in range(8)]
        waits = submit(self.world, NEXT)
        assert waits not in self.world.grants
        on_bob = next(each for each in held if self.world.leases[each].node == "bob")
        self.world.answer(on_bob)

        assert "bob" == self.world.leases[waits].node

    def test_failing_copy(self) -> None:
        """A copy whose last request failed is not preferred."""
        self.talk(TURN)
        self.world.fail(self.world.submit("m", only=["ada"]))

        assert ("bob", "elsewhere") == self.granted(NEXT)

    def test_miss(self) -> None:
        """An answer that found nothing in the cache corrects what was believed of that copy."""
        self.talk(Hints(session="old", prefixes=(5, 6)))
        self.talk(Hints(session="old", prefixes=(5, 6)), only="ada")
        self.talk(TURN, only="ada")
        self.talk(NEXT, LONG._replace(cached_tokens=0), only="ada")

        assert "new" == self.granted(Hints(session="old", prefixes=(5, 6)))[1]
        assert ("ada", "session") == self.granted(NEXT)

    def test_a_count_that_cannot_be(self) -> None:
        """A node that counts more cached tokens than the prompt has draws no requests by that."""
        self.talk(TURN)
        lie = LONG._replace(cached_tokens=2**53)
        self.talk(Hints(session="t", prefixes=(1, 10)), lie, only="ada")
        for _ in range(3):
            self.world.submit("m", only=["ada"])

        assert "bob" == self.granted(Hints(session="u", prefixes=(1, 11)))[0]

    def test_unread(self) -> None:
        """A prompt whose request failed before its answer began was not read whole."""
        request = submit(self.world, TURN)
        self.world.end(request)

        assert "new" == self.granted(TURN)[1]

    def test_restart(self) -> None:
        """A node that restarts has lost what it had read."""
        self.talk(TURN)
        self.world.restart("ada")

        assert "new" == self.granted(NEXT)[1]

    def test_one_copy(self) -> None:
        """A model that one node lists is not looked at."""
        world = copies("ada")

        assert ("ada", "") == self.granted(TURN, world)
        assert 0 == len(world.scheduler.affinity.table)

    def test_off(self) -> None:
        """Affinity can be switched off, and forgets what it knew then."""
        self.talk(TURN)
        self.world.reconfigure(self.world.setup.nodes, terms=SchedulingTerms(affinity=False))

        assert ("bob", "") == self.granted(NEXT)
        assert 0 == len(self.world.scheduler.affinity.table)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["submit", "submit", "answer", "leave", "fail", "restart"]),
                st.integers(0, 3),
                st.integers(0, 20_000),
            ),
            max_size=30,
        )
    )
    @settings(max_examples=60, deadline=None)
    def test_never_worse(self, steps: list[tuple[str, int, int]]) -> None:
        """A leaning request gets a slot where it would have got one, of the same standing.

        Equal events have equal effects, and no request waits while a copy is free (``Rules``).
        """
        world = copies("ada", "bob", "cyd", capacity=2)
        for step, index, tokens in steps:
            world.pass_time(0.5)
            held = list(world.leases)
            if step == "submit":
                hints = Hints(session="stuv"[index], prefixes=(1, 10 + index))
                replicas = list(world.fleet.replicas("m"))
                first = choose_replica(replicas, world.now)
                free = {each.node.name: _standing(each, world.now) for each in replicas}
                request = submit(world, hints)
                assert (first is None) == (request not in world.leases)
                if first is not None:
                    chosen = free[world.leases[request].node]
                    assert free[first.node.name] == chosen
            elif step == "restart":
                world.restart(["ada", "bob", "cyd", "ada"][index])
            elif held:
                request = held[index % len(held)]
                reading = Reading(tokens, 0, tokens / 1_000, 5.0)
                if step == "answer":
                    answer(world, request, reading)
                elif step == "leave":
                    leave(world, request, Reading(tokens, is_left=True))
                else:
                    world.fail(request)

        assert [words(effect) for effect in world.effects] == replay(world)


def _standing(replica: Replica, now: float) -> tuple[bool, bool, bool]:
    breaker = replica.breaker
    return (
        replica.has_slot,
        breaker is not None and breaker.is_suspect(now),
        replica.is_ejected,
    )
