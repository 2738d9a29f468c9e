"""Asks the engine whether it is well, and what its machine has."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred

from cortexd.agent.asking import EngineClient, Unanswered
from cortexd.agent.composing import EngineSeen
from cortexd.agent.engine_control import Health
from cortexd.engines.engine import Engine

HEALTH_SECONDS: Final = 5.0
"""How long an engine may take to answer: one that loads a model may be silent for seconds."""

HARDWARE_SECONDS: Final = 30.0
"""How long it may take to tell its hardware: it asks each accelerator (nodes.md 7.6)."""

AGAIN_SECONDS: Final = 60.0
"""How often its figures are asked where nothing else tells the memory; they are expensive."""


class EngineAnswers:
    """What the engine at ``client`` has answered last: ``seen``."""

    def __init__(self, clock: Any, engine: Engine, client: EngineClient) -> None:
        self.seen = EngineSeen()
        self._clock = clock
        self._engine = engine
        self._client = client
        self._knows_hardware = False
        self._asked_at = float("-inf")

    def forget(self) -> None:
        """Ask for the hardware again: another process answers now."""
        self._knows_hardware = False
        self._asked_at = float("-inf")

    def doubt(self) -> None:
        """Forget that the engine is well: its process has ended since it answered."""
        self.seen = EngineSeen(is_well=False, hardware=self.seen.hardware)

    def look(self) -> Deferred[Health]:
        """Ask for the models, for whoever restarts the engine; see HealthCheck."""
        return Deferred.fromCoroutine(self._listing())

    async def _listing(self) -> Health:
        try:
            observation = await self._client.ask(self._engine.listing(), HEALTH_SECONDS)
        except Unanswered as error:
            return Health(False, None, str(error))
        return Health(True, observation.created)

    async def ask_health(self) -> None:
        """Ask whether the engine is well."""
        was_well = self.seen.is_well
        try:
            await self._client.ask(self._engine.health(), HEALTH_SECONDS)
        except Unanswered as error:
            self.seen = EngineSeen(is_well=False, reason=str(error), hardware=self.seen.hardware)
            return
        if not was_well:
            self.forget()
        self.seen = EngineSeen(is_well=True, hardware=self.seen.hardware)

    async def ask_hardware(self, is_needed: bool) -> None:
        """Ask once per process what the machine has, and often if that ``is_needed``."""
        now = self._clock.seconds()
        if not self.seen.is_well or (self._knows_hardware and not is_needed):
            return
        if now >= self._asked_at + AGAIN_SECONDS:
            await self.ask_hardware_now()

    async def ask_hardware_now(self) -> None:
        """Ask what the machine has now, if the engine tells it; a failure changes nothing."""
        if not self._engine.abilities.tells_memory:
            return
        self._asked_at = self._clock.seconds()
        try:
            hardware = await self._client.ask(self._engine.hardware(), HARDWARE_SECONDS)
        except Unanswered:
            return  # Its health will tell.
        self._knows_hardware = True
        seen = self.seen
        self.seen = EngineSeen(is_well=seen.is_well, reason=seen.reason, hardware=hardware)
