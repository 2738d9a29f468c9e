import os
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.protocols import amp

from cortexd import __version__
from cortexd.control.contract import (
    LAST_PAGE,
    PROTOCOL,
    ListLeases,
    ListModels,
    ListNodes,
    ListReplicas,
    UnknownNode,
    Version,
)
from cortexd.control.server import IDLE_SECONDS, MAX_CONNECTIONS
from cortexd.control.socket import peer_credentials
from cortexd.control.summaries import (
    LeaseSummary,
    ModelReplicaSummary,
    ModelSummary,
    NodeSummary,
    ReplicaSummary,
    SwapSummary,
)
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Lease
from cortexd.fleet.states import PollFailure, ReplicaState, SystemInfo
from cortexd.scheduling.events import LoadDone, LoadFailed, LoadWanted, PollFailed, SystemRead
from tests.support.control import (
    OWN_CREDENTIALS,
    STARTED_AT,
    ControlledFleet,
    ControlTestCase,
    send,
)


class BrokenFleet(Fleet):
    """A fleet with a mistake in it."""

    @property
    def leases(self) -> tuple[Lease, ...]:
        """Fail, as nobody foresaw."""
        raise RuntimeError("secret")


class AnswersTests(ControlTestCase):
    def make_fleet(self) -> ControlledFleet:
        """Return a fleet with one node that works and one that never answered."""
        given = ControlledFleet(
            {"large": 80000, "small": 20000},
            footprints={"org/chat": 30000, "org/embed": 5000, "org/old": 70000},
            pins={"large": ("org/embed",)},
        )
        given.clock.advance(10.0)
        given.see(
            "large",
            old=ReplicaState.UNLOADED,
            embed=ReplicaState.LOADED,
            chat=ReplicaState.LOADED,
        )
        given.tell(SystemRead("large", SystemInfo("0.9.5", 81920, 45920)))
        given.clock.advance(1.0)
        given.tell(PollFailed("small", PollFailure("connection refused", silent=False)))
        given.clock.advance(9.0)
        given.begin("org/chat", "request-1")
        given.clock.advance(10.0)
        return given

    def test_version(self) -> None:
        """The daemon tells its version, process, start and protocol."""
        expected = {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": STARTED_AT,
            "protocol": PROTOCOL,
        }
        assert expected == self.ask(Version)

    def test_nodes(self) -> None:
        """Nodes come in the order of the configuration, with what was last heard of them."""
        large = NodeSummary(
            name="large",
            endpoint="http://large:8000",
            health="up",
            reason="answers",
            since=1010.0,
            last_answer_at=1010.0,
            version="0.9.5",
            memory_total_mb=81920,
            memory_free_mb=45920,
            memory_budget_mb=80000,
            restarts=0,
            leases=1,
            replica_states={"loaded": 2, "unloaded": 1},
            memory_committed_mb=35000,
            memory_leaked_mb=0,
            cordoned=False,
            restart_reason=None,
            swap=None,
            unloads=0,
            pins=["org/embed"],
        )
        small = NodeSummary(
            name="small",
            endpoint="http://small:8000",
            health="down",
            reason="connection refused",
            since=1011.0,
            last_answer_at=None,
            version=None,
            memory_total_mb=None,
            memory_free_mb=None,
            memory_budget_mb=20000,
            restarts=0,
            leases=0,
            replica_states={},
        )
        expected = {"items": [large, small], "next": LAST_PAGE, "unstored": None, "notices": None}
        assert expected == self.ask(ListNodes, offset=0)
        assert {**expected, "items": [small]} == self.ask(ListNodes, offset=1)
        assert [small] == self.ask(ListNodes, offset=0, node="small")["items"]

    def test_a_swap(self) -> None:
        """A node tells what it is changing, and its replicas which of them is coming."""
        self.given.tell(LoadWanted("org/old"))
        self.clock.advance(5.0)

        [node] = self.ask(ListNodes, offset=0, node="large")["items"]
        replicas = self.ask(ListReplicas, node="large", offset=0)["items"]

        assert (
            SwapSummary(
                phase="draining",
                target="org/old",
                victims=["org/chat"],
                moving=None,
                leases=1,
                age_seconds=5.0,
                decision=1,
            )
            == node.swap
        )
        assert {"draining": 1, "loaded": 1, "unloaded": 1} == node.replica_states
        assert [
            ("org/chat", "drain", False),
            ("org/embed", None, False),
            ("org/old", None, True),
        ] == [(replica.model, replica.operation, replica.is_coming) for replica in replicas]

    def test_replicas(self) -> None:
        """A node's replicas come by model id, each with all that is known of it."""
        chat = ReplicaSummary(
            model="org/chat",
            state="loaded",
            leases=1,
            capacity=32,
            footprint_mb=30000,
            idle_seconds=0.0,
        )
        embed = ReplicaSummary(
            model="org/embed",
            state="loaded",
            leases=0,
            capacity=32,
            footprint_mb=5000,
            pinned=True,
            idle_seconds=20.0,
        )
        old = ReplicaSummary(model="org/old", state="unloaded", leases=0, capacity=32)
        answer = self.ask(ListReplicas, node="large", offset=0)
        assert {"items": [chat, embed, old], "next": LAST_PAGE} == answer
        assert [] == self.ask(ListReplicas, node="small", offset=0)["items"]

    def test_one_replica(self) -> None:
        """One model on one node may be asked for; where it is not listed the list is empty."""
        asked = {"node": "large", "offset": 0}
        [embed] = self.ask(ListReplicas, **asked, model="org/embed")["items"]
        assert "org/embed" == embed.model
        assert [] == self.ask(ListReplicas, **asked, model="org/none")["items"]

    def test_leases(self) -> None:
        """A lease is told with its request, its replica and its age by the fleet's clock."""
        lease = LeaseSummary(
            request_id="request-1", model="org/chat", node="large", age_seconds=10.0
        )
        assert {"items": [lease], "next": LAST_PAGE} == self.ask(ListLeases, offset=0)

    def test_models(self) -> None:
        """Models come by id, each with its nodes, who waits for it and what it costs."""
        self.given.tell(LoadWanted("org/old"))
        self.given.begin("org/old", "request-2")
        self.clock.advance(3.0)
        self.given.begin("org/old", "request-3")

        chat, embed, old = self.ask(ListModels, offset=0)["items"]

        assert (
            ModelSummary(
                id="org/old",
                replicas=[ModelReplicaSummary(node="large", state="unloaded")],
                leases=0,
                waiting=2,
                longest_wait_seconds=3.0,
                pinned_on=[],
                coming_on=["large"],
                footprint_mb=70000,
                load_seconds=None,
            )
            == old
        )
        assert (1, 0, None, []) == (
            chat.leases,
            chat.waiting,
            chat.longest_wait_seconds,
            chat.coming_on,
        )
        assert ["large"] == embed.pinned_on

    def test_large_fleet(self) -> None:
        """What does not fit into one value comes in pages, and nothing is missing or double."""
        models = [f"organisation/model-{number:04}" for number in range(2000)]
        self.given.see_all("small", dict.fromkeys(reversed(models), ReplicaState.UNLOADED))
        client, _server, pump = self.connect()
        found: list[str] = []
        pages = offset = 0
        while offset != LAST_PAGE:
            answered = send(client, ListReplicas, node="small", offset=offset)
            pump.flush()
            answer = self.successResultOf(answered)
            found += [replica.model for replica in answer["items"]]
            offset = answer["next"]
            pages += 1
        assert models == found
        assert pages > 1

    def test_unknown_node(self) -> None:
        """A node that is not configured is refused by name, and the connection lives on."""
        client, _server, pump = self.connect()
        refused = send(client, ListReplicas, node="huge", offset=0)
        answered = send(client, Version)
        pump.flush()
        error = self.failureResultOf(refused, UnknownNode).value
        assert "no node is called 'huge'; the nodes are large, small" == str(error)
        assert __version__ == self.successResultOf(answered)["version"]

    def test_long_name(self) -> None:
        """The longest name that AMP can carry is refused like any other."""
        client, _server, pump = self.connect()
        refused = send(client, ListReplicas, node="x" * amp.MAX_VALUE_LENGTH, offset=0)
        pump.flush()
        self.failureResultOf(refused, UnknownNode)


