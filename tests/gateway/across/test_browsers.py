"""Pages in browsers: what they may ask of the gateway, and read of its answers."""

from cortexd.gateway.routes import Gateway
from tests.support.fleets import MODEL, Client, InMemoryFleet
from tests.support.http_answers import read_answers
from tests.support.relays import RelayTestCase
from tests.testing.client import CHAT

PAGE = "http://localhost:3000"
OTHER = "https://elsewhere.example"
OURS = {"Origin": PAGE}


def preflight(fleet: InMemoryFleet, path: str, origin: str = PAGE) -> Client:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
        "Access-Control-Request-Private-Network": "true",
    }
    return fleet.request("OPTIONS", path, headers=asked)


class BrowserTests(RelayTestCase):
    def assert_silent(self, client: Client) -> None:
        assert not [name for name in client.headers if name.startswith("access-control-")]

    def test_preflight(self) -> None:
        """204 on any path, which allows what was asked for; no request goes anywhere."""
        fleet, node = self.alone(cors_origins=[PAGE])
        paths = {rule.rule for rule in Gateway.app.url_map.iter_rules()}
        for path in (CHAT, "/chat/completions/", *sorted(p for p in paths if "<" not in p)):
            client = preflight(fleet, path)
            assert (204, b"") == (client.status, client.body)
            assert "content-length" not in client.headers
            assert PAGE == client.headers["access-control-allow-origin"]
            assert "POST" == client.headers["access-control-allow-methods"]
            allowed = client.headers["access-control-allow-headers"]
            assert "authorization,content-type,x-stainless-os" == allowed
            assert "true" == client.headers["access-control-allow-private-network"]
            assert "Origin" in client.headers["vary"]
        assert [] == node.requests

    def test_answers(self) -> None:
        """Every answer may be read: whole, streamed, an error of any kind."""
        fleet, node = self.alone(cors_origins=[PAGE, OTHER])
        hello = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
        streamed = fleet.request("POST", CHAT, json={**hello, "stream": True}, headers=OURS)
        node.stream(b": waits\n\n")
        fleet.advance(10)
        told = fleet.request("POST", CHAT, json=hello, headers=OURS)
        node.answer(401, b'{"error":{"message":"no such key"}}')
        fleet.flush()
        for client, status in (
            (streamed, 200),
            (told, 401),
            (fleet.get("/v1/models", **OURS), 200),
            (fleet.get("/v1/nothing", **OURS), 404),
            (fleet.get(CHAT, **OURS), 405),
            (fleet.request("POST", CHAT, body=b"{", headers=OURS), 400),
            (fleet.get("/%ff", **OURS), 400),
        ):
            assert status == client.status
            assert PAGE == client.headers["access-control-allow-origin"]
            assert "Origin" == client.headers["vary"]
            assert "X-Request-ID" in client.headers["access-control-expose-headers"]

    def test_early_refusal(self) -> None:
        """A request that is refused before it was read is answered to the page as well."""
        fleet, _ = self.alone(cors_origins=[PAGE], max_body_mb=1)
        client = fleet.connect()
        head = f"POST {CHAT} HTTP/1.1\r\nOrigin: {PAGE}\r\nContent-Length: 9999999\r\n\r\n"
        fleet.send(client, head.encode())
        (answer,) = read_answers(client.received)
        assert 413 == answer.status
        assert PAGE == answer.headers["access-control-allow-origin"]
        bad = fleet.connect()
        fleet.send(bad, b"nonsense\r\n\r\n")
        assert b"Vary: Origin" in bad.received

    def test_unknown_origin(self) -> None:
        """A page of another origin is told nothing."""
        listed, _ = self.alone(cors_origins=[PAGE])
        for client in (preflight(listed, CHAT, OTHER), listed.get("/v1/models", Origin=OTHER)):
            self.assert_silent(client)
            assert "Origin" == client.headers["vary"]

    def test_usual_port(self) -> None:
        """Browsers leave out the port that the scheme implies; the configuration may name it."""
        fleet, _ = self.alone(cors_origins=["http://Page.example:80", "https://[::1]:443"])
        for origin in ("http://page.example", "https://[::1]"):
            allowed = fleet.get("/v1/models", Origin=origin).headers["access-control-allow-origin"]
            assert origin == allowed
        self.assert_silent(fleet.get("/v1/models", Origin="https://page.example"))

    def test_default(self) -> None:
        """By default no page is told anything, and no answer depends on its origin."""
        by_default, _ = self.alone()
        for client in (preflight(by_default, CHAT), by_default.get("/v1/models", **OURS)):
            self.assert_silent(client)
            assert "vary" not in client.headers

    def test_any_origin(self) -> None:
        """With the star every page is answered, without the right to send cookies."""
        fleet, _ = self.alone(cors_origins=["*"])
        for client in (preflight(fleet, CHAT, OTHER), fleet.get("/v1/models", Origin=OTHER)):
            assert "*" == client.headers["access-control-allow-origin"]
            assert "access-control-allow-credentials" not in client.headers
