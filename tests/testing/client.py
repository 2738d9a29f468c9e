"""A client in memory for the simulated node: what it sends is answered without a socket."""

import json
from typing import Any

from treq.testing import StubTreq
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.iweb import IResponse

from cortexd.testing import SimulatedModel, SimulatedNode

CHAT = "/v1/chat/completions"
JSON_HEADERS = {"content-type": "application/json"}


class Exchange(Protocol):
    """One request and what has come back of it so far.

    `status` is None before the headers; `ended` is "" while the answer is open, then "clean" or
    "broken", or "refused" where no headers ever came.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = b""
        self.ended = ""
        self._request: Deferred[IResponse] | None = None

    def begin(self, request: "Deferred[IResponse]") -> None:
        """Wait for the answer's headers, then collect its body."""
        self._request = request
        request.addCallbacks(self._headers_came, self._refused)

    def leave(self) -> None:
        """Close the client's side, at whatever point the answer is."""
        if self.status is None:
            assert self._request is not None
            self._request.cancel()
        else:
            transport = self.transport
            assert transport is not None
            transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Collect."""
        self.body += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Note whether the body ended as HTTP says it must."""
        self.ended = "clean" if reason.check(ResponseDone) else "broken"

    def json(self) -> Any:
        """Give the body, decoded."""
        return json.loads(self.body)

    def text(self) -> str:
        """Give the body as text."""
        return self.body.decode()

    def events(self) -> list[str]:
        """Give the data of the events so far, [DONE] included."""
        blocks = self.text().split("\n\n")
        return [
            "\n".join(line.removeprefix("data: ") for line in block.split("\n"))
            for block in blocks
            if block.startswith("data: ")
        ]

    def chunks(self) -> list[Any]:
        """Give the chunks so far, decoded."""
        return [json.loads(data) for data in self.events() if data.startswith("{")]

    def choices(self) -> list[Any]:
        """Give the first choice of each chunk so far."""
        return [chunk["choices"][0] for chunk in self.chunks()]

    def content(self) -> str:
        """Give the text streamed so far."""
        return "".join(choice["delta"]["content"] or "" for choice in self.choices())

    def _headers_came(self, response: IResponse) -> None:
        self.status = response.code
        self.headers = {
            name.decode().lower(): values[-1].decode()
            for name, values in response.headers.getAllRawHeaders()
        }
        response.deliverBody(self)

    def _refused(self, failure: Failure) -> None:
        self.ended = "left" if failure.check(CancelledError) else "refused"


class Bench:
    """A node on a Clock of its own, and a client of it."""

    kind: type[SimulatedNode] = SimulatedNode

    def __init__(self, *models: SimulatedModel, **node: Any) -> None:
        self.clock = Clock()
        self.node = self.kind(self.clock, models=models or [SimulatedModel(id="acme/chat")], **node)
        # Its methods are set when it is made, which no type checker sees.
        self._treq: Any = StubTreq(self.node.resource())

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Exchange:
        """Send a request and give the exchange as far as it has come."""
        exchange = Exchange()
        exchange.begin(
            self._treq.request(
                method,
                f"http://node{path}",
                data=body,
                headers=headers or {},
                unbuffered=True,
            )
        )
        self._treq.flush()
        return exchange

    def get(self, path: str) -> Exchange:
        """GET a path."""
        return self.send("GET", path)

    def post(self, path: str, body: object) -> Exchange:
        """POST an object as JSON."""
        return self.send("POST", path, json.dumps(body).encode(), JSON_HEADERS)

    def chat(self, text: str = "hi", **fields: object) -> Exchange:
        """POST a chat completion of one user turn, to the model acme/chat unless told another."""
        messages = [{"role": "user", "content": text}]
        return self.post(CHAT, {"model": "acme/chat", "messages": messages, **fields})

    def stream(self, text: str = "hi", **fields: object) -> Exchange:
        """As `chat`, streamed."""
        return self.chat(text, stream=True, **fields)

    def operate(self, operation: str, model_id: str) -> Any:
        """POST a model operation, which must answer 200 by now, and give its body."""
        exchange = self.post(f"/v1/models/{operation}", {"model_id": model_id})
        assert exchange.status == 200
        return exchange.json()

    def listed(self) -> list[tuple[str, str | None]]:
        """Give the ids and states of GET /v1/models."""
        return [(m["id"], m.get("status")) for m in self.get("/v1/models").json()["data"]]

    def advance(self, seconds: float) -> None:
        """Let time pass and bytes flow."""
        self.clock.advance(seconds)
        self._treq.flush()

    def leave(self, exchange: Exchange) -> None:
        """Let the client of an exchange go away."""
        exchange.leave()
        self._treq.flush()
