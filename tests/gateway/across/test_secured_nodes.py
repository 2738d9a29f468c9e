"""Nodes behind TLS and behind a proxy, in the whole gateway in memory."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.web.server import Site

from cortexd.testing import SimulatedModel, SimulatedNode
from tests.doubles.authorities import HOST, Authority, Served
from tests.doubles.fronts import Fronted, Paths
from tests.gateway.across.test_reload import ReloadTestCase
from tests.support.fleets import MEMORY_MB, MODEL, FleetTestCase, InMemoryFleet

PROXY_PORT = 7000
OTHER = "acme/other"
COLD = "acme/cold"
TOKENS = 5
CHAT_PATH = "/v1/chat/completions"


class PrefixTests(FleetTestCase):
    """Two nodes at one host and port, which a proxy tells apart by their paths."""

    def behind_a_proxy(self) -> tuple[InMemoryFleet, Paths, SimulatedNode, SimulatedNode]:
        first = self.node("a", MODEL, SimulatedModel(id=COLD, loaded=False))
        second = self.node("b", OTHER)
        paths = Paths({b"/gpu/a": first.resource(), b"/gpu/b": second.resource()})
        keys = {
            name: {"endpoint": f"http://{HOST}:{PROXY_PORT}/gpu/{name}/"} for name in ("a", "b")
        }
        fleet = self.fleet(first, second, node_keys=keys, polled=False)
        fleet.network.listenTCP(PROXY_PORT, Site(paths, reactor=self.clock, timeout=None))
        fleet.poll()
        return fleet, paths, first, second

    def test_all_that_goes_to_a_node(self) -> None:
        """Polls, chats, streams, loads and unloads, and files reach the right node."""
        fleet, paths, first, second = self.behind_a_proxy()
        assert {"up"} == {node.health.value for node in fleet.fleet.nodes.values()}

        for model, node in ((MODEL, first), (OTHER, second)):
            assert 200 == fleet.chat(model=model).status
            assert fleet.stream(model=model).text().rstrip().endswith("[DONE]")
            assert 2 == len(node.journal.requests(CHAT_PATH))
        assert 200 == fleet.chat(model=COLD).status
        assert COLD in first.loaded_models
        assert 0 == first.journal.report().stray_requests
        assert {f"{HOST}:{PROXY_PORT}".encode()} == set(paths.hosts)

    def test_the_end_of_a_connection_raises_doubts_about_both(self) -> None:
        """Nobody knows which of them has closed it, so both are polled."""
        fleet, _, first, second = self.behind_a_proxy()
        before = [len(node.journal.requests("/v1/models")) for node in (first, second)]
        for end in fleet.network.open_ends(PROXY_PORT):
            end.loseConnection()
        fleet.flush()
        after = [len(node.journal.requests("/v1/models")) for node in (first, second)]
        assert [count + 1 for count in before] == after


class SecuredTestCase(ReloadTestCase):
    """Nodes within TLS, whose certificates an authority of the test has signed."""

    def setUp(self) -> None:
        super().setUp()
        temporary = TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.ca = Path(temporary.name, "ca.pem")
        self.home = Authority("Home CA")
        self.home.write(self.ca)

    def secured(self, node: SimulatedNode, served: Served) -> SimulatedNode:
        """Let a node listen within TLS."""
        listen: Any = node.listen
        changed: Any = node
        changed.listen = lambda reactor, port=0: listen(Fronted(reactor, served), port)
        return node

    def keys(self, port: int) -> dict[str, Any]:
        endpoint = f"https://{HOST}:{port}"
        return {"endpoint": endpoint, "ca_file": str(self.ca), "vram_mb": MEMORY_MB}


class SecuredTests(SecuredTestCase):
    def test_files_change_under_a_stream(self) -> None:
        """It goes on, idle connections close, and new ones follow the files as they are now."""
        node = self.secured(self.node("a", token_seconds=1.0), Served(self.home.issue(HOST)))
        fleet = self.fleet(node, node_keys={"a": self.keys(9001)})
        running = fleet.stream(max_tokens=TOKENS)
        fleet.poll()
        assert 2 == len(fleet.node_ends("a"))
        Authority("Other CA").write(self.ca)

        self.reload(fleet, fleet.config.nodes)
        assert 1 == len(fleet.node_ends("a"))  # that of the stream
        fleet.poll()
        words = "its certificate is signed by an authority that is not in ca_file"
        assert words == fleet.fleet.nodes["a"].reason
        fleet.advance(TOKENS + 1.0)
        assert running.text().rstrip().endswith("[DONE]")

        self.home.write(self.ca)
        self.reload(fleet, fleet.config.nodes)
        fleet.poll()
        assert "up" == fleet.fleet.nodes["a"].health.value

    def test_the_expiry_is_in_the_metrics(self) -> None:
        """Of the certificate that a node with TLS showed last; others have none."""
        certified = self.home.issue(HOST)
        node = self.secured(self.node("a", MODEL), Served(certified))
        fleet = self.fleet(node, self.node("b", MODEL), node_keys={"a": self.keys(9001)})
        name = "cortex_node_certificate_not_after_seconds"
        expires = certified.chain[0].not_valid_after_utc.timestamp()
        assert expires == fleet.sample(name, node="a")
        assert fleet.sample(name, node="b") is None

    def test_another_node_gets_what_a_broken_one_has_not_read(self) -> None:
        """Once: no byte of the request went out before the handshake."""
        served = Served(self.home.issue(HOST))
        first = self.secured(self.node("a", MODEL), served)
        fleet = self.fleet(first, self.node("b", MODEL), node_keys={"a": self.keys(9001)})
        fleet.close_idle()
        late = Served(self.home.issue(HOST, days=(-9, -2)))
        served._context = late._context

        for _ in range(2):
            assert 200 == fleet.chat().status
        assert 0 == len(first.journal.requests(CHAT_PATH))

    def test_a_client_gets_the_words(self) -> None:
        """Where no other node can help, the client's error says what is wrong."""
        served = Served(self.home.issue(HOST))
        fleet = self.fleet(
            self.secured(self.node("a", MODEL), served), node_keys={"a": self.keys(9001)}
        )
        fleet.close_idle()
        served._context = Served(self.home.issue("gpu.example"))._context

        client = fleet.chat()
        assert client.status in (502, 503)
        assert "its certificate is for gpu.example, not for 127.0.0.1" in client.error["message"]
