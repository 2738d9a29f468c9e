import os
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.assembly import assemble
from cortexd.config import reading
from cortexd.config.paths import NoHomeError
from cortexd.dialects.wire.profile import MidSystem, ReasoningControl, Speaks, ToolIdFormat
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.nodes import Replica
from cortexd.fleet.states import NodeHealth, Observation, PollFailure, ReplicaState
from cortexd.gateway.profiles import Profiles
from cortexd.making import make_profiles, make_scheduler
from cortexd.parts import Parts
from cortexd.scheduling.placement import EvictionTerms
from cortexd.scheduling.terms import SchedulingTerms

NODE = '[[nodes]]\nname = "a"\nendpoint = "http://10.0.0.1:8080"\nvram_mb = 1000\n'
OTHER = '[[nodes]]\nname = "b"\nendpoint = "http://b:1"\nvram_mb = 5\n'
GATEWAY = '[gateway]\nstate_dir = "/var/lib/cortex"\n'
STARTED_AT = 1_790_000_000.5


class PartsTests(SynchronousTestCase):
    """A configuration, a reactor and an environment are all that the parts need."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()

    def assemble(self, text: str = GATEWAY + NODE, **given: Any) -> Parts:
        config = reading.parse(text, "test")
        return assemble(config, self.reactor, {}, lambda: STARTED_AT, **given)

    def test_the_fleet_is_the_configurations(self) -> None:
        """Every node is there, with its endpoint and a client, before the first poll."""
        parts = self.assemble(GATEWAY + NODE + OTHER)

        assert {"a", "b"} == set(parts.fleet.nodes) == set(parts.clients)
        assert "http://b:1" == parts.fleet.nodes["b"].endpoint
        assert () == parts.fleet.models

    def test_the_fleet_is_in_the_metrics(self) -> None:
        """It is there from the first scrape on, before the first poll."""
        text = generate_latest(self.assemble().metrics.registry).decode()

        assert {("a", "budget", 1000.0 * 2**20)} == {
            (sample.labels["node"], sample.labels["kind"], sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "cortex_node_booked_bytes" and sample.value
        }

    def test_no_part_starts(self) -> None:
        """Assembling opens no port, makes no connection, sets no timer and starts no service."""
        parts = self.assemble()

        assert [] == self.reactor.tcpServers
        assert [] == self.reactor.tcpClients
        assert [] == self.reactor.unixServers
        assert [] == self.reactor.getDelayedCalls()
        for service in (parts.recorder, parts.responses, parts.lifecycle, parts.poller):
            assert not service.running

    def test_the_state_needs_a_directory(self) -> None:
        """The configuration or the environment must name it; the control socket can be missing."""
        self.patch(os, "getuid", lambda: 1000)

        self.assertRaises(NoHomeError, self.assemble, NODE)
        assert self.assemble().recorder is not None

    def test_the_time_of_the_start_is_read_once(self) -> None:
        """So HTTP and the control socket cannot show different ones."""
        readings = iter([STARTED_AT])

        assemble(reading.parse(GATEWAY + NODE, "test"), self.reactor, {}, lambda: next(readings))

        assert [] == list(readings)

    def test_requests_to_nodes_go_where_the_caller_says(self) -> None:
        """An HTTP client that is passed in gets them, and the reactor makes no connection."""
        asked: list[tuple[str, str]] = []

        class Client:
            def request(self, method: str, url: object, **arguments: Any) -> Deferred[Any]:
                asked.append((method, str(url)))
                return Deferred()

        parts = self.assemble(http=Client())
        parts.poller.poll_all()

        assert ("GET", "http://10.0.0.1:8080/v1/models") in asked
        assert [] == self.reactor.tcpClients


class ProfileTests(SynchronousTestCase):
    """What the configuration says of nodes and models is what translations go by."""

    def profiles(self, text: str) -> Profiles:
        config = reading.parse(text, "test")
        return make_profiles(config, make_scheduler(config, 0.0).fleet)

    def test_nodes(self) -> None:
        """A node takes chat, Messages as they are too, or Messages alone."""
        native = OTHER + 'anthropic = "native"\n'
        alone = '[[nodes]]\nname = "c"\nendpoint = "http://c:1"\ndialect = "anthropic"\n'
        profiles = self.profiles(NODE + native + alone)

        assert [Speaks.CHAT, Speaks.BOTH, Speaks.MESSAGES] == [
            profiles.of(node, "x").speaks for node in "abc"
        ]

    def test_models(self) -> None:
        """Those that have a table are as it says; all others are as the defaults say."""
        profiles = self.profiles(
            "[gateway]\nallow_image_urls = false\n" + NODE + '[[models]]\nid = "x"\n'
            "context_window = 9\nmax_output_tokens = 5\nvision = false\nalternate = false\n"
            'reasoning_control = "effort"\nmid_system = "hoist"\ntool_id_format = "mistral9"\n'
            'inline_thinking = true\nefforts = ["low"]\nsystem_role = false\n'
            "tool_turns = false\nparallel_calls = false\ntext_beside_calls = false\n"
            "user_after_tool = false\n"
        )
        known, other = profiles.of("a", "x"), profiles.of("a", "other")

        assert (9, 5, False, False) == (
            known.context_window,
            known.max_output,
            known.vision,
            known.alternate,
        )
        assert (ReasoningControl.EFFORT, MidSystem.HOIST, ToolIdFormat.MISTRAL9, True) == (
            known.reasoning_control,
            known.mid_system,
            known.tool_id_format,
            known.inline_thinking,
        )
        assert (("low",), False, False, False, False, False) == (
            known.efforts,
            known.system_role,
            known.tool_turns,
            known.parallel_calls,
            known.text_beside_calls,
            known.user_after_tool,
        )
        assert (None, True, True) == (other.context_window, other.vision, other.alternate)
        assert (None, True) == (other.efforts, other.tool_turns)
        assert not known.fetches_images
        assert not other.fetches_images


class SchedulerTests(SynchronousTestCase):
    """What the configuration says is what the scheduler decides by."""

    def fleet(self, text: str) -> Fleet:
        return make_scheduler(reading.parse(text, "test"), 0.0).fleet

    def replica(self, fleet: Fleet, model: str) -> Replica:
        fleet.observe("a", Observation(1, {model: ReplicaState.UNLOADED}), 0.0)
        replica = fleet.replica("a", model)
        assert replica is not None
        return replica

    def test_nodes(self) -> None:
        """Their budget is what the reserve leaves; pins are those of nodes and of models."""
        node = (
            NODE + 'reserve_mb = 100\nmax_resident = 3\npinned = ["x"]\n'
            '[[models]]\nid = "y"\npinned_on = ["a"]\n'
        )
        made = self.fleet(node).nodes["a"]
        assert (900, 3, ["x", "y"]) == (made.budget_mb, made.max_resident, list(made.pins))

    def test_models(self) -> None:
        """Those that are named have their own terms; all others the defaults."""
        fleet = self.fleet(
            "[eviction]\nidle_ttl = 60\n" + NODE + '[[models]]\nid = "x"\nmax_concurrency = 2\n'
            'priority = 7\nttl = 5\n[[models]]\nid = "never"\nttl = 0\n'
        )
        assert [(2, 7, 5.0), (32, 0, 0.0), (32, 0, 60.0)] == [
            (replica.terms.capacity, replica.terms.priority, replica.terms.ttl)
            for replica in (self.replica(fleet, model) for model in ("x", "never", "other"))
        ]

    def test_footprints(self) -> None:
        """A node's own count before the model's; of what is not named nothing is known."""
        fleet = self.fleet(
            NODE + "models = { x = 300 }\n"
            '[[models]]\nid = "x"\nvram_mb = 400\n[[models]]\nid = "y"\nvram_mb = 500\n'
        )
        assert [300, 500, None] == [fleet.footprints.known_mb("a", model) for model in "xyz"]

    def test_terms(self) -> None:
        """Queue, waits, strategy and repair."""
        text = (
            '[eviction]\nstrategy = "priority"\ndefrag_after_cycles = 9\n'
            "[scheduling]\nmax_queue = 1\nqueue_timeout = 2\nmax_wait = 3\nmin_residency = 4\n"
        )
        assert (
            SchedulingTerms(
                max_queue=1,
                queue_timeout=2.0,
                max_wait=3.0,
                defrag_after_cycles=9,
                eviction=EvictionTerms("priority", 4.0),
            )
            == make_scheduler(reading.parse(text + NODE, "test"), 0.0).terms
        )

    def test_patience_with_nodes(self) -> None:
        """When a node is down, and how long a load excuses its silence."""
        fleet = self.fleet("[polling]\ndown_after = 3\n[scheduling]\nload_timeout = 100\n" + NODE)
        healths = []
        for _ in range(3):
            fleet.fail("a", PollFailure("refused", silent=False), 0.0)
            healths.append(fleet.nodes["a"].health)
        assert [NodeHealth.UNKNOWN, NodeHealth.UNKNOWN, NodeHealth.DOWN] == healths
        fleet.observe("a", Observation(1, {"x": ReplicaState.LOADING}), 0.0)
        (replica,) = fleet.replicas("x")
        assert (True, False) == (fleet.loads(replica, 100.0), fleet.loads(replica, 100.1))
