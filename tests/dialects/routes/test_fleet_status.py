import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.routes.fleet_status import (
    PROCESS_STATES,
    loaded_model,
    ps_body,
    running_body,
    running_model,
    unloading_body,
)
from cortexd.dialects.wire.json_values import decode
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.footprints import Footprints
from cortexd.fleet.nodes import ModelTerms, NodeTerms, Replica
from cortexd.fleet.states import RESIDENT_STATES, Observation, Operation, ReplicaState

NOW = 1_790_000_000.0
SIZES = {"org/chat": 5000, "org/embed": 300, "org/old": 800, "org/new": 700}


class FleetStatusTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Make two nodes, one of which is loading and one unloading something."""
        self.fleet = Fleet(
            [NodeTerms(name, f"http://{name}:8000", 20000) for name in "ab"],
            {"org/chat": ModelTerms(32, ttl=600.0)},
            Footprints(lambda node, model: SIZES.get(model), {}),
            default_terms=ModelTerms(32),
            now=NOW,
            down_after=1,
            load_timeout=60.0,
        )
        loaded, unloaded = ReplicaState.LOADED, ReplicaState.UNLOADED
        self.see(
            "a",
            {
                "org/old": loaded,
                "org/chat": loaded,
                "org/new": unloaded,
                "org/none": unloaded,
                "org/embed": ReplicaState.STUCK,
            },
        )
        self.see("b", {"org/chat": loaded})
        self.fleet.begin(self.replica("a", "org/new"), Operation.LOAD, NOW)
        self.fleet.begin(self.replica("a", "org/old"), Operation.UNLOAD, NOW)

    def see(self, node: str, states: dict[str, ReplicaState]) -> None:
        self.fleet.observe(node, Observation(900, states), NOW)

    def replica(self, node: str, model: str) -> Replica:
        replica = self.fleet.replica(node, model)
        assert replica is not None
        return replica

    def replicas(self) -> list[Replica]:
        """Return all replicas, node by node."""
        return [each for node in self.fleet.nodes.values() for each in node.replicas.values()]


class RunningTests(FleetStatusTestCase):
    def running(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = decode(running_body(map(running_model, self.replicas()))).pop(
            "running"
        )
        return found

    def test_states(self) -> None:
        """What is in memory is listed for each node, in llama-swap's words for its state."""
        assert [
            ("a", "org/old", "stopping"),
            ("a", "org/chat", "ready"),
            ("a", "org/new", "starting"),
            ("a", "org/embed", "ready"),
            ("b", "org/chat", "ready"),
        ] == [(each["node"], each["model"], each["state"]) for each in self.running()]

    def test_every_state_has_a_word(self) -> None:
        """There is one for all that takes memory, and none for what does not."""
        assert RESIDENT_STATES == set(PROCESS_STATES)

    def test_shape(self) -> None:
        """An entry has every field that llama-swap's has, of its types, and some of ours."""
        chat = self.replica("a", "org/chat")
        self.fleet.grant(chat, "request-1", NOW)
        self.fleet.set_pin(chat.node, "org/chat", True)
        assert {
            "model": "org/chat",
            "state": "ready",
            "ttl": 600,
            "name": "org/chat",
            "description": "",
            "cmd": "",
            "proxy": "",
            "node": "a",
            "leases": 1,
            "pinned": True,
            "ejected": False,
        } == self.running()[1]


class PsTests(FleetStatusTestCase):
    def ps(self, now: float = NOW) -> dict[str, dict[str, Any]]:
        """Return the entries by name."""
        fleet = self.fleet
        models = [loaded_model(model, fleet.replicas(model), now) for model in fleet.models]
        listed = decode(ps_body(models))["models"]
        assert sorted(entry["name"] for entry in listed) == [entry["name"] for entry in listed]
        return {entry["name"]: entry for entry in listed}

    def expiry(self, model: str, now: float = NOW) -> datetime:
        """Return when a model expires."""
        return datetime.fromisoformat(self.ps(now)[model]["expires_at"])

    def test_what_is_loaded(self) -> None:
        """Each loaded model is there once; what is coming or going is not."""
        assert ["org/chat", "org/embed"] == list(self.ps())

    def test_shape(self) -> None:
        """An entry has the fields of Ollama's, sizes in bytes over all nodes."""
        chat = self.ps()["org/chat"]
        expires_at = datetime.fromtimestamp(NOW + 600, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert {
            "name": "org/chat",
            "model": "org/chat",
            "size": 10_485_760_000,
            "digest": hashlib.sha256(b"org/chat").hexdigest(),
            "details": {
                "parent_model": "",
                "format": "",
                "family": "",
                "families": [],
                "parameter_size": "",
                "quantization_level": "",
            },
            "expires_at": expires_at,
            "size_vram": 10_485_760_000,
            "nodes": ["a", "b"],
        } == chat

    def test_an_idle_model_expires(self) -> None:
        """It does so its ``ttl`` after its last use, on the node where that is latest."""
        lease = self.fleet.grant(self.replica("b", "org/chat"), "request-1", NOW + 10)
        self.fleet.release(lease, NOW + 40)
        expected = datetime.fromtimestamp(NOW + 640, UTC)
        assert expected == self.expiry("org/chat", NOW + 100)

    def test_a_model_in_use_expires_later(self) -> None:
        """As long as it answers, its time has not begun."""
        self.fleet.grant(self.replica("b", "org/chat"), "request-1", NOW)
        expected = datetime.fromtimestamp(NOW + 700, UTC)
        assert expected == self.expiry("org/chat", NOW + 100)

    def test_forever(self) -> None:
        """What is pinned, has no ``ttl`` or is not ours to unload expires so late that Ollama says
        "Forever".
        """
        twenty_years = datetime.fromtimestamp(NOW, UTC) + timedelta(days=21 * 366)
        assert self.expiry("org/embed") > twenty_years
        chat = self.replica("a", "org/chat")
        chat.node.is_managed = False
        assert self.expiry("org/chat") > twenty_years
        chat.node.is_managed = True
        assert self.expiry("org/chat") < twenty_years
        self.fleet.set_pin(chat.node, "org/chat", True)
        assert self.expiry("org/chat") > twenty_years


class UnloadingTests(FleetStatusTestCase):
    def test_shape(self) -> None:
        """What goes is told with its node, and what stays with the reason."""
        unloading = [self.replica("a", "org/chat"), self.replica("b", "org/chat")]
        assert {
            "msg": "ok",
            "unloading": [
                {"model": "org/chat", "node": "a"},
                {"model": "org/chat", "node": "b"},
            ],
            "kept": {"org/embed": "it is pinned"},
        } == decode(unloading_body(unloading, {"org/embed": "it is pinned"}))
