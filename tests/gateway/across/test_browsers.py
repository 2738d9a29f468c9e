"""Pages in browsers: what they may ask of the gateway, and read of its answers."""

import re

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


FOREIGN = (
    {"Origin": OTHER},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:9999"},
    {"Sec-Fetch-Site": "cross-site"},
)
SIMPLE: tuple[dict[str, str], ...] = (
    {},
    {"Content-Type": "text/plain"},
    {"Content-Type": "Text/Plain; charset=utf-8"},
    {"Content-Type": "application/x-www-form-urlencoded"},
    {"Content-Type": "multipart/form-data; boundary=x"},
)


class ForeignPageTests(RelayTestCase):
    """A page that nobody invited does nothing: neither by a simple request nor by a name."""

    def changing(self) -> list[str]:
        rules = Gateway.app.url_map.iter_rules()
        return sorted(
            {re.sub(r"<[^>]*>", "x", r.rule) for r in rules if "POST" in (r.methods or ())}
        )

    def test_simple_requests_of_foreign_pages_are_refused(self) -> None:
        """On each route with POST, each simple content type of each foreign page is 403."""
        fleet, node = self.alone(cors_origins=[PAGE], allow_http_control=True)
        paths = self.changing()
        assert CHAT in paths
        assert "/api/models/unload" in paths
        for path in paths:
            for foreign in FOREIGN:
                for simple in SIMPLE:
                    client = fleet.request("POST", path, body=b"{}", headers={**foreign, **simple})
                    assert 403 == client.status, (path, foreign, simple)
                    assert b"gateway.cors_origins" in client.body
        assert [] == node.requests

    def test_other_clients_are_served(self) -> None:
        """These work: curl, which calls its JSON a form, extensions, and pages that are allowed."""
        fleet, _ = self.alone(cors_origins=[PAGE])
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        for headers in (
            form,
            {**form, "Sec-Fetch-Site": "none"},
            {**form, "Origin": "http://127.0.0.1:8000", "Host": "127.0.0.1:8000"},
            {**form, "Origin": "https://cortex.lan", "Host": "cortex.lan"},
            {**form, **OURS},
            {"Content-Type": "application/json", "Origin": "chrome-extension://abc"},
        ):
            client = fleet.request("POST", CHAT, body=b"{", headers=headers)
            assert 400 == client.status, headers

    def test_a_foreign_get_may_look(self) -> None:
        """A GET changes nothing, so it needs no permission; the page cannot read the answer."""
        fleet, _ = self.alone()
        client = fleet.get("/v1/models", Origin=OTHER)
        assert 200 == client.status
        assert "access-control-allow-origin" not in client.headers

    def test_a_name_of_somebody_else(self) -> None:
        """On every path a request to a foreign name is 403, in the envelope of the path."""
        fleet, node = self.alone(hosts=["gpu.example.com"])
        for path in ("/", "/health", "/v1/models", "/v1/messages", CHAT, "/nothing"):
            client = fleet.get(path, Host="rebound.example:8000")
            assert 403 == client.status, path
            assert "gateway.hosts" in client.json()["error"]["message"]
            assert 403 != fleet.get(path, Host="gpu.example.com:8000").status
        assert [] == node.requests

    def test_a_models_name_controls_no_terminal(self) -> None:
        """Its escape characters stand escaped in the headers of an answer."""
        name = "acme/\x1b]0;owned\x07\u202e"
        fleet = self.fleet(self.node("a", name))
        client = fleet.chat(model=name)
        assert 200 == client.status
        assert r"acme/\x1b]0;owned\x07\u202e" == client.headers["x-cortex-model"]
