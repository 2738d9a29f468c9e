"""A daemon's control socket in memory, over a fleet without polls: tests dictate observations."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.protocols import amp
from twisted.test.iosim import FakeTransport, IOPump, connect
from twisted.trial.unittest import SynchronousTestCase

from cortexd.control.server import ControlFactory, ControlProtocol
from cortexd.control.socket import PeerCredentials
from cortexd.dispatcher import Dispatcher
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.footprints import Footprints
from cortexd.fleet.nodes import ModelTerms, NodeTerms
from cortexd.fleet.states import Observation, ReplicaState
from cortexd.scheduling.events import Effect, Event, Observed, StartLoad, StartUnload
from cortexd.scheduling.scheduler import Scheduler
from cortexd.scheduling.terms import SchedulingTerms
from cortexd.store.journal import Store
from cortexd.telemetry.metrics import Metrics

STARTED_AT = 1000.0
OWN_CREDENTIALS = PeerCredentials(os.getpid(), os.geteuid(), os.getegid())


class ControlledFleet:
    """A scheduler over nodes of ``budgets`` MiB, with a dispatcher that only records the effects.

    ``footprints`` are in MiB by model, ``pins`` the models that the configuration pins on a node,
    ``unmanaged`` the nodes that load models by themselves.
    """

    def __init__(
        self,
        budgets: Mapping[str, int],
        *,
        footprints: Mapping[str, int] | None = None,
        models: Mapping[str, ModelTerms] | None = None,
        pins: Mapping[str, tuple[str, ...]] | None = None,
        unmanaged: Collection[str] = (),
        terms: SchedulingTerms | None = None,
        kind: type[Fleet] = Fleet,
    ) -> None:
        self.clock = Clock()
        self.clock.advance(STARTED_AT)
        sizes = footprints or {}
        self.fleet = kind(
            [
                NodeTerms(
                    name,
                    f"http://{name}:8000",
                    budget,
                    pinned=(pins or {}).get(name, ()),
                    is_managed=name not in unmanaged,
                )
                for name, budget in budgets.items()
            ],
            models or {},
            Footprints(lambda node, model: sizes.get(model), {}),
            default_terms=ModelTerms(32),
            now=STARTED_AT,
            down_after=1,
            load_timeout=60.0,
        )
        self.scheduler = Scheduler(self.fleet, terms or SchedulingTerms())
        self.dispatcher = Dispatcher(self.scheduler, self.clock, Metrics())
        self.effects: list[Effect] = []
        self.dispatcher.listen(self.effects.append)

    def tell(self, event: Event) -> None:
        """Dispatch an event now."""
        self.dispatcher.dispatch(event)

    def see(self, node: str, **states: ReplicaState) -> None:
        """Dispatch a poll of a node with exactly these models; "org/" precedes their names."""
        self.see_all(node, {f"org/{name}": state for name, state in states.items()})

    def see_all(self, node: str, states: Mapping[str, ReplicaState]) -> None:
        """Dispatch a poll of a node with exactly these models."""
        self.tell(Observed(node, Observation(900, states), self.clock.seconds()))

    def begin(self, model: str, request_id: str) -> Deferred[Any]:
        """Submit a request for a model; the Deferred fires with its Grant."""
        return self.dispatcher.acquire(model, request_id)


class SocketTransport(FakeTransport):
    """An in-memory transport whose peer credentials, read from a real socket, are this process."""

    def __init__(self, protocol: Any, connection: socket.socket) -> None:
        super().__init__(protocol, isServer=True)
        self._connection = connection

    def getHandle(self) -> socket.socket:
        """Return the socket whose other end is ours too."""
        return self._connection


def send(client: amp.AMP, command: type[amp.Command], **arguments: Any) -> Deferred[Any]:
    """Send a command; the caller handles the result or the error, so AMP does not log it."""
    outcome: Deferred[Any] = Deferred()
    client.callRemote(command, **arguments).chainDeferred(outcome)
    return outcome


class ControlTestCase(SynchronousTestCase):
    """A test with a fleet, a journal and clients of the control socket before them."""

    given: ControlledFleet
    aliases: Mapping[str, str] = MappingProxyType({})

    def setUp(self) -> None:
        """Make a factory for connections from this process."""
        self.given = self.make_fleet()
        self.clock = self.given.clock
        self.fleet = self.given.fleet
        self.journal = self.make_journal()
        self.audits: list[dict[str, Any]] = []
        self.factory = self.make_factory()
        self.connection, other_end = socket.socketpair()
        self.addCleanup(other_end.close)
        self.addCleanup(self.connection.close)

    def make_fleet(self) -> ControlledFleet:
        """Return the fleet that the daemon controls."""
        return ControlledFleet({"large": 80000, "small": 20000})

    def make_journal(self) -> Store:
        """Return an empty journal, closed at the test's end."""
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        journal = Store(Path(directory.name), STARTED_AT)
        self.addCleanup(journal.close)
        return journal

    def make_factory(self) -> ControlFactory:
        """Return a factory for the fleet and the journal."""
        return ControlFactory(
            self.given.dispatcher,
            self.journal,
            self.clock,
            STARTED_AT,
            self.aliases,
            audit=self.audit,
        )

    def audit(self, actor: str, command: str, **fields: Any) -> None:
        """Keep what a command has changed, in ``audits``."""
        self.audits.append({"actor": actor, "command": command, **fields})

    def connect(self) -> tuple[amp.AMP, ControlProtocol, IOPump]:
        """Return a client that is connected to a server of the factory."""
        client = amp.AMP()
        server = self.factory.buildProtocol(None)
        assert server is not None
        transport = SocketTransport(server, self.connection)
        pump = connect(server, transport, client, FakeTransport(client, isServer=False))
        return client, server, pump

    def ask(self, command: type[amp.Command], **arguments: Any) -> dict[str, Any]:
        """Return the answer to one command on a new connection."""
        answer: dict[str, Any] = self.successResultOf(self.send(command, **arguments))
        return answer

    def refusal(self, error: type[Exception], command: type[amp.Command], **arguments: Any) -> str:
        """Return the message with which one command is refused, with exactly this error."""
        raised = self.failureResultOf(self.send(command, **arguments)).value
        assert type(raised) is error, raised
        return str(raised)

    def send(self, command: type[amp.Command], **arguments: Any) -> Deferred[Any]:
        """Send one command on a new connection."""
        client, server, pump = self.connect()
        answered = send(client, command, **arguments)
        pump.flush()
        server.transport.loseConnection()
        pump.flush()
        return answered


