"""Clients behind a reverse proxy: where their addresses come from, and where they are shown."""

from collections.abc import Mapping

from cortexd.admission.proxies import Proxies
from tests.doubles.proxies import NAME, RECORDED, passed_on
from tests.support.fleets import MODEL, InMemoryFleet
from tests.support.http_answers import read_answers
from tests.support.relays import DONE, RelayTestCase, chunk

CLIENT = "203.0.113.7"
SPOOFED = "198.51.100.1"
PAGE = "https://gpu.example.com"
SIMPLE = {"Content-Type": "text/plain"}
"""The content type of a request that a page may send without a preflight."""


class ProxyTests(RelayTestCase):
    """In this world the peer of every connection is 127.0.0.1."""

    def clients(self, fleet: InMemoryFleet, event: str = "request") -> list[object]:
        return [each["client"] for each in fleet.events(event)]

    def test_a_trusted_proxy_states_the_client(self) -> None:
        """The log shows the client of a whole answer, of a stream, and of an unknown route."""
        fleet, node = self.alone(trusted_proxies=["127.0.0.1"])
        headers = {"X-Forwarded-For": f"{SPOOFED}, {CLIENT}"}

        fleet.chat(headers=headers)
        node.answer(401, b"{}")
        fleet.chat(headers=headers, stream=True)
        node.stream(chunk("x", "stop"), DONE, end=True)
        fleet.get("/v1/nothing", **headers)
        fleet.flush()

        assert [CLIENT] * 3 == self.clients(fleet)

    def test_another_peer_is_the_client(self) -> None:
        """Its X-Forwarded-For is its own invention."""
        fleet, _ = self.alone(trusted_proxies=["10.0.0.0/8"])
        fleet.get("/v1/nothing", **{"X-Forwarded-For": CLIENT})
        assert ["127.0.0.1"] == self.clients(fleet)

    def test_many_clients_share_a_connection_of_their_proxy(self) -> None:
        """Each request has its own client, whatever the proxy and whatever its client stated."""
        fleet, _ = self.alone(trusted_proxies=["127.0.0.1"], hosts=[NAME])
        expected = []
        for recorded in RECORDED.values():
            connection = fleet.connect()
            for number in range(3):
                client = f"203.0.113.{number}"
                request = passed_on(recorded, "POST /v1/nothing", client, b"{}", SPOOFED)
                fleet.send(connection, request)
                expected.append(client)
            answers = read_answers(connection.received)
            assert [404] * 3 == [answer.status for answer in answers]
        assert expected == self.clients(fleet)

    def test_many_headers_are_one(self) -> None:
        """A proxy may append a header of its own instead of an entry."""
        fleet, _ = self.alone(trusted_proxies=["127.0.0.1"])
        headers = {"X-Forwarded-For": [SPOOFED, CLIENT]}
        fleet.request("GET", "/v1/nothing", headers=headers)
        assert [CLIENT] == self.clients(fleet)

    def test_a_refusal_before_any_route(self) -> None:
        """It shows the client too, as far as the head of its request has come."""
        fleet, _ = self.alone(trusted_proxies=["127.0.0.1"], max_body_mb=1)
        head = f"X-Forwarded-For: {CLIENT}\r\n"
        for request in (
            f"POST /v1/files HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 9999999\r\n\r\n",
            f"GET / HTTP/1.1\r\nHost: evil.example\r\n{head}\r\n",
            f"GET / HTTP/1.1\r\nHost: x\r\n{head}broken\r\n\r\n",
        ):
            fleet.send(fleet.connect(), request.encode())
        assert [CLIENT] * 3 == self.clients(fleet, "request_refused")

    def test_the_host_behind_the_proxy(self) -> None:
        """A proxy that writes another Host says what the page asked for, and both must be ours."""
        fleet, _ = self.alone(trusted_proxies=["127.0.0.1"], hosts=["gpu.example.com"])

        def status(host: str, forwarded: str | None) -> int | None:
            headers = {"Host": host}
            if forwarded is not None:
                headers["X-Forwarded-Host"] = forwarded
            return fleet.get("/", **headers).status

        assert 200 == status("127.0.0.1:8000", None)
        assert 200 == status("127.0.0.1:8000", "gpu.example.com")
        assert 403 == status("127.0.0.1:8000", "evil.example")
        assert 403 == status("evil.example", "gpu.example.com")
        assert 403 == status("127.0.0.1:8000", "gpu.example.com, evil.example")

    def test_a_page_of_the_same_origin(self) -> None:
        """A page that the proxy serves under its own name is no foreign page."""
        fleet, _ = self.alone(hosts=["gpu.example.com"])

        def status(trusted: list[str], sent: Mapping[str, str]) -> int | None:
            fleet.parts.site.proxies = Proxies(trusted)
            headers = {"Host": "127.0.0.1:8000", "Origin": PAGE, **SIMPLE, **sent}
            return fleet.request("POST", "/v1/nothing", body=b"x", headers=headers).status

        forwarded = {"X-Forwarded-Host": "gpu.example.com:443"}
        assert 404 == status(["127.0.0.1"], forwarded)
        assert 403 == status(["127.0.0.1"], {})
        assert 403 == status([], forwarded)
        assert 403 == status(["127.0.0.1"], {"X-Forwarded-Host": "localhost"})

    def test_a_long_stream_shows_its_client_at_its_end(self) -> None:
        """The headers of its request are gone by then."""
        fleet, node = self.alone(trusted_proxies=["127.0.0.1"])
        stream = fleet.chat(headers={"X-Forwarded-For": CLIENT}, stream=True, model=MODEL)
        node.stream(b": waits\n\n")
        fleet.advance(60)
        fleet.leave(stream)
        assert [CLIENT] == self.clients(fleet)
