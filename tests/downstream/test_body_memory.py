"""The memory that the bodies of all clients may take together."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.downstream.body_memory import FREE_BYTES, BodyMemory, Share
from tests.support.conversations import ConversationTestCase, respond
from tests.support.fleets import MODEL, InMemoryFleet, RawClient
from tests.support.relays import RelayTestCase, chunk
from tests.testing.client import CHAT

MEBIBYTE = 1024 * 1024
HEAD = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
MOST = 700_000


def body_of(size: int, fields: bytes = b"") -> bytes:
    start = b'{"model":"%b",%b"messages":[{"role":"user","content":"' % (MODEL.encode(), fields)
    return start + b"a" * (size - len(start) - 4) + b'"}]}'


class ShareTests(SynchronousTestCase):
    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), max_size=30))
    def test_used_is_what_shares_have_and_never_more_than_the_limit(
        self, steps: list[tuple[int, int]]
    ) -> None:
        """A step of 0 bytes frees a share; to free it twice is harmless."""
        memory = BodyMemory(100)
        shares, sizes = [Share(memory) for _ in range(4)], [0] * 4
        for number, size in steps:
            if size == 0:
                shares[number].free()
                sizes[number] = 0
            elif shares[number].grow(size):
                sizes[number] += size
            else:
                assert sum(sizes) + size > 100
            assert sum(sizes) == memory.used <= 100


class SiteTests(RelayTestCase):
    def half_sent(self, fleet: InMemoryFleet) -> RawClient:
        client = fleet.connect()
        body = body_of(MOST)
        fleet.send(client, HEAD % len(body) + body[: -MOST // 10])
        return client

    def test_a_body_that_does_not_fit_is_refused_and_small_ones_are_served(self) -> None:
        """Until another body's answer has begun, or its client has left."""
        fleet = self.fleet(self.node(), max_body_mb=1, body_memory_mb=1)
        memory = fleet.parts.site.body_memory
        first = self.half_sent(fleet)
        refused = self.half_sent(fleet)
        assert refused.received.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 2" in refused.received.lower()
        assert b"gateway.body_memory_mb" in refused.received
        small = fleet.chat()
        fleet.advance(30)
        assert 200 == small.status

        assert MOST * 9 // 10 - FREE_BYTES - 2000 < memory.used < MOST
        assert first.transport is not None
        first.transport.loseConnection()
        fleet.flush()
        assert 0 == memory.used

    def test_a_stated_length_takes_nothing(self) -> None:
        """Only bytes that have come do."""
        fleet = self.fleet(self.node(), max_body_mb=1, body_memory_mb=1)
        for _ in range(5):
            fleet.send(fleet.connect(), HEAD % MOST + b"{")

        assert 0 == fleet.parts.site.body_memory.used

    def test_a_stream_gives_the_memory_back_as_it_begins(self) -> None:
        """No other node will be asked then; the stream may take minutes."""
        fleet, node = self.alone()
        memory = fleet.parts.site.body_memory
        client = fleet.connect()
        body = body_of(MOST, b'"stream":true,')
        fleet.send(client, HEAD % len(body) + body)
        assert memory.used > MOST // 2
        node.stream(chunk("a"))
        fleet.advance(0.1)

        assert b"200 OK" in client.received
        assert 0 == memory.used

    def test_every_end_of_a_request_gives_the_memory_back(self) -> None:
        """An answer, an error, and a body over its own limit."""
        fleet = self.fleet(self.node(), max_body_mb=1)
        for body in (body_of(MOST), body_of(MOST).replace(MODEL.encode(), b"no"), b"{" * MOST * 2):
            client = fleet.connect()
            fleet.send(client, HEAD % len(body) + body)
            fleet.advance(30)

            assert client.received
            assert 0 == fleet.parts.site.body_memory.used


class BackgroundTests(ConversationTestCase):
    def test_work_in_the_background_keeps_its_share(self) -> None:
        """Until it has ended, although its request was answered at once."""
        fleet = self.stored(self.node(prompt_seconds=5))
        memory = fleet.parts.site.body_memory
        assert 200 == respond(fleet, "a" * MOST, background=True).status
        assert memory.used > MOST // 2
        fleet.advance(60)

        assert 0 == memory.used
