"""A GatewaySite on a network in memory, with a resource whose answers a test chooses."""

from __future__ import annotations

import json
from typing import Any, cast

from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from cortexd.admission.clients import ROOMY, ClientLimits
from cortexd.downstream.http_server import GatewaySite
from cortexd.downstream.request import GatewayRequest
from tests.support.http_answers import Answer, read_answers
from tests.support.network import Network

PORT = 8000
MIB = 1024 * 1024


class Routes(Resource):
    """Routes for tests: an echo, a crash, and a stream that the test ends."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.open: list[GatewayRequest] = []
        self.gone: list[GatewayRequest] = []

    def render(self, request: Request) -> int:
        ours = cast("GatewayRequest", request)
        path = ours.text_path
        if path == "/crash":
            raise RuntimeError("a mistake of ours")
        if path in ("/stream", "/wait", "/crash-late"):
            ours.notifyFinish().addErrback(lambda _: self.gone.append(ours))
            self.open.append(ours)
            if path != "/wait":
                ours.begin(200, {"Content-Type": "text/event-stream"})
                ours.write(b"data: 1\n\n")
            if path == "/crash-late":
                raise RuntimeError("a mistake of ours")
            return NOT_DONE_YET
        content: Any = ours.content
        echo = {"path": path, "body": content.read().decode("latin-1")}
        ours.respond(200, {"Content-Type": "application/json"}, json.dumps(echo).encode())
        return NOT_DONE_YET


class Client(Protocol):
    """A client's end: the bytes received, and how the connection ended ("" while it is open)."""

    def __init__(self) -> None:
        self.received = b""
        self.ended = ""

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended = "clean" if reason.check(type(connectionDone.value)) else "reset"


class OneClient(ClientFactory):
    noisy = False

    def __init__(self, client: Client) -> None:
        self._client = client

    def buildProtocol(self, addr: Any) -> Client:
        return self._client


class Server:
    """A GatewaySite on a network in memory, with a body limit of 1 MiB."""

    def __init__(self, limits: ClientLimits = ROOMY) -> None:
        self.network = Network(Clock())
        self.routes = Routes()
        self.site = GatewaySite(self.routes, self.network, MIB, limits=limits)
        self.network.listenTCP(PORT, self.site)

    def connect(self) -> Client:
        client = Client()
        self.network.connectTCP("127.0.0.1", PORT, OneClient(client))
        self.network.flush()
        return client

    def send(self, client: Client, data: bytes) -> None:
        """Send in reads of the size that Twisted makes."""
        for start in range(0, len(data), 65536):
            cast("Any", client.transport).write(data[start : start + 65536])
            self.network.flush()

    def leave(self, client: Client) -> None:
        """Close the client's end."""
        cast("Any", client.transport).loseConnection()
        self.network.flush()

    def ask(self, data: bytes) -> list[Answer]:
        """Send on a new connection and return the answers."""
        client = self.connect()
        self.send(client, data)
        return read_answers(client.received)

    def ask_once(self, data: bytes) -> Answer:
        """Send bytes that get exactly one answer, and return the answer."""
        (answer,) = self.ask(data)
        return answer


def get(target: bytes, *headers: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([b"GET " + target + b" " + version, b"Host: x", *headers, b"", b""])


def post(body: bytes, *headers: bytes, target: bytes = b"/echo") -> bytes:
    head = [b"POST " + target + b" HTTP/1.1", b"Host: x", *headers]
    return b"\r\n".join([*head, b"Content-Length: %d" % len(body), b"", body])


def chunked(*pieces: bytes) -> bytes:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
