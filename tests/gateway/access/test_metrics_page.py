"""The metrics listener where /metrics needs a key."""

from cortexd.access.keys import Scope
from tests.access.making import bearer, given
from tests.support.fleets import FleetTestCase, InMemoryFleet

METRICS_PORT = 9100


class KeyedMetricsTests(FleetTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.reader = given("reader", scopes=frozenset({Scope.READ}))
        self.user = given("user", scopes=frozenset({Scope.INFER}))

    def made(self, *, metrics: bool) -> InMemoryFleet:
        keys = [self.reader.key, self.user.key]
        fleet = self.fleet(self.node(), keys=keys, metrics=metrics, keys_file="/unused/keys.toml")
        fleet.network.listenTCP(METRICS_PORT, fleet.parts.metrics_site)
        return fleet

    def status(
        self, fleet: InMemoryFleet, headers: dict[str, str], path: str = "/metrics"
    ) -> object:
        return fleet.request("GET", path, headers=headers, port=METRICS_PORT).status

    def test_the_scope_read(self) -> None:
        """Any path of that listener needs it."""
        fleet = self.made(metrics=True)
        for path in ("/metrics", "/", "/nowhere"):
            expected = 404 if path == "/nowhere" else 200
            for _ in range(2):  # the first time its key is compared
                assert expected == self.status(fleet, self.reader.bearer, path)
            assert 403 == self.status(fleet, self.user.bearer, path)
            assert 401 == self.status(fleet, {}, path)
            assert 401 == self.status(fleet, bearer(given().text), path)

    def test_a_key_for_some_models(self) -> None:
        """It does not get a page that names all models."""
        fleet = self.made(metrics=True)
        narrow = given("narrow", models=("acme/*",), scopes=frozenset({Scope.READ}))
        fleet.parts.ring.take([narrow.key])
        for _ in range(2):
            client = fleet.request("GET", "/metrics", headers=narrow.bearer, port=METRICS_PORT)
            assert (403, "permission_error") == (client.status, client.error["type"])
            assert b"acme/chat" not in client.body

    def test_while_a_key_is_compared(self) -> None:
        """The page waits, and a scraper that leaves leaves nothing behind."""
        fleet = self.made(metrics=True)
        fleet.worker.is_held = True
        stays, leaves = (
            fleet.request("GET", "/metrics", headers=self.reader.bearer, port=METRICS_PORT)
            for _ in range(2)
        )
        fleet.leave(leaves)
        assert not stays.ended
        fleet.worker.release()
        fleet.flush()
        assert 200 == stays.status
        assert b"cortex_requests_denied_total" in stays.body

    def test_without_the_setting(self) -> None:
        """Nobody needs a key there, whatever clients of the gateway need."""
        assert 200 == self.status(self.made(metrics=False), {})
