"""The daemon's side of the commands about keys."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from cortexd.access.keys import Key
from cortexd.control.answers import Summaries
from cortexd.control.auditing import AuditedControl
from cortexd.control.contract import (
    AddKey,
    ListKeys,
    Refused,
    RevokeKey,
    RotateKey,
    fitted,
    page,
)
from cortexd.control.summaries import KeySummary
from cortexd.errors import OperationRefused
from cortexd.store.key_keeper import KeyKeeper, unknown

Result = TypeVar("Result")


class KeysControl(AuditedControl):
    """The part of a ControlProtocol that answers these commands.

    Without ``keys`` every one of them is rejected. The text of a key goes to the client that
    ordered it, once, and nowhere else.
    """

    keys: KeyKeeper | None = None

    @ListKeys.responder
    def list_keys(self, offset: int, name: str | None) -> Mapping[str, Any]:
        """Return a page of keys, or one key."""
        keeper = self._keeper()
        try:
            keeper.check()
            known = keeper.ring.keys
            if name is not None and name not in known:
                raise unknown(name, list(known))
        except OperationRefused as error:
            raise Refused(str(error)) from None
        found = list(known.values()) if name is None else [known[name]]
        items, following = page(Summaries(found, key_summary), offset)
        return {"items": items, "next": following}

    @AddKey.responder
    def add_key(self, key: dict[str, object]) -> Deferred[Mapping[str, Any]]:
        """Add a key, and return it with its text."""
        return Deferred.fromCoroutine(self._add(key))

    async def _add(self, values: Mapping[str, object]) -> Mapping[str, Any]:
        added, text = await _unless_refused(self._keeper().add(values))
        self.changed("key add", key=added.name, scopes=sorted(added.scopes))
        return {"key": fitted(key_summary(added)), "text": text}

    @RotateKey.responder
    def rotate_key(self, name: str, keep_old: float | None) -> Deferred[Mapping[str, Any]]:
        """Give a key another text, and return it with that."""
        return Deferred.fromCoroutine(self._rotate(name, keep_old or 0.0))

    async def _rotate(self, name: str, keep_old: float) -> Mapping[str, Any]:
        rotated, text = await _unless_refused(self._keeper().rotate(name, keep_old))
        self.changed("key rotate", key=name, keep_old_seconds=keep_old or None)
        return {"key": fitted(key_summary(rotated)), "text": text}

    @RevokeKey.responder
    def revoke_key(self, name: str) -> Deferred[Mapping[str, Any]]:
        """Remove a key."""
        return Deferred.fromCoroutine(self._revoke(name))

    async def _revoke(self, name: str) -> Mapping[str, Any]:
        await _unless_refused(self._keeper().revoke(name))
        self.changed("key revoke", key=name)
        return {}

    def _keeper(self) -> KeyKeeper:
        if self.keys is None:
            raise Refused("the daemon cannot change keys")
        return self.keys


async def _unless_refused(result: Awaitable[Result]) -> Result:
    try:
        return await result
    except OperationRefused as error:
        raise Refused(str(error)) from None


def key_summary(key: Key) -> KeySummary:
    """Return the summary of a key: everything but its ids and hashes."""
    limits = key.limits
    return KeySummary(
        name=key.name,
        scopes=[scope.value for scope in sorted(key.scopes)],
        models=list(key.models),
        priority=key.priority.name.lower(),
        weight=key.weight,
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        max_concurrency=limits.max_concurrency,
        token_budget=limits.token_budget,
        budget_hours=limits.budget_hours,
        expires=key.expires,
        former_until=key.former_until,
    )
