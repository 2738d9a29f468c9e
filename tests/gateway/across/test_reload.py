"""Requests that run and wait while the configuration changes, in the whole gateway in memory."""

from __future__ import annotations

import msgspec
from twisted.internet.defer import Deferred

from cortexd.config.settings import Config, NodeSettings
from cortexd.reassembly import first_polls, new_clients, reassemble, revision_of
from tests.support.fleets import MODEL, FleetTestCase, InMemoryFleet

TOKENS = 5


class ReloadTestCase(FleetTestCase):
    """A fleet whose configuration begins with its first node; each model has one slot."""

    def begin(self, *nodes: object) -> InMemoryFleet:
        fleet = InMemoryFleet(*nodes, models={MODEL: {"max_concurrency": 1}})  # type: ignore[arg-type] # as ``node`` makes them
        self.addCleanup(fleet.close)
        self.all = fleet.config.nodes
        self.reload(fleet, self.all[:1])
        return fleet

    def reload(self, fleet: InMemoryFleet, nodes: tuple[NodeSettings, ...]) -> None:
        """Let the configuration have these nodes from now on."""
        config: Config = msgspec.structs.replace(fleet.config, nodes=nodes)
        parts, revision = fleet.parts, revision_of(config)
        clients = new_clients(parts, fleet.config, revision)
        polling = Deferred.fromCoroutine(first_polls(parts, clients))
        fleet.flush()
        polled = self.successResultOf(polling)
        reassemble(parts, fleet.config, revision, clients, polled)
        fleet.config = config
        fleet.flush()


class ReloadTests(ReloadTestCase):
    def test_a_stream_on_a_node_that_leaves(self) -> None:
        """It goes on to its end, and the request behind it gets the node that has come."""
        fleet = self.begin(self.node("a", token_seconds=1.0), self.node("b"))
        running = fleet.stream(max_tokens=TOKENS)
        waiting = fleet.stream(max_tokens=TOKENS)
        fleet.advance(1.0)

        self.reload(fleet, self.all[1:])
        fleet.advance(1.0)

        assert waiting.text().rstrip().endswith("[DONE]")
        assert "b" == waiting.headers["x-cortex-node"]
        for _ in range(2 * TOKENS):
            fleet.advance(1.0)
        assert running.text().rstrip().endswith("[DONE]")
        assert "a" == running.headers["x-cortex-node"]
        assert {"b"} == set(fleet.fleet.nodes)
        assert () == fleet.fleet.leases

    def test_a_new_kind_of_node(self) -> None:
        """A request that waits was not translated for it, so it waits for one that can take it."""
        fleet = self.begin(self.node("a", token_seconds=1.0), self.messages_node("m"))
        running = fleet.stream(max_tokens=TOKENS)
        waiting = fleet.stream(max_tokens=TOKENS)
        fleet.advance(1.0)

        self.reload(fleet, self.all)
        for _ in range(4 * TOKENS):
            fleet.advance(1.0)

        assert running.text().rstrip().endswith("[DONE]")
        assert waiting.text().rstrip().endswith("[DONE]")
        assert "a" == waiting.headers["x-cortex-node"]
        newer = fleet.chat(max_tokens=TOKENS)
        fleet.advance(10.0)
        assert 200 == newer.status
        assert () == fleet.fleet.leases
