"""Which requests the gate lets through, by their keys."""

from cortexd.access.keys import Scope
from tests.access.making import bearer, given
from tests.support.fleets import STARTED_AT, FleetTestCase


class GateTests(FleetTestCase):
    def test_a_key_with_the_scope(self) -> None:
        """It gets an answer, and the account of the request has its name."""
        alice = given("alice")
        fleet = self.fleet(self.node(), keys=[alice.key])

        assert 200 == fleet.chat(headers=alice.bearer).status
        assert 200 == fleet.get("/v1/models", **{"x-api-key": alice.text}).status

    def test_no_valid_key(self) -> None:
        """401 without one, and with a wrong or an expired one."""
        alice, late = given("alice"), given("late", expires=STARTED_AT + 5.0)
        fleet = self.fleet(self.node(), keys=[alice.key, late.key])
        wrong = alice.text[:-1] + ("b" if alice.text[-1] == "a" else "a")

        for headers in ({}, bearer(wrong), bearer(given().text)):
            client = fleet.chat(headers=headers)
            assert (401, "invalid_api_key") == (client.status, client.error["code"])
        assert 200 == fleet.chat(headers=late.bearer).status
        fleet.advance(5.0)
        assert 401 == fleet.chat(headers=late.bearer).status

    def test_a_key_without_the_scope(self) -> None:
        """403, and the error says which scope it lacks."""
        reader = given("reader", scopes=frozenset({Scope.READ}))
        fleet = self.fleet(self.node(), keys=[reader.key])

        client = fleet.chat(headers=reader.bearer)
        assert (403, "permission_error") == (client.status, client.error["type"])
        assert "'reader' lacks the scope 'infer'" in client.error["message"]

    def test_unloading_with_the_scope(self) -> None:
        """Where keys are required, the scope decides, and allow_http_control says nothing."""
        boss = given("boss", scopes=frozenset({Scope.CONTROL}))
        fleet = self.fleet(self.node(), keys=[boss.key])

        url = "/api/models/unload"
        assert 401 == fleet.request("POST", url, body=b"").status
        assert 200 == fleet.request("POST", url, body=b"", headers=boss.bearer).status

    def test_without_keys(self) -> None:
        """Nobody needs one, and one that is sent is not looked at."""
        fleet = self.fleet(self.node())
        assert 200 == fleet.chat(headers=bearer("x")).status