class SilentNodeTests(ControlTestCase):
    def make_fleet(self) -> ControlledFleet:
        """Return a fleet whose nodes listed a model each, and have not answered since."""
        given = ControlledFleet({"large": 80000, "far": 0}, unmanaged=["far"])
        for node in ("large", "far"):
            given.see(node, chat=ReplicaState.LOADED)
            given.tell(PollFailed(node, PollFailure("connection refused", silent=False)))
        return given

    def test_what_it_had_is_told_with_its_health(self) -> None:
        """So nobody takes the state of a replica for what it is now."""
        [replica] = self.ask(ListReplicas, node="large", offset=0)["items"]
        [model] = self.ask(ListModels, offset=0)["items"]

        assert ("loaded", "down") == (replica.state, replica.node_health)
        assert [("large", "down"), ("far", "down")] == [
            (replica.node, replica.node_health) for replica in model.replicas
        ]

    def test_an_assumed_footprint(self) -> None:
        """What nobody measured or configured is told as what it is."""
        [replica] = self.ask(ListReplicas, node="large", offset=0)["items"]

        assert (80000, False) == (replica.footprint_mb, replica.footprint_is_known)

    def test_pins_that_are_not_listed(self) -> None:
        """They are told, but of a node that has not answered nobody knows."""
        self.given = ControlledFleet(
            {"large": 80000, "small": 20000},
            pins={"large": ("org/chat", "org/chta"), "small": ("a",)},
        )
        self.factory = self.make_factory()
        self.given.see("large", chat=ReplicaState.LOADED)
        nodes = self.ask(ListNodes, offset=0)["items"]

        assert [["org/chta"], []] == [node.unlisted_pins for node in nodes]

    def test_a_node_that_is_not_managed(self) -> None:
        """It is told as such."""
        nodes = self.ask(ListNodes, offset=0)["items"]

        assert [("large", True), ("far", False)] == [(each.name, each.is_managed) for each in nodes]


