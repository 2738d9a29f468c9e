import tempfile
from typing import Any

from cortexd.assembly import assemble
from cortexd.dialects.probing.conversations import PATH
from cortexd.errors import OperationRefused
from cortexd.parts import Parts
from cortexd.scheduling.events import CordonWanted, UnloadWanted
from cortexd.store.journal import KnownAbilities
from cortexd.testing import SimulatedModel, SimulatedNode
from cortexd.upstream.prober import LOOK_SECONDS, QUESTION_SECONDS, RETRY_SECONDS
from tests.support.fleets import MODEL, FleetTestCase, InMemoryFleet

OTHER = "acme/other"
A_WHILE = 30.0
"""Seconds in which a probe of a node that answers at once has ended."""


class ProberTestCase(FleetTestCase):
    """Nodes before a gateway that probes their models."""

    def probing(self, *nodes: Any, **keys: Any) -> InMemoryFleet:
        """Make a fleet that probes, polled once."""
        return self.fleet(*nodes, **{"probe": True, **keys})

    def asked(self, node: SimulatedNode) -> int:
        """Return how many chats a node has got."""
        return len(node.journal.requests(PATH))

    def state_dir(self) -> str:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        return directory.name

    def state(self, fleet: InMemoryFleet, model: str = MODEL) -> str:
        (found,) = fleet.prober.states(model)
        return found.state

    def began(self, fleet: InMemoryFleet, node: SimulatedNode) -> int:
        """Begin a probe, and return how many questions were asked so far: some, but not all."""
        node.faults.slow_seconds = 1.0
        fleet.advance(LOOK_SECONDS + 2.5)
        asked = self.asked(node)
        assert 1 < asked < 8
        return asked


class CourseTests(ProberTestCase):
    def test_once(self) -> None:
        """A model that is found loaded is probed once, and its profile has what was found."""
        node = self.node()
        fleet = self.probing(node)
        assert ("unknown", 0) == (self.state(fleet), self.asked(node))
        assert fleet.parts.profiles.of("a", MODEL).alternate
        fleet.advance(A_WHILE)

        asked = self.asked(node)
        assert 12 <= asked <= 25
        (line,) = fleet.events("probed")
        assert (MODEL, "a", False) == (line["model"], line["node"], line["by_order"])
        assert "known" == self.state(fleet)
        assert not fleet.parts.profiles.of("a", MODEL).alternate
        fleet.advance(4_000)
        assert asked == self.asked(node)

    def test_after_a_load(self) -> None:
        """A model that nobody has loaded is not probed, and no probe loads it."""
        node = self.node("a", SimulatedModel(id=MODEL, loaded=False))
        fleet = self.probing(node)
        fleet.advance(A_WHILE)
        assert (0, ()) == (self.asked(node), node.loaded_models)

        assert 200 == fleet.chat().status
        fleet.advance(A_WHILE)
        assert self.asked(node) > 12
        assert "known" == self.state(fleet)

    def test_no_metrics(self) -> None:
        """A probe is one line of the log, and in no metric of clients' requests."""
        fleet = self.probing(self.node())
        fleet.advance(A_WHILE)

        assert 1 == len(fleet.events("probed"))
        for name in ("cortex_requests_in_flight", "cortex_queue_wait_seconds"):
            assert f'{name}{{model="{MODEL}"' not in fleet.metrics_text(), name
        assert f'cortex_requests_total{{model="{MODEL}"' not in fleet.metrics_text()

    def test_switched_off(self) -> None:
        """With probe = false a node gets no question but by an operator's order."""
        node = self.node()
        fleet = self.fleet(node, probe=False)
        fleet.prober.startService()
        fleet.advance(A_WHILE)
        assert 0 == self.asked(node)

        assert ["a"] == fleet.prober.want(MODEL)
        assert "wanted" == self.state(fleet)
        fleet.advance(A_WHILE)
        assert ("known", True) == (self.state(fleet), fleet.events("probed")[0]["by_order"])

    def test_stop(self) -> None:
        """A stop cancels the question under way, and leaves no lease and no timer."""
        node = self.node()
        fleet = self.probing(node)
        self.began(fleet, node)
        fleet.prober.stopService()

        assert () == fleet.fleet.leases


