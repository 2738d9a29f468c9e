import json

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes.answers import BadAnswer
from cortexd.engines.messages import MessagesServer
from cortexd.fleet.states import Observation, ReplicaState

ENGINE = MessagesServer()
VERSION = ("anthropic-version", "2023-06-01")


class MessagesServerTests(SynchronousTestCase):
    def test_listing(self) -> None:
        """All models are asked for at once, in the dialect's version, and all are loaded."""
        ask = ENGINE.listing()
        assert ("GET", "/v1/models?limit=1000", (VERSION,)) == (ask.method, ask.path, ask.headers)
        assert Observation(None, {"m": ReplicaState.LOADED}, {}) == ask.answer(
            200, b'{"data":[{"id":"m"}]}'
        )

    def test_a_key(self) -> None:
        """It has a header of its own."""
        assert {"X-Api-Key": "k"} == ENGINE.credentials("k")

    def test_counting_tokens(self) -> None:
        """The request goes up with the model's id, and the client's headers before ours."""
        fields = {"model": "alias", "messages": [{"role": "user", "content": "hi"}]}
        ask = ENGINE.count_tokens(fields, "org/m", {"anthropic-version": "2099", "x": "y"})

        assert ("POST", "/v1/messages/count_tokens") == (ask.method, ask.path)
        assert (("anthropic-version", "2099"), ("x", "y")) == ask.headers
        assert ask.body is not None
        assert {**fields, "model": "org/m"} == json.loads(ask.body)
        assert 7 == ask.answer(200, b'{"input_tokens":7}')
        with self.assertRaises(BadAnswer):
            ask.answer(200, b"{}")
