"""The daemon's side of control: it answers the commands of ``cortexd.control.contract``.

A client that may open the socket may use every command; see ``cortexd.control.socket``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols import amp
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure

from cortexd import __version__
from cortexd.agents.enrolling import Enroller
from cortexd.control.answers import (
    Summaries,
    decision_summary,
    explain,
    lease_summary,
    model_summary,
    node_summary,
    plan_summary,
    replica_summary,
    unlisted,
    unload_summary,
)
from cortexd.control.auditing import Audit, Users, unaudited
from cortexd.control.contract import (
    PROTOCOL,
    CordonNode,
    Events,
    ListLeases,
    ListModels,
    ListNodes,
    ListReplicas,
    LoadModel,
    PinModel,
    PlanLoad,
    ProbeModel,
    Refused,
    UncordonNode,
    UnknownModel,
    UnloadModel,
    UnpinModel,
    Version,
    Why,
    fitted,
    page,
    refusing,
)
from cortexd.control.engine_logs import LogControl
from cortexd.control.enrolling import EnrolControl
from cortexd.control.handover import HandOver
from cortexd.control.keys import KeysControl
from cortexd.control.reloading import ReloadControl, Reloading
from cortexd.control.restarting import PowerControl, RestartControl
from cortexd.control.socket import PeerCredentials, peer_credentials
from cortexd.control.summaries import AbilitiesSummary, EventSummary, ModelSummary
from cortexd.control.usage import UsageControl, UsageReading
from cortexd.dispatcher import Dispatcher
from cortexd.link.connected import Agents
from cortexd.logs import get_logger
from cortexd.scheduling.decisions import REQUESTS_KEPT
from cortexd.scheduling.events import CordonWanted, LoadWanted, PinWanted, UnloadWanted
from cortexd.scheduling.repairs.events import RestartEnded
from cortexd.store.journal import JournalEntry
from cortexd.store.key_keeper import KeyKeeper
from cortexd.upstream.prober import Prober

MAX_CONNECTIONS: Final = 64
"""Clients at a time: each uses a file descriptor that a request may need."""

IDLE_SECONDS: Final = 60.0
"""Seconds without a complete command after which a client is disconnected."""

MAX_ENTRIES: Final = 200
"""Entries of the journal that are read for one answer; reading them takes a millisecond."""

Thing = TypeVar("Thing")

log = get_logger("cortexd.control")


class Journal(Protocol):
    """The fleet's journal, as in ``cortexd.store.journal``."""

    @property
    def last_number(self) -> int:
        """The number of the newest entry, 0 before the first."""

    @property
    def unstored(self) -> str | None:
        """Why the state of the daemon is only in memory now, None if it is on the disk."""

    def entries(self, after: int, limit: int, model: str | None = None) -> list[JournalEntry]:
        """Return at most ``limit`` entries with numbers above ``after``, the oldest first."""