class GivingWayTests(ProberTestCase):
    def test_request_meanwhile(self) -> None:
        """A request waits for no more than one question, and the probe goes on after it."""
        node = self.node("a", token_seconds=0.1)
        fleet = self.probing(node, models={MODEL: {"max_concurrency": 1}})
        asked = self.began(fleet, node)
        client = fleet.stream("a word " * 40)
        fleet.advance(1.5)

        assert 200 == client.status
        assert asked + 1 == self.asked(node)  # one is the client's own
        fleet.leave(client)
        node.faults.slow_seconds = 0.0
        fleet.advance(A_WHILE)
        assert self.asked(node) > asked + 5
        (line,) = fleet.events("probed")
        assert "yes" == line["system_role"]

    def test_cordon(self) -> None:
        """A node that gets no new work gets no new question."""
        node = self.node()
        fleet = self.probing(node)
        asked = self.began(fleet, node)
        fleet.dispatcher.dispatch(CordonWanted("a", cordoned=True))
        fleet.advance(A_WHILE)

        assert self.asked(node) <= asked + 1
        assert "unknown" == self.state(fleet)

    def test_unload(self) -> None:
        """An unload waits for one question, and no later one loads the model again."""
        node = self.node()
        fleet = self.probing(node)
        asked = self.began(fleet, node)
        fleet.dispatcher.dispatch(UnloadWanted(MODEL))
        node.faults.slow_seconds = 0.0
        fleet.advance(A_WHILE)

        assert self.asked(node) <= asked + 1
        assert () == node.loaded_models


class MemoryTests(ProberTestCase):
    def restarted(self, fleet: InMemoryFleet) -> Parts:
        """Stop the daemon's parts that probe, and start those of a next daemon at its nodes."""
        fleet.prober.stopService()
        fleet.recorder.stopService()
        parts = assemble(fleet.config, fleet.network, {}, lambda: 0.0)
        self.addCleanup(fleet.flush)
        self.addCleanup(parts.pool.closeCachedConnections)
        for service in (parts.recorder, parts.prober):
            service.startService()
            self.addCleanup(service.stopService)
        parts.poller.poll_all()
        fleet.flush()
        return parts

    def test_restart_of_the_daemon(self) -> None:
        """What was found is stored, and serves from the next start on without a question."""
        node = self.node()
        fleet = self.probing(node, state_dir=self.state_dir())
        fleet.advance(A_WHILE)
        found, asked = fleet.prober.states(MODEL), self.asked(node)
        parts = self.restarted(fleet)

        assert found == parts.prober.states(MODEL)
        assert not parts.profiles.of("a", MODEL).alternate
        fleet.advance(A_WHILE)
        assert asked == self.asked(node)

    def test_restart_of_the_node(self) -> None:
        """A node that starts anew may serve another model: what was found is forgotten."""
        node = self.node()
        fleet = self.probing(node, interval=5.0)
        fleet.advance(A_WHILE)
        asked = self.asked(node)
        node.restart()
        fleet.advance(1.0)
        fleet.poll()
        fleet.advance(LOOK_SECONDS)

        (line,) = fleet.events("abilities_forgotten")
        assert (MODEL, "a") == (line["model"], line["node"])
        fleet.advance(A_WHILE)
        assert 2 * asked == self.asked(node)

    def test_damaged_store(self) -> None:
        """Stored abilities that cannot be read are as good as none."""
        node = self.node()
        fleet = self.probing(node, state_dir=self.state_dir())
        fleet.advance(A_WHILE)
        asked = self.asked(node)
        build = fleet.recorder.abilities()["a", MODEL].build
        fleet.recorder.put_abilities("a", MODEL, KnownAbilities(build, '{"vision": 7}'))
        parts = self.restarted(fleet)
        assert ["unknown"] == [found.state for found in parts.prober.states(MODEL)]
        fleet.advance(A_WHILE)

        assert 2 * asked == self.asked(node)

    def test_configuration(self) -> None:
        """What the configuration says of a model holds, whatever a probe finds."""
        models = {MODEL: {"alternate": True, "system_role": False, "efforts": ["low"]}}
        fleet = self.probing(self.node("a", MODEL, OTHER), models=models)
        fleet.advance(2 * A_WHILE)
        profile = fleet.parts.profiles.of("a", MODEL)

        assert (True, False, ("low",)) == (profile.alternate, profile.system_role, profile.efforts)
        other = fleet.parts.profiles.of("a", OTHER)
        assert (False, True, None) == (other.alternate, other.system_role, other.efforts)


