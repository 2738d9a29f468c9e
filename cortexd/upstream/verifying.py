"""Measures loads and unloads by a node's free memory, and waits until that has settled.

Free memory lags: the engine ends some time after the node answers the unload, and frees its memory
in pieces or not at all (nodes.md 2.5.4, 2.6). A node's agent reads it at once, without the engine.
Without an agent, or while it does not tell, the node itself must report it, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from cortexd.errors import CortexError
from cortexd.fleet.agents import AgentReport
from cortexd.fleet.nodes import Node
from cortexd.fleet.states import SystemInfo
from cortexd.link.connected import Agent, AgentFailed, AgentGone, Agents
from cortexd.logs import get_logger
from cortexd.upstream.client import NodeClient

SYSTEM_SECONDS: Final = 15.0
"""How long a node may take to report its memory: it runs nvidia-smi for each card
(nodes.md 7.6)."""

AGENT_SECONDS: Final = 5.0
"""How long an agent may take to read the memory of its node."""

AGENT_AGAIN_SECONDS: Final = 30.0
"""How long an agent that has failed to read it is not asked again."""

WATCH_SECONDS: Final = 0.5
"""Seconds between two polls while we wait for foreign requests, foreign loads or free memory."""

AGENT_LOOKS: Final = 2
"""How many times as often an agent is asked for free memory: it answers at once."""

MEMORY_SECONDS: Final = 30.0
"""How long a node may take to free all memory; an A100 took 1.5 s at most in other projects."""

LATE_SECONDS: Final = 5.0
"""How long free memory may take to start rising: the engine ends after the node's answer
(nodes.md 2.5.4)."""

LEVEL_LOOKS: Final = 4
"""Consecutive polls without more free memory after which we assume that it has stopped rising."""

LEVEL_LOOKS_UNMEASURED: Final = 2
"""The same for a model with an unknown footprint; the next load checks free memory again."""

TOLERATED_LEAK_MB: Final = 64
TOLERATED_LEAK_SHARE: Final = 0.02
"""Missing memory up to the larger of the two is no leak: other processes use memory too."""

log = get_logger("cortexd.verifying")


def pause(clock: IReactorTime) -> Deferred[None]:
    """Return a Deferred that fires when the next poll is due."""
    return deferLater(clock, WATCH_SECONDS)


@dataclass(frozen=True, slots=True)
class Reading:
    """A node's memory at one moment, from its agent or from the node itself."""

    system: SystemInfo
    by_agent: bool

    @property
    def free_mb(self) -> int | None:
        """The free MiB, ``None`` where they are not told."""
        return self.system.memory_free_mb


def freed_mb(before: Reading | None, after: Reading | None) -> int | None:
    """Return how many MiB the engine has freed from one reading to the next.

    What other programs have taken or freed meanwhile does not count where it is told. The result is
    below 0 if the engine has taken more, and ``None`` where that cannot be read in one way at both
    times.
    """
    if before is None or after is None or before.by_agent is not after.by_agent:
        return None
    if before.free_mb is None or after.free_mb is None:
        return None
    others_mb = after.system.others_mb - before.system.others_mb
    return after.free_mb - before.free_mb + others_mb