class LoadedReplicaTests(ControlTestCase):
    def make_fleet(self) -> ControlledFleet:
        """Return a fleet with one model that is not loaded."""
        given = ControlledFleet({"small": 20000})
        given.see("small", new=ReplicaState.UNLOADED)
        return given

    def test_a_loaded_replica(self) -> None:
        """One that was loaded by the daemon tells since when, and since when nobody used it."""
        self.given.tell(LoadWanted("org/new"))
        [coming] = self.ask(ListReplicas, node="small", offset=0)["items"]
        self.given.tell(LoadDone("small", "org/new", 12.0))
        self.given.clock.advance(5.0)
        self.successResultOf(self.given.begin("org/new", "request-1"))
        self.given.clock.advance(2.0)
        [loaded] = self.ask(ListReplicas, node="small", offset=0)["items"]

        assert ("loading", "load", None, None) == (
            coming.state,
            coming.operation,
            coming.idle_seconds,
            coming.loaded_seconds,
        )
        assert ("loaded", None, 0.0, 7.0) == (
            loaded.state,
            loaded.operation,
            loaded.idle_seconds,
            loaded.loaded_seconds,
        )

    def test_a_failed_replica(self) -> None:
        """One whose load failed tells how often, the last words, and when it is tried again."""
        self.given.tell(LoadWanted("org/new"))
        self.given.tell(LoadFailed("small", "org/new", "no such file"))
        self.given.clock.advance(2.0)
        [failed] = self.ask(ListReplicas, node="small", offset=0)["items"]
        self.given.clock.advance(60.0)
        [later] = self.ask(ListReplicas, node="small", offset=0)["items"]

        assert ("unloaded", 1, "no such file", 3.0) == (
            failed.state,
            failed.failures,
            failed.failure,
            failed.retry_seconds,
        )
        assert None is later.retry_seconds


