"""Loads and unloads that an agent's readings verify, in place of the slow reports of the node."""

from typing import Any

from cortexd.scheduling.events import LoadDone, UnloadDone, UnloadFailed
from cortexd.testing import SimulatedModel, SimulatedNode
from cortexd.upstream.verifying import (
    AGENT_AGAIN_SECONDS,
    AGENT_LOOKS,
    AGENT_SECONDS,
    LATE_SECONDS,
    LEVEL_LOOKS_UNMEASURED,
    WATCH_SECONDS,
)
from tests.doubles.agents import SimulatedAgent
from tests.support.fleets import MODEL, InMemoryFleet
from tests.support.lifecycles import (
    COLD,
    COLD_MB,
    LOAD_SECONDS,
    SYSTEM,
    UNLOAD,
    LifecycleTestCase,
    cold,
)


class AgentMemoryTestCase(LifecycleTestCase):
    def begun(
        self, node: SimulatedNode, *, vram_mb: int | None = 1_000, **knobs: Any
    ) -> tuple[InMemoryFleet, SimulatedAgent]:
        """Return a fleet with an agent beside its node, and with a measured footprint of MODEL.

        ``vram_mb`` is None where no load of it was measured.
        """
        fleet = self.fleet_of(node)
        if vram_mb is not None:
            fleet.fleet.footprints.learn("a", MODEL, 1.0, vram_mb)
        agent = self.agent(fleet, **knobs)
        return fleet, agent

    def reports(self, node: SimulatedNode) -> int:
        """Return how often the node was asked for its own report, which is slow."""
        return len(node.journal.requests(SYSTEM))


class UnloadTests(AgentMemoryTestCase):
    def test_the_node_is_not_asked(self) -> None:
        """An unload is verified without one request for the node's own report."""
        node = self.node("a")
        node.faults.free_delay_seconds = 4.0
        fleet, agent = self.begun(node)
        asked_before = self.reports(node)
        self.unload(fleet)
        fleet.advance(3.9)
        assert [] == self.ends
        fleet.advance(0.1 + WATCH_SECONDS / AGENT_LOOKS)

        assert [UnloadDone("a", MODEL)] == self.ends
        assert (asked_before, True) == (self.reports(node), len(agent.questions) > 8)
        assert 0 == fleet.fleet.nodes["a"].committed_mb

    def test_a_node_that_is_slow_to_report(self) -> None:
        """An unload ends as soon as the memory is there, however slow the node's own report is."""
        node = self.node("a")
        node.faults.free_delay_seconds = 1.0
        fleet, _ = self.begun(node)
        node.faults.hang_routes = {SYSTEM}
        self.unload(fleet)
        fleet.advance(1 + WATCH_SECONDS / AGENT_LOOKS)

        assert [UnloadDone("a", MODEL)] == self.ends

    def test_leak(self) -> None:
        """What the agent misses of the footprint has leaked."""
        node = self.node("a")
        node.faults.leak_mb_per_unload = 400
        fleet, _ = self.begun(node)
        self.unload(fleet)
        fleet.advance(LATE_SECONDS + WATCH_SECONDS)

        assert [UnloadDone("a", MODEL, 400)] == self.ends
        assert 400 == fleet.fleet.nodes["a"].committed_mb

    def test_another_program(self) -> None:
        """Memory that another program takes meanwhile is not taken for a leak."""
        node = self.node("a")
        fleet, _ = self.begun(node)
        node.faults.free_delay_seconds = 2.0
        self.unload(fleet)
        node.faults.others_mb = 5_000
        fleet.advance(2 + WATCH_SECONDS)

        assert [UnloadDone("a", MODEL)] == self.ends
        ada = fleet.fleet.nodes["a"]
        assert (0, 0, 5_000) == (ada.leaked_mb, ada.missing_mb, ada.others_mb)

    def test_without_a_measure(self) -> None:
        """A rise counts as over after the same time as without an agent."""
        node = self.node("a")
        node.faults.free_delay_seconds, node.faults.free_steps = 6.0, 6
        fleet, _ = self.begun(node, vram_mb=None)
        self.unload(fleet)
        fleet.advance(6)
        assert [] == self.ends
        fleet.advance((LEVEL_LOOKS_UNMEASURED + 1) * WATCH_SECONDS)
        assert [UnloadDone("a", MODEL)] == self.ends

    def test_version(self) -> None:
        """An agent that knows the engine's version saves the question for it."""
        node = self.node("a", MODEL, "acme/other", version="0.9.0")
        fleet, _ = self.begun(node)
        asked_before = self.reports(node)
        self.unload(fleet)

        self.assert_refused(node)
        assert asked_before == self.reports(node)

    def test_version_that_only_the_node_knows(self) -> None:
        """The node says its version before an unload could do harm."""
        node = self.node("a", MODEL, "acme/other", version="0.9.0")
        node.faults.hang_routes = {SYSTEM}
        fleet, _ = self.begun(node, version="")
        fleet.advance(20)
        node.faults.hang_routes = set()
        self.unload(fleet)

        self.assert_refused(node)

    def assert_refused(self, node: SimulatedNode) -> None:
        (end,) = self.ends
        assert isinstance(end, UnloadFailed)
        assert "mistral.rs 0.9.0 loses a model" in end.reason
        assert [] == node.journal.requests(UNLOAD)


