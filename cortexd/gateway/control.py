"""Control over HTTP: clients list the models in memory and, where allowed, unload them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from twisted.internet.interfaces import IReactorTime

from cortexd.access.callers import Caller
from cortexd.access.ring import KeyRing
from cortexd.dialects.routes.fleet_status import (
    loaded_model,
    ps_body,
    running_body,
    running_model,
    unloading_body,
)
from cortexd.dispatcher import Dispatcher
from cortexd.errors import Conflict, Forbidden, OperationRefused
from cortexd.fleet.catalogue import Catalogue
from cortexd.fleet.nodes import Node, Replica
from cortexd.fleet.states import ANSWERING_HEALTH, ANSWERING_STATES
from cortexd.scheduling.events import UnloadWanted
from cortexd.slices import in_slices

MODELS_AT_ONCE: Final = 250
"""How many models one turn of the reactor renders, in some 3 ms."""

NOT_ALLOWED: Final = (
    "models cannot be unloaded over HTTP: gateway.allow_http_control is false in the "
    "configuration; use 'cortexctl unload' on the gateway's machine"
)


class GatewayControl:
    """Lists the models in memory, and unloads them where that is allowed. It never loads a model.

    It is where ``is_allowed``, or where ``ring`` requires keys: then a key's scope has decided.
    ``audit`` records each unload, as ``Recorder.audit`` does.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        catalogue: Catalogue,
        clock: IReactorTime,
        ring: KeyRing,
        audit: Callable[..., None],
        *,
        is_allowed: bool,
    ) -> None:
        self._dispatcher = dispatcher
        self._audit = audit
        self._catalogue = catalogue
        self._ring = ring
        self._clock = clock
        self._is_allowed = is_allowed

    def reconfigure(self, *, is_allowed: bool) -> None:
        """Allow or forbid unloads from now on."""
        self._is_allowed = is_allowed

    async def running(self, caller: Caller) -> bytes:
        """Return the body of ``GET /running``."""
        is_there = self._catalogue.sight(caller)
        nodes = list(self._dispatcher.fleet.nodes.values())
        models = (
            running_model(replica) if is_there(replica.model) else None
            for node in nodes
            if _is_seen(node)
            for replica in list(node.replicas.values())
        )
        return running_body(await in_slices(models, self._clock, MODELS_AT_ONCE))

    async def ps(self, caller: Caller) -> bytes:
        """Return the body of ``GET /api/ps``."""
        is_there = self._catalogue.sight(caller)
        fleet, now = self._dispatcher.fleet, self._clock.seconds()
        models = (
            loaded_model(model, filter(_has_seen_node, fleet.replicas(model)), now)
            if is_there(model)
            else None
            for model in fleet.models
        )
        return ps_body(await in_slices(models, self._clock, MODELS_AT_ONCE))

    def check_allowed(self) -> None:
        """Raise Forbidden where clients may not unload models."""
        if not (self._is_allowed or self._ring.is_required):
            raise Forbidden(NOT_ALLOWED)

    def unload(self, model: str, caller: Caller, client: str, request_id: str) -> bytes:
        """Start to unload a model from all nodes, and return the body that lists its replicas.

        The list may be empty: it is no error to unload a model that is not loaded. Raises
        Forbidden, or Conflict where the model must stay. ``caller``, ``client`` (an address) and
        ``request_id`` say in the audit trail who asked for it.
        """
        self.check_allowed()
        unloading: list[Replica] = []
        if any(replica.model == model for replica in self._loaded()):
            wanted = UnloadWanted(model)
            try:
                unloading = self._dispatcher.scheduler.unloaded_by(wanted)
                self._unload(wanted, caller, client, request_id)
            except OperationRefused as error:
                raise Conflict(self._catalogue.concealed(str(error), caller)) from None
        return unloading_body(unloading, {})

    def unload_all(self, caller: Caller, client: str, request_id: str) -> bytes:
        """Start to unload all models that may go; return these, and why each other model stays.

        Models that are not there for the caller stay, and the answer does not have them. Raises
        Forbidden. The arguments are as in ``unload``.
        """
        self.check_allowed()
        unloading: list[Replica] = []
        kept: dict[str, str] = {}
        is_there = self._catalogue.sight(caller)
        for replica in self._loaded():
            if not is_there(replica.model):
                continue
            try:
                wanted = UnloadWanted(replica.model, replica.node.name)
                self._unload(wanted, caller, client, request_id)
            except OperationRefused as error:
                kept[replica.model] = self._catalogue.concealed(str(error), caller)
            else:
                unloading.append(replica)
        return unloading_body(unloading, kept)

    def _unload(self, wanted: UnloadWanted, caller: Caller, client: str, request_id: str) -> None:
        self._dispatcher.dispatch(wanted)
        self._audit(
            actor(caller, client),
            "unload",
            node=wanted.node,
            model=wanted.model,
            logged={"client": client, "request_id": request_id},
        )

    def _loaded(self) -> list[Replica]:
        return [replica for replica in self._replicas() if replica.state in ANSWERING_STATES]

    def _replicas(self) -> Iterator[Replica]:
        for node in self._dispatcher.fleet.nodes.values():
            yield from node.replicas.values()


def actor(caller: Caller, client: str) -> str:
    """Return who sends a request from an address, in words: ``key ops at 10.0.0.7``."""
    return f"key {caller.name} at {client}" if caller.name else f"a client at {client}"


def _is_seen(node: Node) -> bool:
    """Return whether a node answers; our view of other nodes may be stale."""
    return node.health in ANSWERING_HEALTH


def _has_seen_node(replica: Replica) -> bool:
    return _is_seen(replica.node)
