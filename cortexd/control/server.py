"""The daemon's side of control: it answers the commands of ``cortexd.control.contract``.

Whoever may open the socket may ask everything; ``cortexd.control.socket`` says who that is.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols import amp
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure

from cortexd import __version__
from cortexd.control.answers import (
    Summaries,
    decision_summary,
    explain,
    lease_summary,
    model_summary,
    node_summary,
    plan_summary,
    replica_summary,
    unload_summary,
)
from cortexd.control.contract import (
    PROTOCOL,
    ControlCommand,
    CordonNode,
    Events,
    ListLeases,
    ListModels,
    ListNodes,
    ListReplicas,
    LoadModel,
    PinModel,
    PlanLoad,
    Refused,
    UncordonNode,
    UnknownModel,
    UnknownNode,
    UnloadModel,
    UnpinModel,
    Version,
    Why,
    fitted,
    page,
)
from cortexd.control.socket import PeerCredentials, peer_credentials
from cortexd.control.summaries import EventSummary
from cortexd.dispatcher import Dispatcher
from cortexd.errors import OperationRefused
from cortexd.fleet.nodes import Node
from cortexd.logs import get_logger
from cortexd.scheduling.decisions import REQUESTS_KEPT
from cortexd.scheduling.events import CordonWanted, LoadWanted, PinWanted, UnloadWanted
from cortexd.store.journal import JournalEntry

MAX_CONNECTIONS: Final = 64
"""Clients at once: each holds a file descriptor that a request may need."""

IDLE_SECONDS: Final = 60.0
"""How long a client may go without a whole command before its connection is closed."""

MAX_ENTRIES: Final = 200
"""Entries of the journal that are read for one answer: a page of them takes a millisecond."""

Thing = TypeVar("Thing")

log = get_logger("cortexd.control")


class Journal(Protocol):
    """What was done to the fleet, as ``cortexd.store.journal`` keeps it."""

    @property
    def last_number(self) -> int:
        """The number of the newest entry, 0 before the first."""

    def entries(self, after: int, limit: int, model: str | None = None) -> list[JournalEntry]:
        """Return at most ``limit`` entries with numbers above ``after``, the oldest first."""


class ControlProtocol(amp.AMP, TimeoutMixin):
    """Answers one client's commands, and is one of ``connections`` as long as it lasts.

    ``clock`` must be the one that the fleet's times are of; ``started_at`` is in unix seconds.
    ``aliases`` maps what clients call models to their ids, and may be used here as well.
    Without a ``journal`` there are no events to be told.
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
        connections: set[ControlProtocol],
    ) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self._fleet = dispatcher.fleet
        self._scheduler = dispatcher.scheduler
        self._journal = journal
        self._clock = clock
        self._started_at = started_at
        self._aliases = aliases
        self._connections = connections

    def connectionMade(self) -> None:
        """Learn who connected, and read no faster than the client does."""
        super().connectionMade()
        self.peer = peer_credentials(self.transport.getHandle())
        self.transport.registerProducer(self, True)
        self.setTimeout(IDLE_SECONDS)
        self._connections.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget the client."""
        self._connections.discard(self)
        self.setTimeout(None)
        super().connectionLost(reason)

    def callLater(self, delay: float, function: Any) -> Any:
        """Let the timeout be timed by the clock."""
        return self._clock.callLater(delay, function)

    def timeoutConnection(self) -> None:
        """Close the connection now, even if the client has not read its last answer."""
        self.transport.abortConnection()

    def ampBoxReceived(self, box: amp.AmpBox) -> None:  # noqa: N802 - AMP calls it by this name
        """Carry out a command. Any other box ends the connection: nothing was asked of the client.

        Only a whole command counts against the timeout: bytes that never become one are no life.
        """
        self.resetTimeout()
        command = box.get(amp.COMMAND)
        if command is None:
            log.warning("control_box_refused", **self._who())
            self.transport.loseConnection()
            return
        name = command.decode("ascii", "backslashreplace")
        log.debug("control_command", command=name, **self._who())
        super().ampBoxReceived(box)

    def _who(self) -> dict[str, int]:
        return {"peer_pid": self.peer.pid, "peer_uid": self.peer.uid, "peer_gid": self.peer.gid}

    @Version.responder
    def version(self) -> Mapping[str, Any]:
        """Say which daemon this is."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": self._started_at,
            "protocol": PROTOCOL,
        }

    # What there is.

    @ListNodes.responder
    def list_nodes(self, offset: int, node: str | None) -> Mapping[str, Any]:
        """Return a page of nodes; UnknownNode if there is no such node."""
        nodes = list(self._fleet.nodes.values()) if node is None else [self._node(node)]
        return self._page(nodes, offset, partial(node_summary, self._scheduler))

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
        return self._page(self._fleet.models, offset, partial(model_summary, self._scheduler))

    def _page(
        self, things: Sequence[Thing], offset: int, summarize: Callable[[Thing, float], Any]
    ) -> Mapping[str, Any]:
        now = self._clock.seconds()
        items, following = page(Summaries(things, lambda thing: summarize(thing, now)), offset)
        return {"items": items, "next": following}

    def _node(self, name: str) -> Node:
        node = self._fleet.nodes.get(name)
        if node is None:
            raise UnknownNode(
                f"no node is called {name!r}; there are {', '.join(self._fleet.nodes)}"
            )
        return node

    def _model(self, name: str) -> str:
        """Return the id that a name stands for: an id comes before an alias, as for clients."""
        return name if name in self._fleet else self._aliases.get(name, name)

    # What may be changed.

    @LoadModel.responder
    def load_model(self, model: str, node: str | None) -> Mapping[str, Any]:
        """Begin to load a model, and tell what that does."""
        planned = self.plan_load(model, node)
        self._change(LoadModel, LoadWanted(self._model(model), node))
        return planned

    @UnloadModel.responder
    def unload_model(self, model: str, node: str | None, now: bool | None) -> Mapping[str, Any]:
        """Begin to unload a model, and tell what that does."""
        model = self._known(model, node)
        wanted = UnloadWanted(model, node, bool(now))
        with _refusing():
            summary = unload_summary(model, self._scheduler.unloaded_by(wanted))
        self._change(UnloadModel, wanted)
        return {"unload": fitted(summary)}

    @PinModel.responder
    def pin_model(self, model: str, node: str) -> Mapping[str, Any]:
        """Keep a model on a node."""
        model = self._known(model, node)
        self._change(PinModel, PinWanted(model, node, pinned=True))
        return {}

    @UnpinModel.responder
    def unpin_model(self, model: str, node: str) -> Mapping[str, Any]:
        """Keep a model on a node no longer. No node need list it any more."""
        self._node(node)
        self._change(UnpinModel, PinWanted(self._model(model), node, pinned=False))
        return {}

    @CordonNode.responder
    def cordon_node(self, node: str) -> Mapping[str, Any]:
        """Give a node no more work."""
        self._node(node)
        self._change(CordonNode, CordonWanted(node, cordoned=True))
        return {}

    @UncordonNode.responder
    def uncordon_node(self, node: str) -> Mapping[str, Any]:
        """Give a node work again."""
        self._node(node)
        self._change(UncordonNode, CordonWanted(node, cordoned=False))
        return {}

    def _known(self, name: str, node: str | None) -> str:
        """Return the id of a model that is listed; refuse what is not known, the node first."""
        if node is not None:
            self._node(node)
        model = self._model(name)
        if model not in self._fleet:
            raise UnknownModel(f"no node lists a model {model!r}")
        return model

    def _change(
        self,
        command: type[ControlCommand],
        wanted: LoadWanted | UnloadWanted | PinWanted | CordonWanted,
    ) -> None:
        with _refusing():
            self._dispatcher.dispatch(wanted)
        log.info(
            "control_change",
            command=command.commandName.decode(),
            **dataclasses.asdict(wanted),
            **self._who(),
        )

    # What would be, and what was.

    @PlanLoad.responder
    def plan_load(self, model: str, node: str | None) -> Mapping[str, Any]:
        """Tell what a load would do now."""
        model = self._known(model, node)
        with _refusing():
            plan = self._scheduler.plan(model, node, self._clock.seconds())
        return {"plan": fitted(plan_summary(self._fleet, plan))}

    @Why.responder
    def why(self, what: str, offset: int) -> Mapping[str, Any]:
        """Tell what was decided about a model or for a request."""
        explanation = explain(self._scheduler, self._model(what), self._clock.seconds())
        if explanation is None:
            raise UnknownModel(
                f"nothing is known of {what!r}: no node lists such a model, and it is none of the "
                f"last {REQUESTS_KEPT} requests"
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
            raise Refused("the daemon keeps no journal: it runs without a place for its state")
        meant = None if model is None else self._model(model)
        entries = self._journal.entries(after, min(limit, MAX_ENTRIES), meant)
        items, _following = page(Summaries(entries, event_summary), 0)
        return {"items": items, "last": self._journal.last_number}


@contextmanager
def _refusing() -> Iterator[None]:
    """Tell the client of what the scheduler refuses."""
    try:
        yield
    except OperationRefused as error:
        raise Refused(str(error)) from error


def event_summary(entry: JournalEntry) -> EventSummary:
    """Return what control tells of an entry of the journal."""
    return EventSummary(
        number=entry.number,
        at=entry.at,
        kind=entry.kind,
        node=entry.node,
        model=entry.model,
        fields=dict(entry.fields),
    )


class ControlFactory(Factory):
    """Gives each client a ControlProtocol, MAX_CONNECTIONS at most.

    The other arguments are ControlProtocol's.
    """

    noisy = False

    def __init__(
        self,
        dispatcher: Dispatcher,
        journal: Journal | None,
        clock: IReactorTime,
        started_at: float,
        aliases: Mapping[str, str],
    ) -> None:
        self._dispatcher = dispatcher
        self._journal = journal
        self._clock = clock
        self._started_at = started_at
        self._aliases = aliases
        self._connections: set[ControlProtocol] = set()

    def buildProtocol(self, address: IAddress | None) -> ControlProtocol | None:
        """Return a protocol, or None, which closes the connection, if there are too many."""
        if len(self._connections) >= MAX_CONNECTIONS:
            log.warning("control_connection_refused", connections=len(self._connections))
            return None
        return ControlProtocol(
            self._dispatcher,
            self._journal,
            self._clock,
            self._started_at,
            self._aliases,
            self._connections,
        )

    def stopFactory(self) -> None:  # noqa: N802 - Twisted calls it by this name
        """Close the connections of clients that are still there."""
        for protocol in list(self._connections):
            protocol.transport.loseConnection()
