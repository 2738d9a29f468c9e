"""Headers that are not UTF-8: clients and nodes may send any bytes but the end of a line."""

import json

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from cortexd.headers import header_list, header_text
from tests.support.fleets import MODEL, FleetTestCase, InMemoryFleet
from tests.support.scripted import ScriptedNode

BAD = b"a\xffb"
MESSAGE = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}


class HeaderTests(SynchronousTestCase):
    def test_header_text(self) -> None:
        """The last value counts, what is not UTF-8 in it is replaced, and none is None."""
        headers = Headers({b"X-A": [b"first", "gr\u00fc\u00df".encode(), b"\xe9 last"]})

        assert ("\ufffd last", None) == (header_text(headers, "x-a"), header_text(headers, "x-b"))

    def test_header_list(self) -> None:
        """All values are one list, and none an empty one."""
        headers = Headers({b"X-A": [b"a,b", b"\xe9"]})

        assert ("a,b,\ufffd", "") == (header_list(headers, "x-a"), header_list(headers, "x-b"))


class HeadersOfClientsTests(FleetTestCase):
    def asked(self, fleet: InMemoryFleet, head: bytes, body: bytes = b"") -> tuple[int, bytes]:
        """Send a request, and return the status and the body of its answer."""
        client = fleet.connect()
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        fleet.send(client, head + b"\r\nHost: cortex\r\n" + length + body)
        fleet.advance(1)
        answered, _, said = client.received.partition(b"\r\n\r\n")
        return int(answered.split()[1]), said

    def test_what_is_not_utf_8(self) -> None:
        """It is no reason to fail: the request is answered as with any other unknown value."""
        fleet = self.fleet(self.node())
        message = json.dumps(MESSAGE).encode()
        listing = self.asked(fleet, b"GET /v1/models HTTP/1.1\r\nAnthropic-Version: " + BAD)
        beta = self.asked(fleet, b"POST /v1/messages HTTP/1.1\r\nAnthropic-Beta: " + BAD, message)
        upload = self.asked(fleet, b"POST /v1/files HTTP/1.1\r\nContent-Type: " + BAD, b"hi")

        assert (200, True) == (listing[0], b'"type":"model"' in listing[1])
        assert (200, 400) == (beta[0], upload[0])
        assert "found a\ufffdb" in json.loads(upload[1])["error"]["message"]


class HeadersOfNodesTests(FleetTestCase):
    def scripted_fleet(self) -> tuple[InMemoryFleet, ScriptedNode]:
        node = self.scripted()
        return self.fleet(node), node

    def test_content_type_of_a_stream(self) -> None:
        """A stream that calls itself something unreadable is none, which is the node's fault."""
        fleet, node = self.scripted_fleet()
        client = fleet.chat()
        node.requests[-1].responseHeaders.setRawHeaders(b"content-type", [BAD])
        node.requests[-1].write(b'{"error":"no luck"}')
        node.requests[-1].finish()
        fleet.flush()

        assert (500, "no luck") == (client.status, client.json()["error"]["message"])

    def test_retry_after(self) -> None:
        """A time to come back that cannot be read is one that was not given."""
        fleet, node = self.scripted_fleet()
        client = fleet.chat()
        node.requests[-1].setResponseCode(429)
        node.requests[-1].setHeader(b"retry-after", BAD)
        node.requests[-1].write(b"slowly")
        node.requests[-1].finish()
        fleet.flush()

        assert (429, "1") == (client.status, client.headers["retry-after"])
