import json

from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes.answers import BadAnswer
from cortexd.dialects.nodes.messages import read_listing, read_token_count
from cortexd.fleet.states import Observation, ReplicaState
from tests.dialects.bodies import JSON_VALUES


class CountTests(SynchronousTestCase):
    def test_count(self) -> None:
        """A count is a whole number of tokens, and what is none is told in words."""
        assert 7 == read_token_count(b'{"input_tokens":7}')
        for body in (b"7", b"{}", b'{"input_tokens":true}', b'{"input_tokens":-1}'):
            with self.assertRaises(BadAnswer):
                read_token_count(body)


class ListingTests(SynchronousTestCase):
    def test_listing(self) -> None:
        """Every model of the list is loaded: such a node says nothing else of them."""
        models = [{"type": "model", "id": name, "display_name": name} for name in ("m", "n")]
        listing = {"data": models, "has_more": False, "first_id": "m", "last_id": "n"}

        assert Observation(None, dict.fromkeys("mn", ReplicaState.LOADED), {}) == read_listing(
            json.dumps(listing).encode()
        )

    def test_pseudo_model(self) -> None:
        """The name that stands for another model is none, should the server be a mistral.rs."""
        listing = {"data": [{"id": "default"}, {"id": "m"}]}
        assert ["m"] == list(read_listing(json.dumps(listing).encode()).replicas)

    def test_no_listing(self) -> None:
        """What is no list of models is told in words."""
        for body, words in (
            (b"<html>", "not valid JSON"),
            (b'{"data":{}}', "no 'data' array"),
            (b'{"data":[{"id":1}]}', "an entry without an id"),
            (b'{"data":[{"id":""}]}', "an entry without an id"),
            (b'{"data":["m"]}', "an entry without an id"),
        ):
            with self.assertRaises(BadAnswer) as caught:
                read_listing(body)
            assert words in str(caught.exception)

    @given(JSON_VALUES)
    def test_anything(self, data: object) -> None:
        """Whatever a server answers, it is a listing or it is not understood."""
        try:
            read_listing(json.dumps({"data": data}).encode())
        except BadAnswer:
            return
