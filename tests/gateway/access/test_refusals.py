"""What clients are told whose request is refused, and what the log and the metrics are told."""

from cortexd.access.keys import Scope
from cortexd.admission.lines import BURST
from tests.access.making import bearer, given, rotated
from tests.support.fleets import STARTED_AT, FleetTestCase
from tests.testing.client import CHAT

NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Accept": "text/html,*/*"}
OLD_NAVIGATION = {"Accept": "text/html,*/*"}
SCRIPT = {"Sec-Fetch-Mode": "cors", "Accept": "text/html"}


class AnswerTests(FleetTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.alice = given("alice", scopes=frozenset({Scope.READ}))
        self.made = self.fleet(self.node(), keys=[self.alice.key], cors_origins=["http://page"])

    def test_envelopes(self) -> None:
        """A refusal comes in the envelope of its route, or of the client's dialect."""
        chat = self.made.chat()
        assert ("invalid_request_error", "invalid_api_key") == (
            chat.error["type"],
            chat.error["code"],
        )
        messages = self.made.request("POST", "/v1/messages", json={})
        assert (401, "authentication_error") == (messages.status, messages.json()["error"]["type"])
        listing = self.made.get("/v1/models", **{"anthropic-version": "2023-06-01"})
        assert (401, "error") == (listing.status, listing.json()["type"])
        forbidden = self.made.request("POST", "/v1/messages", json={}, headers=self.alice.bearer)
        error = forbidden.json()["error"]
        assert (403, "permission_error") == (forbidden.status, error["type"])

    def test_the_reason(self) -> None:
        """It says what the client can do; that a key has ended learns only who has it."""
        late = given("late", expires=STARTED_AT)
        after = rotated(self.alice, STARTED_AT)
        self.made.parts.ring.take([late.key, after.key])
        for headers, words in (
            ({}, "has no key: send it as 'Authorization: Bearer KEY'"),
            (bearer("sk-proj-1"), "no complete key of this gateway"),
            (bearer(given().text), "does not know this key"),
            (late.bearer, "the key 'late' has expired"),
            (self.alice.bearer, "the key 'alice' was rotated"),
            ({**late.bearer, "x-api-key": after.text}, "two different keys"),
        ):
            client = self.made.chat(headers=headers)
            assert 401 == client.status
            assert words in client.error["message"]

    def test_challenges(self) -> None:
        """A browser that opens a page asks for a password; a script's request never does."""
        for headers, schemes in (
            ({}, ["Bearer"]),
            (SCRIPT, ["Bearer"]),
            (NAVIGATION, ["Bearer", "Basic"]),
            (OLD_NAVIGATION, ["Bearer", "Basic"]),
        ):
            client = self.made.connect()
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            self.made.send(client, f"GET /running HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
            assert client.received.startswith(b"HTTP/1.1 401")
            found = [
                line.split()[1].decode()
                for line in client.received.split(b"\r\n")
                if line.lower().startswith(b"www-authenticate:")
            ]
            assert schemes == found, headers

    def test_pages_of_other_origins(self) -> None:
        """A preflight needs no key and allows one, and the page may read a refusal."""
        origin = {"Origin": "http://page"}
        asked = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,x-api-key",
        }
        preflight = self.made.request("OPTIONS", CHAT, headers={**origin, **asked})
        assert 204 == preflight.status
        assert "authorization,x-api-key" == preflight.headers["access-control-allow-headers"]
        refused = self.made.get("/running", **origin)
        assert 401 == refused.status
        assert "http://page" == refused.headers["access-control-allow-origin"]

    def test_never_from_the_url(self) -> None:
        """A key in a URL would end up in logs and histories."""
        for query in ("key", "api_key", "access_token"):
            assert 401 == self.made.get(f"/running?{query}={self.alice.text}").status


class AccountTests(FleetTestCase):
    def test_a_flood_without_keys(self) -> None:
        """Each request is counted, the log has few lines of it, and none has a key."""
        alice = given("alice")
        fleet = self.fleet(self.node(), keys=[alice.key])
        wrong = [given().text for _ in range(BURST)]
        for text in wrong:
            fleet.chat(headers=bearer(text))
            fleet.chat()

        assert BURST == fleet.sample("cortex_requests_denied_total", reason="unknown")
        assert BURST == fleet.sample("cortex_requests_denied_total", reason="absent")
        labels = {"route": "other", "model": "unknown", "node": "none", "status": "401"}
        assert 2 * BURST == fleet.sample("cortex_requests_total", **labels)
        lines = fleet.events("request_refused")
        assert BURST == len(lines)
        assert {"unknown", "absent"} == {line["key"] for line in lines}
        assert not [text for text in wrong if text in repr(fleet.log_events)]
        fleet.advance(60.0)
        fleet.chat()
        assert BURST == fleet.events("request_refused")[-1]["left_out"]

    def test_a_scope_that_a_key_lacks(self) -> None:
        """It is counted, and the log has it as it has any request."""
        reader = given("reader", scopes=frozenset({Scope.READ}))
        fleet = self.fleet(self.node(), keys=[reader.key])
        fleet.chat(headers=reader.bearer)
        assert 1 == fleet.sample("cortex_requests_denied_total", reason="scope")
        (line,) = [each for each in fleet.events("request") if each["status"] == 403]
        assert "permission_error" == line["code"]
