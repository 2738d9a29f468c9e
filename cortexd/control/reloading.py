"""The daemon's side of the commands that reload the configuration."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from cortexd.config.changes import ConfigChange
from cortexd.control.auditing import AuditedControl
from cortexd.control.contract import ListReloaded, PlanReload, Refused, Reload, page
from cortexd.control.summaries import ChangeSummary
from cortexd.errors import OperationRefused


class Reloading(Protocol):
    """Reloads the configuration, as ``cortexd.service.reloading`` does."""

    def reload(self) -> Deferred[Sequence[ConfigChange]]:
        """Reload it; the Deferred fires with what has changed, or fails with OperationRefused."""

    async def plan(self) -> Sequence[ConfigChange]:
        """Return what a reload would change now. Raises OperationRefused."""


class ReloadControl(AuditedControl):
    """The part of a ControlProtocol that answers these commands.

    Without ``reloading`` every one of them is rejected.
    """

    reloading: Reloading | None = None
    _reloaded: Sequence[ConfigChange] = ()

    @Reload.responder
    def reload(self) -> Deferred[Mapping[str, Any]]:
        """Reload the configuration, and return the first page of what has changed."""
        return Deferred.fromCoroutine(self._reload())

    async def _reload(self) -> Mapping[str, Any]:
        try:
            self._reloaded = await _unless_refused(self._reloading().reload())
        except Refused as error:
            self.changed("reload", refused=str(error))
            raise
        self.changed("reload", changes=len(self._reloaded))
        return _page(self._reloaded, 0)

    @ListReloaded.responder
    def list_reloaded(self, offset: int) -> Mapping[str, Any]:
        """Return a page of what the latest reload of this client has changed."""
        return _page(self._reloaded, offset)

    @PlanReload.responder
    def plan_reload(self, offset: int) -> Deferred[Mapping[str, Any]]:
        """Return a page of what a reload would change."""
        return Deferred.fromCoroutine(self._plan(offset))

    async def _plan(self, offset: int) -> Mapping[str, Any]:
        return _page(await _unless_refused(self._reloading().plan()), offset)

    def _reloading(self) -> Reloading:
        if self.reloading is None:
            raise Refused("the daemon cannot reload its configuration")
        return self.reloading


async def _unless_refused(found: Awaitable[Sequence[ConfigChange]]) -> Sequence[ConfigChange]:
    try:
        return await found
    except OperationRefused as error:
        raise Refused(str(error)) from None


def _page(found: Sequence[ConfigChange], offset: int) -> Mapping[str, Any]:
    changes = [
        ChangeSummary(key=each.key, words=each.words, at_restart=each.at_restart) for each in found
    ]
    items, following = page(changes, offset)
    return {"items": items, "next": following}
