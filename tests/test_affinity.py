from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.affinity import Affinity

NAMES = st.sampled_from("abcdef")
NODES = st.sampled_from(["ada", "bob"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("remember"), NAMES, NODES),
        st.tuples(st.just("forget"), NAMES, NODES),
        st.tuples(st.just("forget_node"), NAMES, NODES),
        st.tuples(st.just("wait"), NAMES, NODES),
    ),
    max_size=60,
)
LIFETIME, LIMIT = 3.0, 4


class AffinityTests(SynchronousTestCase):
    def test_known(self) -> None:
        """What was remembered is known until its lifetime is over, and nothing else is."""
        affinity = Affinity(lifetime=10.0)
        affinity.remember("x", "ada", 5.0)

        assert ("ada", "ada", None) == tuple(affinity.node_of("x", at) for at in (5.0, 14.9, 15.0))
        assert affinity.node_of("y", 5.0) is None

    def test_forgotten(self) -> None:
        """An id that is gone and a node that has lost everything are not known."""
        affinity = Affinity()
        for name, node in (("x", "ada"), ("y", "ada"), ("z", "bob")):
            affinity.remember(name, node, 0.0)
        affinity.forget("x")
        affinity.forget("never heard of")
        assert [None, "ada", "bob"] == [affinity.node_of(name, 1.0) for name in "xyz"]

        affinity.forget_node("ada")
        assert [None, None, "bob"] == [affinity.node_of(name, 1.0) for name in "xyz"]

    def test_the_oldest_go(self) -> None:
        """Of more ids than the limit the oldest are not known; telling anew makes an id new."""
        affinity = Affinity(limit=2)
        for number, name in enumerate("abac"):
            affinity.remember(name, "ada", float(number))

        assert ["ada", None, "ada"] == [affinity.node_of(name, 4.0) for name in "abc"]
        assert 2 == len(affinity)

    @given(STEPS)
    def test_as_a_list_would(self, steps: list[tuple[str, str, str]]) -> None:
        """After any course of things it knows what a plain list of all that was told knows."""
        affinity, told, now = Affinity(LIFETIME, LIMIT), list[tuple[str, str, float]](), 0.0
        for step, name, node in steps:
            if step == "wait":
                now += 1.0
            elif step == "remember":
                affinity.remember(name, node, now)
                told = [each for each in told if each[0] != name] + [(name, node, now)]
                told = [each for each in told if now < each[2] + LIFETIME][-LIMIT:]
            elif step == "forget":
                affinity.forget(name)
                told = [each for each in told if each[0] != name]
            else:
                affinity.forget_node(node)
                told = [each for each in told if each[1] != node]
            known = {each: kept for each, kept, since in told if now < since + LIFETIME}
            for each in "abcdef":
                assert known.get(each) == affinity.node_of(each, now)
            assert len(known) <= len(affinity) <= LIMIT
