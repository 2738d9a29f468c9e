"""Jobs that wait, each at the turn of its client."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.turns import MOST, MOST_EACH, Turns, client_group


def all_of(turns: Turns[str]) -> list[str]:
    taken = []
    while (job := turns.take()) is not None:
        taken.append(job)
    return taken


class TurnsTests(SynchronousTestCase):
    def test_turns_go_round(self) -> None:
        """A client with many jobs waits for one of each other client before its next."""
        turns: Turns[str] = Turns()
        for client, job in (("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1")):
            assert turns.add(client, job) is None

        assert ["a1", "b1", "c1", "a2", "a3"] == all_of(turns)

    def test_a_client_with_too_many(self) -> None:
        """Its own further jobs have no room; those of others have."""
        turns: Turns[str] = Turns()
        for number in range(MOST_EACH):
            turns.add("a", f"a{number}")

        assert "more" == turns.add("a", "more")
        assert turns.add("b", "b0") is None

    def test_too_many_in_all(self) -> None:
        """Who comes to a full queue gets the last place of the client with the most."""
        turns: Turns[str] = Turns()
        clients = MOST // MOST_EACH
        for client in range(clients):
            for number in range(MOST_EACH):
                turns.add(str(client), f"{client}:{number}")

        assert f"0:{MOST_EACH - 1}" == turns.add("new", "new0")
        assert MOST == len(turns)
        assert "new0" in all_of(turns)[: clients + 1]

    def test_nobody_has_more(self) -> None:
        """Where each client has one job, a further client has no room."""
        turns: Turns[str] = Turns()
        for client in range(MOST):
            turns.add(str(client), str(client))
        assert "new" == turns.add("new", "new")

    def test_one_that_leaves(self) -> None:
        """Its job is forgotten; to forget one that has gone does nothing."""
        turns: Turns[str] = Turns()
        turns.add("a", "a1")
        turns.remove("a", "a1")
        turns.remove("a", "a1")
        assert (0, None) == (len(turns), turns.take())

    @settings(max_examples=40)
    @given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["add", "take", "leave"]))))
    def test_any_course(self, course: list[tuple[str, str]]) -> None:
        """Each client's jobs come in their order, and the count is that of the jobs that wait."""
        turns: Turns[tuple[str, int]] = Turns()
        waiting: list[tuple[str, int]] = []
        for number, (client, step) in enumerate(course):
            if step == "add":
                assert turns.add(client, (client, number)) is None
                waiting.append((client, number))
            elif step == "take":
                job = turns.take()
                assert (job is None) == (not waiting)
                if job is not None:
                    assert job == next(each for each in waiting if each[0] == job[0])
                    waiting.remove(job)
            elif waiting:
                job = waiting.pop()
                turns.remove(job[0], job)
            assert len(waiting) == len(turns)


class ClientGroupTests(SynchronousTestCase):
    def test_groups(self) -> None:
        """One client has a whole /64 of IPv6, and one address of IPv4, however that is written."""
        assert client_group("2001:db8::1") == client_group("2001:db8::ffff:1%eth0")
        assert client_group("2001:db8::1") != client_group("2001:db8:0:1::1")
        assert "10.0.0.1" == client_group("10.0.0.1") == client_group("::ffff:10.0.0.1")
        assert "unix" == client_group("unix")
