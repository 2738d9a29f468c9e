"""The side of a request that no client waits for."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.exchange import JSON
from cortexd.downstream.response import NoDownstream


class NoDownstreamTests(SynchronousTestCase):
    def test_an_answer_without_a_client_is_counted(self) -> None:
        """Whole or in pieces; nothing slows it down."""
        whole, pieces = NoDownstream(), NoDownstream()
        whole.respond(JSON, {}, b"12345")
        pieces.begin(JSON, {})
        pieces.write(b"12")
        release = pieces.pace(object())
        pieces.finish(b"345")
        release()

        assert 5 == whole.bytes_out == pieces.bytes_out
        assert whole.started
        assert pieces.started
        assert not pieces.gone
