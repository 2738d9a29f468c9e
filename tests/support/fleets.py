"""A whole gateway in memory before nodes that the test chooses, and clients of the gateway.

Everything between the client's socket and the node's is the daemon's own: server, routes, relay,
connections to nodes. Time passes in ``InMemoryFleet.advance`` only.
"""

from __future__ import annotations

import dataclasses
import json as json_codec
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from prometheus_client import generate_latest
from treq.client import HTTPClient
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import ClientFactory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.task import Clock, Cooperator
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Agent

from cortexd.access.keys import Key
from cortexd.assembly import assemble
from cortexd.config.values import NOTHING
from cortexd.logs import Fields, fields_of
from cortexd.testing import SimulatedModel
from tests.doubles.agents import SimulatedAgent
from tests.doubles.messages_api.node import SimulatedMessagesNode
from tests.doubles.native_node import SimulatedNativeNode
from tests.doubles.templates.rendering import renderer
from tests.support.bulk import InlineHelper
from tests.support.configs import config_of
from tests.support.network import End, Network
from tests.support.scripted import ScriptedNode
from tests.support.stores import HeldWorker
from tests.testing.client import CHAT, Exchange

MODEL = "acme/chat"
GATEWAY_PORT = 8000
FIRST_NODE_PORT = 9001
STARTED_AT = 1_790_000_000
MEMORY_MB = 24_576
UNUSED = "/unused"
STRICT = Path(__file__).with_name("strict.jinja").read_text(encoding="utf-8")
"""A chat template as strict as those of real models."""


class Node(Protocol):
    """The interface of a node in the fleet: SimulatedNode and ScriptedNode implement it."""

    name: str
    clock: Any

    async def listen(self, reactor: Any, port: int = 0) -> int:
        """Serve on a port."""

    async def close(self) -> None:
        """Stop serving."""


class Client(Exchange):
    """One request to the gateway and its answer so far; see Exchange."""

    @property
    def open_transport(self) -> Any:
        """The body's transport, once the headers have arrived: pause, resume or close it."""
        assert self.transport is not None, "no headers yet"
        return self.transport

    @property
    def error(self) -> Any:
        """The content of the OpenAI error envelope; AssertionError for any other answer."""
        assert "application/json" == self.headers["content-type"]
        envelope = self.json()
        assert {"error"} == envelope.keys()
        return envelope["error"]

    def content(self) -> str:
        """Return the text streamed so far; a chunk without choices adds no text."""
        choices = [choice for chunk in self.chunks() for choice in chunk.get("choices", ())]
        return "".join(choice["delta"].get("content") or "" for choice in choices)