class BadClientTests(ControlTestCase):
    def test_unknown_command(self) -> None:
        """A command of a later version is refused by AMP itself, and the connection lives on."""

        class Levitate(amp.Command):
            """Something no daemon can do."""

        client, _server, pump = self.connect()
        refused = send(client, Levitate)
        answered = send(client, Version)
        pump.flush()
        self.failureResultOf(refused, amp.UnhandledCommand)
        self.successResultOf(answered)

    def test_internal_error(self) -> None:
        """An unforeseen error tells the client nothing, is logged, and spares the daemon."""
        self.given = ControlledFleet({"large": 80000}, kind=BrokenFleet)
        self.factory = self.make_factory()
        client, server, pump = self.connect()
        failed = send(client, ListLeases, offset=0)
        pump.flush()
        error = self.failureResultOf(failed, amp.UnknownRemoteError).value
        assert "secret" not in str(error)
        assert "Unknown Error" in str(error)
        assert 1 == len(self.flushLoggedErrors(RuntimeError))
        assert server.transport is None
        assert __version__ == self.ask(Version)["version"]

    def test_garbage(self) -> None:
        """A client that speaks HTTP loses its connection, without a traceback in the log."""
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00", b"\x00\x01a\x00\x01b\x00\x00"):
            client, server, pump = self.connect()
            transport: Any = client.transport
            transport.write(garbage)
            pump.flush()
            assert server.transport is None

    def test_unasked_answer(self) -> None:
        """An answer to nothing ends the connection: the daemon asks nothing of its clients."""
        for box in (amp.AmpBox(_answer=b"1"), amp.AmpBox(_error=b"1")):
            client, server, pump = self.connect()
            client.sendBox(box)
            pump.flush()
            assert server.transport is None

    def test_idle(self) -> None:
        """A client that asks nothing for a while is disconnected; one that asks is not."""
        client, server, pump = self.connect()
        self.clock.advance(IDLE_SECONDS - 1)
        answered = send(client, Version)
        pump.flush()
        self.successResultOf(answered)
        self.clock.advance(IDLE_SECONDS - 1)
        pump.flush()
        assert server.transport is not None
        self.clock.advance(1)
        pump.flush()
        assert server.transport is None

    def test_half_a_command(self) -> None:
        """Bytes that never become a command do not keep a connection open."""
        client, server, pump = self.connect()
        transport: Any = client.transport
        for _ in range(3):
            transport.write(b"\x00\x01a\x00\x01b")
            pump.flush()
            assert server.transport is not None
            self.clock.advance(IDLE_SECONDS / 3)
        pump.flush()
        assert server.transport is None

    def test_client_leaves(self) -> None:
        """Nothing is left waiting for a client that has gone."""
        client, _server, pump = self.connect()
        client_transport: Any = client.transport
        client_transport.loseConnection()
        pump.flush()
        assert [] == self.clock.getDelayedCalls()

    def test_too_many(self) -> None:
        """Above the limit a client is turned away, until another one leaves."""
        clients = [self.connect() for _ in range(MAX_CONNECTIONS)]
        assert self.factory.buildProtocol(None) is None
        client, _server, pump = clients[0]
        client_transport: Any = client.transport
        client_transport.loseConnection()
        pump.flush()
        assert self.factory.buildProtocol(None) is not None

    def test_client_that_does_not_read(self) -> None:
        """While answers wait to be read no command is carried out; then all of them are."""
        client, server, pump = self.connect()
        assert server.transport.producer is server
        server.pauseProducing()
        answered = [send(client, Version) for _ in range(3)]
        pump.flush()
        for waiting in answered:
            self.assertNoResult(waiting)
        server.resumeProducing()
        pump.flush()
        for done in answered:
            self.successResultOf(done)

    def test_daemon_stops(self) -> None:
        """When the daemon stops listening, clients that are still there are disconnected."""
        client, _server, pump = self.connect()
        self.factory.doStart()
        self.factory.doStop()
        pump.flush()
        self.failureResultOf(send(client, Version), ConnectionDone)


class PeerCredentialsTests(ControlTestCase):
    def test_socket(self) -> None:
        """The kernel says which process, user and group is at the other end."""
        assert OWN_CREDENTIALS == peer_credentials(self.connection)

    def test_protocol(self) -> None:
        """A connection knows its peer before the first command."""
        _client, server, _pump = self.connect()
        assert OWN_CREDENTIALS == server.peer