class FallbackTests(AgentMemoryTestCase):
    def test_an_agent_that_leaves(self) -> None:
        """An unload goes on with the node's own reports, and books no leak that it cannot know."""
        node = self.node("a")
        node.faults.free_delay_seconds = 4.0
        fleet, agent = self.begun(node)
        self.unload(fleet)
        fleet.advance(1)
        agent.leave()
        fleet.advance(10)

        assert [UnloadDone("a", MODEL)] == self.ends

    def test_an_agent_that_does_not_answer(self) -> None:
        """It is waited for once, then the node is asked; it has another try later."""
        node = self.node("a", MODEL, "acme/other")
        fleet, agent = self.begun(node, answer_seconds=60.0)
        self.unload(fleet)
        fleet.advance(AGENT_SECONDS)
        assert [] != node.journal.requests(SYSTEM)
        fleet.advance(5)
        assert [UnloadDone("a", MODEL)] == self.ends
        assert 1 == len(agent.questions)
        assert 1 == len(fleet.events("agent_memory_failed"))

        agent.answer_seconds = 0.0
        fleet.advance(AGENT_AGAIN_SECONDS)
        self.unload(fleet, "acme/other")
        fleet.advance(5)
        assert 2 == len(self.ends)
        assert len(agent.questions) > 1

    def test_an_agent_without_memory(self) -> None:
        """Where reports have no amounts, all is as without an agent."""
        node = self.node("a")
        fleet, agent = self.begun(node, tells_memory=False)
        self.unload(fleet)
        fleet.advance(5)

        assert [UnloadDone("a", MODEL)] == self.ends
        assert [] == agent.questions
        assert [] != node.journal.requests(SYSTEM)

    def test_an_operation_that_is_given_up(self) -> None:
        """A question to the agent ends with the operation."""
        node = self.node("a")
        fleet, _ = self.begun(node, answer_seconds=4.0)
        self.unload(fleet)
        fleet.lifecycle.stopService()
        fleet.advance(5)

        assert [] == self.ends
        assert [] == node.journal.requests(UNLOAD)
        assert [] == self.flushLoggedErrors()


class LoadTests(AgentMemoryTestCase):
    def test_footprint(self) -> None:
        """A footprint is learned from the agent's readings, without the node's own report."""
        node = self.node("a", MODEL, cold())
        fleet, agent = self.begun(node)
        asked_before = self.reports(node)
        self.load(fleet)
        fleet.advance(LOAD_SECONDS)

        assert [LoadDone("a", COLD, LOAD_SECONDS, COLD_MB)] == self.ends
        assert (asked_before, 2) == (self.reports(node), len(agent.questions))

    def test_another_program(self) -> None:
        """What another program takes during the load is not part of the footprint."""
        node = self.node("a", MODEL, cold())
        fleet, _ = self.begun(node)
        self.load(fleet)
        fleet.advance(10)
        node.faults.others_mb = 3_000
        fleet.advance(LOAD_SECONDS - 10)

        assert [LoadDone("a", COLD, LOAD_SECONDS, COLD_MB)] == self.ends

    def test_the_agent_leaves(self) -> None:
        """A footprint is not measured in two ways."""
        node = self.node("a", MODEL, cold())
        fleet, agent = self.begun(node)
        node.faults.others_mb = 3_000
        fleet.advance(1)
        self.load(fleet)
        fleet.advance(10)
        agent.leave()
        fleet.advance(LOAD_SECONDS - 10)

        assert [LoadDone("a", COLD, LOAD_SECONDS, None)] == self.ends

    def test_without_accelerators(self) -> None:
        """Where the memory is the machine's, what its other programs take does not count."""
        node = self.node("a", MODEL, SimulatedModel(id=COLD, loaded=False, size_mb=COLD_MB))
        fleet, _ = self.begun(node, has_gpu=False)
        node.faults.others_mb = 3_000
        fleet.advance(1)
        assert 0 == fleet.fleet.nodes["a"].others_mb
        self.load(fleet)

        assert [LoadDone("a", COLD, 0.0, COLD_MB)] == self.ends