class RawClient(TwistedProtocol):
    """A connection to the gateway on which the test writes raw bytes.

    ``received`` has all bytes received, ``closed`` states how the connection ended: "" while it is
    open, then "done" or "lost".
    """

    def __init__(self) -> None:
        self.received = b""
        self.closed = ""

    def dataReceived(self, data: bytes) -> None:
        """Collect."""
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Note how it ended."""
        self.closed = "done" if reason.check(ConnectionDone) else "lost"


class InMemoryFleet:
    """The gateway before ``nodes``, which share one Clock, polled once unless ``polled`` is false.

    Unless ``settings`` say otherwise, no model is probed. With a ``state_dir`` the stores are open,
    the one of responses by way of ``worker``; else nothing is written. ``node_keys`` are, by a
    node's name, keys of its [[nodes]] in the configuration, ``models`` and ``settings`` the rest of
    it; see ``config_of``. With ``keys``, each request needs one of these; ``tests.access.making``
    makes some. ``log_events`` has the fields of all log events since the start. ``close`` restores
    everything; FleetTestCase calls it.
    """

    def __init__(
        self,
        *nodes: Node,
        polled: bool = True,
        node_keys: Mapping[str, Mapping[str, Any]] = NOTHING,
        models: Mapping[str, Mapping[str, Any]] = NOTHING,
        state_dir: str | None = None,
        keys: Sequence[Key] | None = None,
        **settings: Any,
    ) -> None:
        self.clock: Clock = nodes[0].clock
        self.network = Network(self.clock)
        self.nodes = {node.name: node for node in nodes}
        self.ports = {node.name: FIRST_NODE_PORT + i for i, node in enumerate(nodes)}
        self.log_events: list[Fields] = []
        self._observer = cast("ILogObserver", self._take_event)
        self._clients: list[Client | RawClient] = []
        globalLogPublisher.addObserver(self._observer)
        # Request bodies are sent by way of Twisted's global cooperator, which turns with the
        # global reactor: here with the Clock.
        self._global_cooperator = task._theCooperator
        task._theCooperator = Cooperator(scheduler=lambda call: self.network.callLater(0, call))

        for name, node in self.nodes.items():
            Deferred.fromCoroutine(node.listen(self.network, self.ports[name]))
        tables = {name: self._table(name) | dict(node_keys.get(name, {})) for name in self.nodes}
        settings = {"probe": False, **settings}
        self.config = config_of(tables, models, state_dir=state_dir or UNUSED, **settings)
        self.worker = HeldWorker()
        self.worker.start()
        self.helper = InlineHelper()
        self.parts = parts = assemble(
            self.config, self.network, {}, self._unix_time, worker=self.worker, helper=self.helper
        )
        parts.ring.take(keys)
        self.responses = parts.responses
        self.fleet, self.scheduler, self.dispatcher = parts.fleet, parts.scheduler, parts.dispatcher
        self.clients, self.pool, self.metrics = parts.clients, parts.pool, parts.metrics
        self.lifecycle, self.poller = parts.lifecycle, parts.poller
        self.recorder, self.prober = parts.recorder, parts.prober
        self.keeper = parts.keeper
        self.relay, self.answers = parts.relay, parts.answers
        if state_dir is not None:  # else the recorder is not started, and so writes nothing
            self.recorder.startService()
            self.keeper.startService()
            parts.usage_keeper.startService()
            self.responses.startService()
        self.lifecycle.startService()
        parts.repairing.startService()
        parts.powering.startService()
        if self.config.scheduling.probe:
            self.prober.startService()
        self.network.listenTCP(GATEWAY_PORT, parts.site)
        self._treq = HTTPClient(Agent(self.network))
        if polled:
            self.poll()

    def _table(self, name: str) -> dict[str, Any]:
        """Return what the configuration says of a node, unless the test says otherwise."""
        endpoint = f"http://127.0.0.1:{self.ports[name]}"
        if isinstance(self.nodes[name], SimulatedMessagesNode):
            return {"endpoint": endpoint, "dialect": "anthropic"}
        return {"endpoint": endpoint, "vram_mb": MEMORY_MB}

    # Time.

    def _unix_time(self) -> float:
        return STARTED_AT + self.clock.seconds()

    def flush(self) -> None:
        """Move bytes, without moving the clock."""
        self.network.flush()

    def advance(self, seconds: float) -> None:
        """Move the clock and bytes."""
        self.network.advance(seconds)

    def close_idle(self) -> None:
        """Close our idle connections to nodes, so that no node shows its end by closing them."""
        self.parts.pool.closeCachedConnections()
        self.flush()

    def poll(self) -> None:
        """Poll every node once; a silent node has ``timeout`` seconds to answer."""
        polling = self.poller.poll_all()
        self.flush()
        if not polling.called:
            self.advance(self.config.polling.timeout)

    # Clients.

    def request(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        body: bytes | None = None,
        headers: Mapping[str, str | list[str]] | None = None,
        port: int = GATEWAY_PORT,
    ) -> Client:
        """Send a request with ``json`` or a raw ``body``; return it with its answer so far."""
        sent: dict[Any, Any] = dict(headers or {})
        if json is not None:
            body = json_codec.dumps(json).encode()
            sent.setdefault("Content-Type", "application/json")
        client = Client()
        self._clients.append(client)
        requested: Deferred[Any] = self._treq.request(
            method,
            f"http://127.0.0.1:{port}{path}",
            data=body,
            headers=sent,
            unbuffered=True,
            allow_redirects=False,
        )
        client.begin(requested)
        self.flush()
        return client

    def get(self, path: str, **headers: str) -> Client:
        """GET a path."""
        return self.request("GET", path, headers=headers)

    def chat(
        self,
        text: str = "hi",
        *,
        headers: Mapping[str, str] | None = None,
        model: str = MODEL,
        **fields: object,
    ) -> Client:
        """POST a chat completion of one user turn."""
        messages = [{"role": "user", "content": text}]
        body = {"model": model, "messages": messages, **fields}
        return self.request("POST", CHAT, json=body, headers=headers)

    def stream(self, text: str = "hi", **fields: Any) -> Client:
        """Like ``chat``, streamed."""
        return self.chat(text, stream=True, **fields)

    def chat_past_us(self, node: str, *, model: str = MODEL, **fields: object) -> Client:
        """POST a chat completion directly to a node, as a client that bypasses the gateway."""
        messages = [{"role": "user", "content": "hi"}]
        body = {"model": model, "messages": messages, **fields}
        return self.request("POST", CHAT, json=body, port=self.ports[node])

    def leave(self, client: Client) -> None:
        """Disconnect a client, at any point of its answer."""
        client.leave()
        self.flush()

    def connect(self) -> RawClient:
        """Open a silent connection to the gateway."""
        client = RawClient()
        self._clients.append(client)
        factory = ClientFactory()
        factory.noisy = False
        factory.protocol = lambda: client
        self.network.connectTCP("127.0.0.1", GATEWAY_PORT, factory)
        self.flush()
        return client

    def send(self, client: RawClient, data: bytes) -> None:
        """Send bytes on such a connection."""
        assert client.transport is not None
        client.transport.write(data)
        self.flush()

    # Observations.

    def metrics_text(self) -> str:
        """Return the text that Prometheus would read."""
        return generate_latest(self.metrics.registry).decode()

    def sample(self, name: str, **labels: str) -> float | None:
        """Return the value of one series, ``None`` if the series does not exist."""
        return self.metrics.registry.get_sample_value(name, labels)

    def events(self, name: str) -> list[Fields]:
        """Return the logged events of one name, oldest first."""
        return [event for event in self.log_events if event["event"] == name]

    def node_ends(self, name: str) -> list[End]:
        """Return the node's ends of its open connections, oldest first."""
        return self.network.open_ends(self.ports[name])

    def _take_event(self, event: LogEvent) -> None:
        fields = fields_of(event)
        if fields is not None:
            self.log_events.append(fields)

    # Its end.

    def close(self) -> None:
        """Disconnect every client, stop every node, and restore global state."""
        for client in self._clients:
            if isinstance(client, RawClient):
                if client.transport is not None:
                    client.transport.loseConnection()
            elif not client.ended:
                client.leave()
        self.flush()
        if self.poller.running:
            self.poller.stopService()
        if self.prober.running:
            self.prober.stopService()
        if self.parts.usage_keeper.running:
            self.parts.usage_keeper.stopService()
        if self.keeper.running:
            self.keeper.stopService()
        self.recorder.stopService()  # also without a store: it writes of agents after a while
        self.lifecycle.stopService()
        self.parts.repairing.stopService()
        self.parts.powering.stopService()
        if self.responses.running:
            self.responses.stopService()
        self.pool.closeCachedConnections()
        for node in self.nodes.values():
            Deferred.fromCoroutine(node.close())
        self.flush()
        task._theCooperator = self._global_cooperator
        globalLogPublisher.removeObserver(self._observer)


