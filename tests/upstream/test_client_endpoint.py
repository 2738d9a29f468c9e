"""Where the requests for a node go: its endpoint's host, port and path."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cortexd.config.addresses import node_endpoint
from cortexd.engines.mistralrs import MistralRs
from cortexd.errors import BadGateway
from cortexd.upstream.advice import MAYBE_TLS, advice_on
from cortexd.upstream.client import NodeClient
from tests.upstream.test_client import EMPTY_LIST, PORT, UpstreamTestCase, response


def close(transport: Any) -> None:
    """End the connection after the answer."""
    transport.loseConnection()


class EndpointTests(UpstreamTestCase):
    def client_of(self, endpoint: str) -> NodeClient:
        return NodeClient("a", node_endpoint(endpoint), self.http, self.clock, MistralRs())

    def heads(self) -> list[tuple[str, ...]]:
        """Return the path and the Host of each request that the node has read."""
        found = []
        for speaker in self.speakers:
            first, *lines = speaker.heard.decode().split("\r\n")
            hosts = [line[6:] for line in lines if line.lower().startswith("host: ")]
            found.append((first.split(" ")[1], *hosts))
        return found

    def test_every_path_begins_with_that_of_the_endpoint(self) -> None:
        """Polls, requests for models and those by id; a query stays behind the path."""
        self.listen(response(EMPTY_LIST), close)
        client = self.client_of(f"http://127.0.0.1:{PORT}/gpu%2F1/a/")
        self.successResultOf(self.start(client.listing(2)))
        self.successResultOf(self.start(client.forward("GET", "/v1/files?a=%2F&b", {}, 2)))
        for path in ("/v1/chat/completions", "/v1/files/x%2Fy/../../../../up"):
            opening = client.open(path, b"{}", {})
            self.network.flush()
            self.successResultOf(opening)
        host = f"127.0.0.1:{PORT}"
        assert [
            ("/gpu%2F1/a/v1/models", host),
            ("/gpu%2F1/a/v1/files?a=%2F&b", host),
            ("/gpu%2F1/a/v1/chat/completions", host),
            ("/gpu%2F1/a/up", host),
        ] == self.heads()

    def test_the_default_port_is_left_out(self) -> None:
        """Host is as browsers write it, with a path and without one."""
        self.network.ports[80] = self.network.listenTCP(PORT, None)
        self.listen(response(EMPTY_LIST))
        self.network.ports[80] = self.network.ports[PORT]
        for endpoint in ("http://127.0.0.1", "http://127.0.0.1:80/a"):
            self.successResultOf(self.start(self.client_of(endpoint).listing(2)))
            self.pool.closeCachedConnections()
            self.network.flush()
        assert [("/v1/models", "127.0.0.1"), ("/a/v1/models", "127.0.0.1")] == self.heads()

    def test_nodes_behind_one_proxy_share_connections(self) -> None:
        """Connections belong to host and port; the path tells the nodes apart."""
        self.listen(response(EMPTY_LIST))
        first, second = (self.client_of(f"http://127.0.0.1:{PORT}/{name}") for name in "ab")
        self.successResultOf(self.start(first.listing(2)))
        again = self.start(second.listing(2))
        assert 1 == self.network.connections_made
        again.cancel()
        self.failureResultOf(again)

    def test_a_wrong_path_has_clear_words(self) -> None:
        """A proxy that redirects, and one that knows no such path."""
        self.client = self.client_of(f"http://127.0.0.1:{PORT}/gpu")
        self.listen(
            b"HTTP/1.1 308 Permanent Redirect\r\nContent-Length: 0\r\n"
            b"Location: https://gpu.example/login?token=secret\r\n\r\n",
            close,
        )
        words = "; it redirects to https://gpu.example/login: is its endpoint right?"
        refusal = self.refusal(BadGateway)
        assert refusal.startswith("GET /v1/models answered with status 308: ")
        assert refusal.endswith(words)
        self.listen(response(b"<h1>Not found</h1>", "404 Not Found"), close)
        assert self.refusal(BadGateway).endswith("; is the path of its endpoint right, /gpu?")
        self.client = self.client_of(f"http://127.0.0.1:{PORT}")
        words = "; if a proxy serves it under a path, add the path to its endpoint"
        assert self.refusal(BadGateway).endswith(words)
        assert "" == advice_on(404, None, "gpu", is_listing=False)

    def test_a_node_that_says_nothing_may_speak_tls(self) -> None:
        """Many TLS servers only close on plain HTTP; one that has answered before speaks it."""
        self.client = self.client_of(f"http://127.0.0.1:{PORT}")
        self.listen(b"", close)
        assert self.refusal(BadGateway).endswith(f"; {MAYBE_TLS}")
        self.listen(response(EMPTY_LIST), close)
        self.successResultOf(self.start(self.client.listing(2)))
        self.listen(b"", close)
        assert MAYBE_TLS not in self.refusal(BadGateway)

    @settings(max_examples=50)
    @given(st.text(alphabet="/.%2Ee~a", max_size=20))
    def test_no_path_leaves_the_prefix(self, path: str) -> None:
        """Whatever dots a path has, it stays below the endpoint's."""
        client = self.client_of("http://gpu/a/b")
        url = client._to(f"/v1/{path}").to_text()
        assert url.startswith("http://gpu/a/b/")
        assert not {".", ".."} & set(url.split("/"))