class ControlProtocol(
    ReloadControl,
    KeysControl,
    UsageControl,
    LogControl,
    RestartControl,
    PowerControl,
    EnrolControl,
    TimeoutMixin,
):
    """Answers one client's commands, and is in ``connections`` while it is connected.

    ``clock`` must be the clock of the fleet's times; ``started_at`` is in unix seconds. ``aliases``
    maps other names of models to their ids. Without a ``journal``, Events is rejected, and without
    a ``prober`` ProbeModel, without ``reloading`` Reload and PlanReload, and without ``keys`` all
    commands about keys. ``audit`` records each change, and ``users`` knows who commands it.
    """

    factory: Any
    transport: Any  # a UNIX connection or a double of one
    peer: PeerCredentials

    def __init__(
        self,
        dispatcher: Dispatcher,
        journal: Journal | None,
        clock: IReactorTime,
        started_at: float,
        aliases: Mapping[str, str],
        prober: Prober | None,
        connections: set[ControlProtocol],
        reloading: Reloading | None = None,
        audit: Audit = unaudited,
        users: Users | None = None,
        keys: KeyKeeper | None = None,
    ) -> None:
        super().__init__()
        self.reloading = reloading
        self.audit = audit
        self.users = users or Users()
        self.keys = keys
        self._dispatcher = dispatcher
        self._fleet = dispatcher.fleet
        self._scheduler = dispatcher.scheduler
        self._journal = journal
        self._clock = clock
        self._started_at = started_at
        self._aliases = aliases
        self._prober = prober
        self._connections = connections
        self._lost: Callable[[], None] | None = None

    def connectionMade(self) -> None:
        """Identify the client, and pause reading while it does not read our answers."""
        super().connectionMade()
        self.peer = peer_credentials(self.transport.getHandle())
        self.users.meet(self.peer.uid)
        self.transport.registerProducer(self, True)
        self.setTimeout(IDLE_SECONDS)
        self._connections.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget the client."""
        self._connections.discard(self)
        self.setTimeout(None)
        if self._lost is not None:
            self._lost()
        super().connectionLost(reason)

    def callLater(self, delay: float, function: Any) -> Any:
        """Run the timeout on our clock."""
        return self._clock.callLater(delay, function)

    def timeoutConnection(self) -> None:
        """Close the connection at once, even if the client has not read its last answer."""
        self.transport.abortConnection()

    def ampBoxReceived(self, box: amp.AmpBox) -> None:  # noqa: N802 - AMP calls it by this name
        """Execute a command. Any other box ends the connection: we sent no command to the client.

        Only a complete command resets the timeout; partial data does not. The successor of this
        daemon answers commands of ours.
        """
        if self._lost is not None:
            super().ampBoxReceived(box)
            return
        self.resetTimeout()
        command = box.get(amp.COMMAND)
        if command is None:
            log.warning("control_box_refused", **self.who())
            self.transport.loseConnection()
            return
        name = command.decode("ascii", "backslashreplace")
        log.debug("control_command", command=name, **self.who())
        super().ampBoxReceived(box)

    @Version.responder
    def version(self) -> Mapping[str, Any]:
        """Return the daemon's identity."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": self._started_at,
            "protocol": PROTOCOL,
        }

    @HandOver.responder
    def hand_over(self, *, introduced: bool | None) -> Deferred[dict[str, Any]]:
        """Hand over to the process at the other end, if this daemon is being restarted."""
        factory: ControlFactory = self.factory
        begin = factory.on_hand_over
        if self.peer.uid not in (os.geteuid(), 0):
            raise Refused("the daemon hands over only to a process of its own user")
        if begin is None:
            raise Refused("the daemon is not being restarted")
        log.info("handover_begins", **self.who())
        return begin(self, introduced or False)

    def keep_open(self, lost: Callable[[], None]) -> None:
        """Keep this connection when the factory stops, and call ``lost`` at its end."""
        self._lost = lost
        self._connections.discard(self)
        self.setTimeout(None)

    # Lists.

    @ListNodes.responder
    def list_nodes(self, offset: int, node: str | None) -> Mapping[str, Any]:
        """Return a page of nodes; UnknownNode if there is no such node."""
        nodes = list(self._fleet.nodes.values()) if node is None else [self._node(node)]
        found = self._page(nodes, offset, partial(node_summary, self._scheduler))
        notices = self.factory.notices() if not offset else []
        return {**found, **self._unstored(), "notices": notices or None}

    @ListReplicas.responder
    def list_replicas(self, node: str, offset: int, model: str | None) -> Mapping[str, Any]:
        """Return a page of a node's replicas; UnknownNode if there is no such node."""
        replicas = self._node(node).replicas
        models = (
            sorted(replicas) if model is None else [name for name in (model,) if name in replicas]
        )
        listed = [replicas[name] for name in models]
        return self._page(listed, offset, partial(replica_summary, self._scheduler))

    @ListLeases.responder
    def list_leases(self, offset: int) -> Mapping[str, Any]:
        """Return a page of leases."""
        return self._page(self._fleet.leases, offset, lease_summary)

    @ListModels.responder
    def list_models(self, offset: int) -> Mapping[str, Any]:
        """Return a page of models."""
        return self._page(self._fleet.models, offset, self._model_summary)

    def _model_summary(self, model: str, now: float) -> ModelSummary:
        states = self._prober.states(model) if self._prober is not None else ()
        abilities = [
            AbilitiesSummary(
                node=each.node, state=each.state, words=dict(each.words), reason=each.reason
            )
            for each in states
        ]
        return model_summary(self._scheduler, model, now, abilities)

    def _page(
        self, things: Sequence[Thing], offset: int, summarize: Callable[[Thing, float], Any]
    ) -> Mapping[str, Any]:
        now = self._clock.seconds()
        items, following = page(Summaries(things, lambda thing: summarize(thing, now)), offset)
        return {"items": items, "next": following}

    def _model(self, name: str) -> str:
        """Return the id for a name. An id has precedence over an alias, as for other clients."""
        return name if name in self._fleet else self._aliases.get(name, name)

    # Changes.

    @LoadModel.responder
    def load_model(self, model: str, node: str | None) -> Mapping[str, Any]:
        """Begin to load a model, and return the consequences."""
        planned = self.plan_load(model, node)
        # Where the load goes, also if the client leaves that to us.
        self._change("load", LoadWanted(self._model(model), node), node=planned["plan"].node)
        return planned

    @UnloadModel.responder
    def unload_model(self, model: str, node: str | None, now: bool | None) -> Mapping[str, Any]:
        """Begin to unload a model, and return the consequences."""
        model = self._known(model, node)
        wanted = UnloadWanted(model, node, bool(now))
        with refusing():
            summary = unload_summary(model, self._scheduler.unloaded_by(wanted))
        self._change("unload", wanted, node=node, now=now)
        return {"unload": fitted(summary)}

    @ProbeModel.responder
    def probe_model(self, model: str, node: str | None) -> Mapping[str, Any]:
        """Order a probe of a loaded model."""
        model = self._known(model, node)
        if self._prober is None:
            raise Refused("the daemon probes no models")
        with refusing():
            nodes = self._prober.want(model, node)
        self.changed("probe", model=model, nodes=nodes)
        return {"model": model, "nodes": nodes}

    @PinModel.responder
    def pin_model(self, model: str, node: str) -> Mapping[str, Any]:
        """Pin a model to a node."""
        model = self._known(model, node)
        self._change("pin", PinWanted(model, node, pinned=True), node=node)
        return self._unstored()

    @UnpinModel.responder
    def unpin_model(self, model: str, node: str) -> Mapping[str, Any]:
        """Unpin a model from a node. The node need not list the model any more."""
        self._node(node)
        self._change("unpin", PinWanted(self._model(model), node, pinned=False), node=node)
        return self._unstored()

    @CordonNode.responder
    def cordon_node(self, node: str) -> Mapping[str, Any]:
        """Stop new work for a node."""
        self._node(node)
        self._change("cordon", CordonWanted(node, cordoned=True), node=node)
        return self._unstored()

    @UncordonNode.responder
    def uncordon_node(self, node: str) -> Mapping[str, Any]:
        """Resume new work for a node."""
        self._node(node)
        self._change("uncordon", CordonWanted(node, cordoned=False), node=node)
        return self._unstored()

    def _unstored(self) -> Mapping[str, Any]:
        return {"unstored": self._journal.unstored if self._journal is not None else None}

    def _known(self, name: str, node: str | None) -> str:
        """Return the id of a listed model; reject an unknown node, then an unknown model."""
        if node is not None:
            self._node(node)
        model = self._model(name)
        if model not in self._fleet:
            raise UnknownModel(unlisted(self._fleet, model))
        return model

    def _change(
        self,
        command: str,
        wanted: LoadWanted | UnloadWanted | PinWanted | CordonWanted,
        **fields: Any,
    ) -> None:
        with refusing():
            self._dispatcher.dispatch(wanted)
        self.changed(command, model=getattr(wanted, "model", None), **fields)

    # Plans and history.

    @PlanLoad.responder
    def plan_load(self, model: str, node: str | None) -> Mapping[str, Any]:
        """Return the consequences of a load now."""
        model = self._known(model, node)
        with refusing():
            plan = self._scheduler.plan(model, node, self._clock.seconds())
        return {"plan": fitted(plan_summary(self._fleet, plan))}

    @Why.responder
    def why(self, what: str, offset: int) -> Mapping[str, Any]:
        """Return the decisions about a model or a node, or for a request."""
        explanation = explain(self._scheduler, self._model(what), self._clock.seconds())
        if explanation is None:
            raise UnknownModel(
                f"{what!r} is unknown: it is neither a node nor a model of any node nor the id of "
                f"one of the last {REQUESTS_KEPT} requests"
            )
        request = explanation.request
        return {
            "request": fitted(request) if request is not None else None,
            **self._page(explanation.decisions, offset, decision_summary),
        }

    @Events.responder
    def events(self, after: int, limit: int, model: str | None) -> Mapping[str, Any]:
        """Return entries of the journal."""
        if self._journal is None:
            raise Refused("the daemon has no journal: it runs without a state directory")
        model_id = None if model is None else self._model(model)
        entries = self._journal.entries(after, min(limit, MAX_ENTRIES), model_id)
        items, _following = page(Summaries(entries, event_summary), 0)
        return {"items": items, "last": self._journal.last_number}


