"""Whatever base URL a client was given, its path reaches the route that it means."""

from tests.support.fleets import MODEL
from tests.support.relays import RelayTestCase

HELLO = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, object]] = {
    "/chat/completions": {"messages": HELLO},
    "/completions": {"prompt": "hi"},
    "/embeddings": {"input": "hi"},
    "/messages": {"messages": HELLO, "max_tokens": 9},
    "/responses": {"input": "hi", "store": False},
}


def spellings(bare: str) -> tuple[str, ...]:
    """Return the paths by which clients ask for a route."""
    return (bare, f"{bare}/", f"/v1/v1{bare}", f"/v1/v1/v1{bare}/", f"//v1{bare}", f"/v1{bare}/")


class PathTests(RelayTestCase):
    def test_requests(self) -> None:
        """Each spelling is served, and logged and counted under the path of the route."""
        fleet, node = self.alone()
        for bare, body in BODIES.items():
            for path in spellings(bare):
                client = fleet.request("POST", path, json={"model": MODEL, **body})
                node.answer(422, b"no")
                fleet.flush()
                assert 400 == client.status, path
                assert f"/v1{bare}" == fleet.events("request")[-1]["route"]

    def test_lists(self) -> None:
        """So are the lists, and a model by its id, whose slashes are its own."""
        fleet, _ = self.alone()
        for path in (*spellings("/models"), f"/models/{MODEL}", f"/v1/v1/models/{MODEL}"):
            assert 200 == fleet.get(path).status, path
        for path in ("/running/", "/health/", "/api/ps/"):
            assert 200 == fleet.get(path).status, path

    def test_envelopes(self) -> None:
        """An error has the envelope of the route that was meant."""
        fleet, _ = self.alone()
        for path in spellings("/messages"):
            assert "error" == fleet.request("POST", path, body=b"{").json()["type"]
        for path in spellings("/chat/completions"):
            assert ["error"] == list(fleet.request("POST", path, body=b"{").json())
