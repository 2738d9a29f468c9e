import socket
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.protocols import amp
from twisted.test.iosim import FakeTransport, IOPump, connect

from cortexd.control.contract import Refused
from cortexd.ctl.client import ControlClient
from cortexd.ctl.commands import SUBCOMMANDS, carry_out
from cortexd.ctl.main import make_parser
from cortexd.ctl.progress import Done
from cortexd.testing import SimulatedModel
from tests.support.control import SocketTransport
from tests.support.fleets import MODEL, FleetTestCase, InMemoryFleet

OTHER = "acme/other"


class ProbeCommandTests(FleetTestCase):
    """The command line, carried out at a daemon that probes by order only."""

    def setUp(self) -> None:
        """Make two nodes, of which one has both models loaded."""
        super().setUp()
        unloaded = SimulatedModel(id=OTHER, loaded=False)
        nodes = (self.node("a", MODEL, OTHER), self.node("b", MODEL, unloaded))
        self.given: InMemoryFleet = self.fleet(
            *nodes, models={MODEL: {"aliases": ["chat"], "vision": True}}
        )
        self.given.prober.startService()
        self.told: list[str] = []

    def connected(self) -> tuple[amp.AMP, IOPump]:
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        client = amp.AMP()
        server = self.given.parts.control_factory.buildProtocol(None)
        assert server is not None
        transport = SocketTransport(server, ours)
        pump = connect(server, transport, client, FakeTransport(client, isServer=False))
        self.addCleanup(pump.flush)
        self.addCleanup(transport.loseConnection)
        return client, pump

    def begin(self, line: str) -> tuple[Deferred[Any], IOPump]:
        arguments = make_parser().parse_args(line.split())
        connection, pump = self.connected()
        client = ControlClient(connection, self.given.clock, "/control.sock", 10.0)

        def tell(text: str, data: Mapping[str, Any] | None = None) -> None:
            self.told.append(text)

        subcommand = SUBCOMMANDS[arguments.subcommand]
        answered = Deferred.fromCoroutine(carry_out(subcommand, client, arguments, tell))
        pump.flush()
        return answered, pump

    def done(self, line: str) -> Done:
        """Return the result of a command line, after as many seconds as it takes."""
        answered, pump = self.begin(line)
        for _ in range(60):
            if not answered.called:
                self.given.advance(1.0)
                pump.flush()
        done: Done = self.successResultOf(answered)
        return done

    def refused(self, line: str) -> str:
        answered, _ = self.begin(line)
        return str(self.failureResultOf(answered, Refused).value)

    def test_waits(self) -> None:
        """The command waits for the probes of all nodes, and shows each ability on each of them."""
        done = self.done("probe chat")

        assert [f"{MODEL} is probed on a, b as soon as nothing runs there\n"] == self.told
        assert "a:\n  system_role        yes\n" in done.text
        assert "\nb:\n  system_role        yes\n" in done.text
        assert MODEL == done.data["model"]
        assert ["known", "known"] == [each["state"] for each in done.data["abilities"]]

    def test_one_node(self) -> None:
        """With --node only that node is probed, with --no-wait the command ends at once."""
        done = self.done(f"probe {OTHER} --node a --no-wait")

        assert {"model": OTHER, "nodes": ["a"]} == done.data
        (on_a, on_b) = self.given.prober.states(OTHER)
        assert ("wanted", "unknown") == (on_a.state, on_b.state)

    def test_failure(self) -> None:
        """A probe that fails ends the command too, with the reason."""
        for node in self.given.nodes.values():
            node.faults.error_responses = 1  # type: ignore[attr-defined] # both are simulated
            node.faults.error_message = "engine state lock is poisoned"  # type: ignore[attr-defined] # the same

        assert "the probe failed: engine state lock is poisoned" in self.done("probe chat").text

    def test_refusals(self) -> None:
        """A model that is loaded nowhere and one that no node lists are refused with advice."""
        assert "a probe loads nothing; load it first" in self.refused(f"probe {OTHER} --node b")
        assert "no node lists a model 'acme/chatt'; did you mean" in self.refused(
            "probe acme/chatt"
        )
        assert "no node is called 'c'" in self.refused("probe chat --node c")