def event_summary(entry: JournalEntry) -> EventSummary:
    """Return the summary of an entry of the journal."""
    return EventSummary(
        number=entry.number,
        at=entry.at,
        kind=entry.kind,
        node=entry.node,
        model=entry.model,
        fields=dict(entry.fields),
    )


class ControlFactory(Factory):
    """Makes a ControlProtocol for each client, for at most MAX_CONNECTIONS at a time.

    The other arguments are those of ControlProtocol. ``reloading`` is set once there is one: it
    knows all parts, and this factory is one of them. Without ``usage`` ListUsage is rejected, and
    without ``enroller`` all commands that enrol agents. ``notices`` returns lines about the daemon
    itself for ``cortexctl status``. ``agents`` are those that are connected, ``ended`` has the last
    planned restart of each node that is over. ``on_hand_over`` hands over to the process behind a
    connection; it is ``None`` unless the daemon is being restarted.
    """

    noisy = False
    reloading: Reloading | None = None
    notices: Callable[[], list[str]] = list
    usage: UsageReading | None = None
    enroller: Enroller | None = None

    def __init__(
        self,
        dispatcher: Dispatcher,
        journal: Journal | None,
        clock: IReactorTime,
        started_at: float,
        aliases: Mapping[str, str],
        prober: Prober | None = None,
        audit: Audit = unaudited,
        users: Users | None = None,
        keys: KeyKeeper | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._journal = journal
        self._clock = clock
        self._started_at = started_at
        self._aliases = aliases
        self._prober = prober
        self._audit = audit
        self._users = users or Users()
        self._keys = keys
        self._connections: set[ControlProtocol] = set()
        self.agents = Agents()
        self.ended: Mapping[str, RestartEnded] = {}
        self.on_hand_over: Callable[[ControlProtocol, bool], Deferred[dict[str, Any]]] | None = None

    def buildProtocol(self, address: IAddress | None) -> ControlProtocol | None:
        """Return a protocol, or None if there are too many clients, which closes the connection."""
        if len(self._connections) >= MAX_CONNECTIONS:
            log.warning("control_connection_refused", connections=len(self._connections))
            return None
        protocol = ControlProtocol(
            self._dispatcher,
            self._journal,
            self._clock,
            self._started_at,
            self._aliases,
            self._prober,
            self._connections,
            self.reloading,
            self._audit,
            self._users,
            self._keys,
        )
        protocol.factory = self
        return protocol

    def stopFactory(self) -> None:  # noqa: N802 - Twisted calls it by this name
        """Close the connections of all clients."""
        for protocol in list(self._connections):
            protocol.transport.loseConnection()