class NodeMemory:
    """Reads the memory of ``nodes``: by the agent where there is one, otherwise by the node."""

    def __init__(self, nodes: Mapping[str, Node], agents: Agents, clock: IReactorTime) -> None:
        self._nodes = nodes
        self._agents = agents
        self._clock = clock
        self._failed: dict[str, tuple[Agent, float]] = {}

    def agent(self, name: str) -> Agent | None:
        """Return the agent of a node if it can tell the node's memory."""
        agent, node = self._agents.on(name), self._nodes.get(name)
        if agent is None or node is None or node.report is None or node.report.system is None:
            return None
        failed, until = self._failed.get(name, (None, 0.0))
        if failed is agent and self._clock.seconds() < until:
            return None
        return agent

    async def read(self, client: NodeClient) -> Reading | None:
        """Return a node's memory now, ``None`` where neither agent nor node tells it."""
        agent = self.agent(client.name)
        if agent is not None:
            report = await self.ask(agent)
            if report is not None and report.system is not None:
                return Reading(report.system, by_agent=True)
        if not client.engine.abilities.tells_memory:
            return None
        try:
            return Reading(await client.system_info(SYSTEM_SECONDS), by_agent=False)
        except CortexError as error:
            log.info("system_info_failed", node=client.name, reason=error.message)
            return None

    async def ask(self, agent: Agent) -> AgentReport | None:
        """Return what an agent sees now, ``None`` where it does not say so in time."""
        try:
            return await agent.read_memory(AGENT_SECONDS)
        except (AgentGone, AgentFailed) as error:
            log.info("agent_memory_failed", node=agent.node, reason=str(error))
            self._failed[agent.node] = agent, self._clock.seconds() + AGENT_AGAIN_SECONDS
            return None

    async def version(self, client: NodeClient, reading: Reading | None) -> str:
        """Return the version of a node's engine, empty where nobody tells it.

        Agents need not know it. Then the node itself says it, once.
        """
        if reading is None or reading.system.version:
            return reading.system.version if reading is not None else ""
        known = self._nodes[client.name].system
        if known is not None and known.version:
            return known.version
        if not client.engine.abilities.tells_memory:
            return ""
        try:
            return (await client.system_info(SYSTEM_SECONDS)).version
        except CortexError as error:
            log.info("system_info_failed", node=client.name, reason=error.message)
            return ""

    async def await_room(self, client: NodeClient, footprint_mb: int | None) -> Reading | None:
        """Return the memory once the footprint fits, or once free memory has stopped rising.

        An unload that an earlier daemon started may still be freeing memory. Returns ``None`` where
        free memory cannot be read, and returns at once where the footprint is unknown.
        """
        best = 0
        began_at = risen_at = self._clock.seconds()
        while True:
            reading = await self.read(client)
            free = reading.free_mb if reading is not None else None
            if reading is None or free is None:
                return None
            now = self._clock.seconds()
            if footprint_mb is None or free >= footprint_mb:
                return reading
            if free > best:
                best, risen_at = free, now
            if now - risen_at >= LATE_SECONDS or now - began_at >= MEMORY_SECONDS:
                return reading
            await self._pause(reading)

    async def await_memory(
        self, client: NodeClient, before: Reading | None, measured_mb: int | None
    ) -> tuple[int | None, SystemInfo | None]:
        """Return the MiB that an unload freed, and the last report.

        Waits until all of the model's ``measured_mb`` are free, or until free memory has stopped
        rising. ``before`` is the memory before the unload. Both results are ``None`` where free
        memory cannot be read.
        """
        if before is None or before.free_mb is None:
            return None, None
        began_at = self._clock.seconds()
        returned, level = 0, 0
        while True:
            reading = await self.read(client)
            freed = freed_mb(before, reading)
            if reading is None or freed is None:
                return None, None
            if freed > returned:
                returned, level = freed, 0
            else:
                level += 1
            is_back = measured_mb is not None and not leaked_mb(returned, measured_mb)
            waited = self._clock.seconds() - began_at
            may_be_late = waited < LATE_SECONDS and (measured_mb is not None or not returned)
            looks = LEVEL_LOOKS_UNMEASURED if measured_mb is None else LEVEL_LOOKS
            is_level = level >= looks * (AGENT_LOOKS if reading.by_agent else 1)
            if is_back or (is_level and not may_be_late) or waited >= MEMORY_SECONDS:
                return returned, reading.system
            await self._pause(reading)

    def _pause(self, reading: Reading) -> Deferred[None]:
        """Return a Deferred that fires when the next look is due."""
        looks = AGENT_LOOKS if reading.by_agent else 1
        return deferLater(self._clock, WATCH_SECONDS / looks)


def leaked_mb(returned_mb: int | None, measured_mb: int | None) -> int:
    """Return the measured MiB that an unload did not free; 0 if tolerated or unknown."""
    if returned_mb is None or measured_mb is None:
        return 0
    missing = measured_mb - returned_mb
    tolerated = max(TOLERATED_LEAK_MB, measured_mb * TOLERATED_LEAK_SHARE)
    return missing if missing > tolerated else 0