class FleetTestCase(SynchronousTestCase):
    """A test with a Clock, nodes and fleets, which checks that no resource leaks.

    ``template`` is the chat template of each model without one of its own.
    """

    template: str | None = STRICT

    def setUp(self) -> None:
        """Start the Clock at 0."""
        self.clock = Clock()

    def node(
        self, name: str = "a", *models: SimulatedModel | str, **knobs: Any
    ) -> SimulatedNativeNode:
        """Make a node with these models, by description or id; by default with ``acme/chat``."""
        models_of_node = self._described(models or (MODEL,))
        return SimulatedNativeNode(self.clock, name=name, models=models_of_node, **knobs)

    def messages_node(
        self, name: str = "a", *models: SimulatedModel | str, **knobs: Any
    ) -> SimulatedMessagesNode:
        """Make a node, as ``node`` does, that speaks only the Messages API."""
        return SimulatedMessagesNode(
            self.clock, name=name, models=self._described(models or (MODEL,)), **knobs
        )

    def _described(self, models: Sequence[SimulatedModel | str]) -> list[SimulatedModel]:
        described = [SimulatedModel(id=m) if isinstance(m, str) else m for m in models]
        if self.template is None:
            return described
        render = renderer(self.template)
        return [
            model if model.render else dataclasses.replace(model, render=render)
            for model in described
        ]

    def scripted(self, name: str = "scripted", *models: str) -> ScriptedNode:
        """Make a node whose answers the test writes."""
        return ScriptedNode(self.clock, name, models or (MODEL,))

    def agent(self, fleet: InMemoryFleet, node: str = "a", **knobs: Any) -> SimulatedAgent:
        """Let an agent connect beside a node, with these attributes; the test's end closes it."""
        agent = SimulatedAgent.beside(fleet, node, **knobs)
        self.addCleanup(agent.close)
        return agent

    def fleet(self, *nodes: Node, **settings: Any) -> InMemoryFleet:
        """Make a fleet; the test's end closes it and checks that no resource leaks."""
        made = InMemoryFleet(*nodes, **settings)

        def close() -> None:
            made.close()
            self.assertEqual([], made.clock.getDelayedCalls())
            self.assertEqual([], made.network.ends)
            self.assertEqual((), made.fleet.leases)

        self.addCleanup(close)
        return made
