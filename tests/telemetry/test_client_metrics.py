"""The metrics of connections, and the listener that shows them."""

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.admission.descriptors import MOST_METRICS_CLIENTS, shares
from cortexd.making import make_metrics_site
from cortexd.telemetry.client_metrics import ClientCollector
from cortexd.telemetry.metrics import Metrics
from tests.support.http_answers import Answer, read_answers
from tests.support.http_sites import PORT, Client, OneClient, get, post
from tests.support.network import Network


class MetricsListenerTests(SynchronousTestCase):
    def setUp(self) -> None:
        metrics = Metrics()
        self.network = Network(Clock())
        self.site = make_metrics_site(metrics, self.network, shares(1024, 1, None, 64))
        metrics.registry.register(ClientCollector({"metrics": self.site.crowd}))
        self.network.listenTCP(PORT, self.site)

    def connect(self) -> Client:
        client = Client()
        self.network.connectTCP("127.0.0.1", PORT, OneClient(client))
        self.network.flush()
        return client

    def ask(self, client: Client, data: bytes) -> Answer:
        client.received = b""
        client.transport.write(data)  # type: ignore[union-attr] # it is connected
        self.network.flush()
        (answer,) = read_answers(client.received)
        return answer

    def test_connections_are_shown(self) -> None:
        """Each listener has its open connections, and every reason begins at 0."""
        answer = self.ask(self.connect(), get(b"/metrics"))

        assert 200 == answer.status
        shown = {
            sample.name: sample.value
            for family in text_string_to_metric_families(answer.body.decode())
            for sample in family.samples
            if sample.labels.get("listener") == "metrics"
        }
        assert {
            "cortex_client_connections": 1,
            "cortex_client_connections_closed_total": 0,
            "cortex_requests_shed_total": 0,
        } == shown

    def test_other_methods_and_paths(self) -> None:
        """Only GET and HEAD have an answer, and no page of HTML comes of the others."""
        client = self.connect()
        answer = self.ask(client, b"DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (405, "GET, HEAD") == (answer.status, answer.headers["allow"])
        answer = self.ask(client, get(b"/nowhere"))
        assert (404, "text/plain") == (answer.status, answer.headers["content-type"])
        client.received = b""
        client.transport.write(get(b"/").replace(b"GET", b"HEAD"))  # type: ignore[union-attr] # likewise
        self.network.flush()
        (answer,) = read_answers(client.received, to_head=True)
        assert (200, b"") == (answer.status, answer.body)

    def test_bodies(self) -> None:
        """A body is refused at the end of the head, and goes to no file."""
        answer = self.ask(self.connect(), post(b"x" * 1000, target=b"/metrics")[:120])

        assert 413 == answer.status
        assert "requests to this address have no body" == answer.error["message"]

    def test_few_connections(self) -> None:
        """The longest idle one makes room for the next, so that a scrape always has an answer."""
        crowd = [self.connect() for _ in range(MOST_METRICS_CLIENTS + 5)]

        assert 5 == len([each for each in crowd if each.ended])
        assert 200 == self.ask(crowd[-1], get(b"/metrics")).status

    def test_a_head_that_drips(self) -> None:
        """It is closed after the idle time, as at the other listener."""
        client = self.connect()
        for number in range(7):
            client.transport.write(b"GET /metrics"[number : number + 1])  # type: ignore[union-attr] # likewise
            self.network.advance(10)

        assert client.ended
