"""A gateway in memory whose clients have a key with limits."""

from __future__ import annotations

from typing import Any

from cortexd.access.keys import KeyLimits
from cortexd.metering.meters import Metered
from tests.access.making import Given, given
from tests.support.conversations import ConversationTestCase
from tests.support.fleets import InMemoryFleet

NAME = "alice"


class KeyedTestCase(ConversationTestCase):
    """Has fleets with a state directory, all of whose clients send the ``key`` of the moment."""

    key: Given

    def keyed(self, *nodes: Any, limits: KeyLimits, **settings: Any) -> InMemoryFleet:
        """Make a fleet that requires a key, and let clients have one of NAME."""
        fleet = self.fleet(*nodes, state_dir=str(self.state_dir), **settings)
        request = fleet.request

        def with_key(*arguments: Any, headers: Any = None, **options: Any) -> Any:
            sent = {**self.key.bearer, **(headers or {})}
            return request(*arguments, headers=sent, **options)

        self.patch(fleet, "request", with_key)
        self.limit(fleet, limits)
        return fleet

    def limit(self, fleet: InMemoryFleet, limits: KeyLimits, name: str = NAME) -> None:
        """Let there be one key, with these limits, as after a reload."""
        self.key = given(name, limits=limits)
        fleet.parts.ring.take([self.key.key])


def metered(fleet: InMemoryFleet, name: str = NAME) -> Metered:
    """Return what is known of a key."""
    (found,) = (each for each in fleet.parts.meters.all if each.name == name)
    return found