class ChangesTestCase(ControlTestCase):
    """Two nodes that hold two and one of four models; "old" has gone unused longest."""

    def make_fleet(self) -> ControlledFleet:
        """Return the fleet, idle, ten seconds after its first poll."""
        given = ControlledFleet(
            {"large": 1000, "small": 500},
            footprints={"org/old": 400, "org/chat": 500, "org/new": 500, "org/huge": 900},
        )
        given.see(
            "large",
            old=ReplicaState.LOADED,
            chat=ReplicaState.LOADED,
            new=ReplicaState.UNLOADED,
            huge=ReplicaState.UNLOADED,
        )
        given.see(
            "small", old=ReplicaState.LOADED, new=ReplicaState.UNLOADED, huge=ReplicaState.UNLOADED
        )
        given.clock.advance(10.0)
        self.answer(given, "org/chat", "request-0")
        given.clock.advance(10.0)
        return given

    def answer(self, given: ControlledFleet, model: str, request_id: str) -> None:
        """Answer a request without any delay."""
        grant = self.successResultOf(given.begin(model, request_id))
        given.dispatcher.release(grant.lease)

    def did(self, *kinds: type[Any]) -> list[Any]:
        """Return the effects of these kinds since the last call."""
        found = [effect for effect in self.given.effects if isinstance(effect, kinds)]
        self.given.effects.clear()
        return found

    def began(self) -> list[tuple[str, str, str]]:
        """Return the loads and unloads since the last call: kind, node and model of each."""
        words = {StartLoad: "load", StartUnload: "unload"}
        return [
            (
                "cut" if getattr(effect, "now", False) else words[type(effect)],
                effect.node,
                effect.model,
            )
            for effect in self.did(StartLoad, StartUnload)
        ]
