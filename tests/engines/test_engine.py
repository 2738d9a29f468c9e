from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes.answers import BadAnswer
from cortexd.dialects.wire.profile import NodeKind, Speaks
from cortexd.engines.engine import Abilities, Ask, Dialect

CHAT, MESSAGES = frozenset({Dialect.CHAT}), frozenset({Dialect.MESSAGES})


def number(body: bytes) -> int:
    if not body.isdigit():
        raise BadAnswer("that is no number")
    return int(body)


def nothing(status: int, body: bytes) -> int:
    if status != 404:
        raise BadAnswer(f"said {status}")
    return 0


class AskTests(SynchronousTestCase):
    def words(self, ask: Ask[int], status: int, body: bytes) -> str:
        with self.assertRaises(BadAnswer) as caught:
            ask.answer(status, body)
        return str(caught.exception)

    def test_an_answer(self) -> None:
        """The body of a good answer is read."""
        assert 7 == Ask("GET", "/n", number).answer(200, b"7")

    def test_no_answer(self) -> None:
        """A body that cannot be read is told with the question, and the reason."""
        assert "GET /n: that is no number" == self.words(Ask("GET", "/n", number), 200, b"x")

    def test_refused(self) -> None:
        """Another status is told with the first line of the server's words."""
        ask = Ask("POST", "/n", number)
        for body, told in (
            (b'{"message":"no\\nway"}', "no"),
            (b"oh\n at", "oh"),
            (b"", "no message"),
        ):
            assert f"POST /n answered with status 500: {told}" == self.words(ask, 500, body)

    def test_another_status_that_means_something(self) -> None:
        """A question may have a meaning of its own for other statuses."""
        ask = Ask("GET", "/n", number, otherwise=nothing)
        assert 0 == ask.answer(404, b"7")
        assert "GET /n said 500" == self.words(ask, 500, b"7")

    @given(st.integers(100, 599), st.binary(max_size=20))
    def test_any_answer(self, status: int, body: bytes) -> None:
        """Every answer is read, or told in words that begin with the question."""
        ask = Ask("GET", "/n", number)
        if status == 200 and body.isdigit():
            assert int(body) == ask.answer(status, body)
        else:
            assert self.words(ask, status, body).startswith("GET /n")


class AbilitiesTests(SynchronousTestCase):
    def test_the_kind_of_a_node(self) -> None:
        """A node that takes both dialects takes Messages as they are only where that is wished."""
        for dialects, wished, speaks in (
            (CHAT, False, Speaks.CHAT),
            (CHAT, True, Speaks.CHAT),
            (CHAT | MESSAGES, False, Speaks.CHAT),
            (CHAT | MESSAGES, True, Speaks.BOTH),
            (MESSAGES, False, Speaks.MESSAGES),
            (MESSAGES, True, Speaks.MESSAGES),
        ):
            for keeps in (False, True):
                abilities = Abilities(dialects=dialects, keeps_state=keeps)
                assert NodeKind(speaks, keeps) == abilities.kind(passes_messages=wished)