class FailureTests(ProberTestCase):
    def test_silence(self) -> None:
        """A node that does not answer is asked again later, less and less often, then no more."""
        node = self.node()
        fleet = self.probing(node)
        node.faults.hang_routes = {PATH}
        fleet.advance(LOOK_SECONDS + QUESTION_SECONDS)

        (found,) = fleet.prober.states(MODEL)
        assert ("failed", f"no answer within {QUESTION_SECONDS:g} s") == (found.state, found.reason)
        for seconds in RETRY_SECONDS:
            asked = self.asked(node)
            fleet.advance(seconds + LOOK_SECONDS)
            assert asked + 1 == self.asked(node)
            fleet.advance(QUESTION_SECONDS + 2 * LOOK_SECONDS)
        fleet.advance(10 * RETRY_SECONDS[-1])
        assert 1 + len(RETRY_SECONDS) == self.asked(node)

    def test_one_bad_model(self) -> None:
        """A model whose probe fails stops no other, and is probed at the next try."""
        node = self.node("a", MODEL, OTHER)
        fleet = self.probing(node)
        node.faults.error_responses = 1
        node.faults.error_message = "engine state lock is poisoned"
        fleet.advance(A_WHILE)

        assert {"failed", "known"} == {self.state(fleet), self.state(fleet, OTHER)}
        fleet.advance(RETRY_SECONDS[0])
        fleet.advance(A_WHILE)
        assert ("known", "known") == (self.state(fleet), self.state(fleet, OTHER))

    def test_model_of_another_kind(self) -> None:
        """A model that takes no chats costs four questions at most."""
        node = self.node("a", SimulatedModel(id=MODEL, kind="embedding"))
        fleet = self.probing(node)
        for seconds in (A_WHILE, *RETRY_SECONDS, 10_000.0):
            fleet.advance(seconds + LOOK_SECONDS)

        assert 1 <= self.asked(node) <= 4


class OrderTests(ProberTestCase):
    def test_refusals(self) -> None:
        """An order for a model that is loaded nowhere, or is on no node that takes chats, fails."""
        node = self.node("a", MODEL, SimulatedModel(id=OTHER, loaded=False))
        fleet = self.probing(node, self.messages_node("m", "acme/foreign"))
        for model, where in ((OTHER, None), (MODEL, "m"), ("acme/foreign", None)):
            with self.assertRaises(OperationRefused):
                fleet.prober.want(model, where)

        assert 0 == self.asked(node)

    def test_anew(self) -> None:
        """An order begins a new probe, also of a known model, or in place of a probe under way."""
        node = self.node()
        fleet = self.probing(node)
        self.began(fleet, node)
        fleet.prober.want(MODEL)
        node.faults.slow_seconds = 0.0
        fleet.advance(A_WHILE)

        assert [True] == [line["by_order"] for line in fleet.events("probed")]
        fleet.prober.want(MODEL, "a")
        fleet.advance(A_WHILE)
        assert [True, True] == [line["by_order"] for line in fleet.events("probed")]

    def test_unloaded_meanwhile(self) -> None:
        """An order ends when the model is unloaded before its node was idle."""
        node = self.node("a", token_seconds=0.1)
        fleet = self.fleet(node)
        fleet.prober.startService()
        client = fleet.stream("a word " * 40)
        fleet.prober.want(MODEL)
        fleet.advance(LOOK_SECONDS)
        assert "wanted" == self.state(fleet)
        fleet.leave(client)
        fleet.dispatcher.dispatch(UnloadWanted(MODEL))
        fleet.advance(A_WHILE)

        (found,) = fleet.prober.states(MODEL)
        assert ("failed", True) == (found.state, "loaded no more" in found.reason)
        assert 1 == self.asked(node)

    def test_messages_node(self) -> None:
        """A node that speaks only Messages is never probed."""
        node = self.messages_node("m")
        fleet = self.probing(node)
        fleet.advance(A_WHILE)

        assert "unknown" == self.state(fleet)
