"""The fleet under random events: whatever happens, its books balance."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.agents import AgentAbilities, AgentReport, EngineLife
from cortexd.fleet.memory import TOLERATED_MISSING_MB
from cortexd.fleet.nodes import Lease, Replica
from cortexd.fleet.reported import ENDED_LIVES, WRONG_SECONDS
from cortexd.fleet.states import (
    ANSWERING_HEALTH,
    Change,
    HealthChanged,
    Observation,
    PollFailure,
    ReplicaChanged,
    ReplicaState,
)
from tests.support.nodes import (
    BUDGET_MB,
    DOWN,
    DRAIN,
    LISTED_STATES,
    LOAD,
    LOADED,
    REFUSED,
    SILENT,
    UNKNOWN,
    UNLOAD,
    UNLOADED,
    UNLOADING,
    make_fleet,
    memory,
)

MODELS = ("m1", "m2", "m3", "m4")
NODES = ("ada", "bob")
SIZES = {"m1": 3_000, "m2": 15_000}
"""The other models' footprints are unknown until a load shows them."""

nodes = st.sampled_from(NODES)
listings = st.dictionaries(st.sampled_from(MODELS), st.sampled_from(LISTED_STATES))
positions = st.integers(0, 999)


T = TypeVar("T")


def at(choices: Sequence[T], position: int) -> T:
    """Return one of the choices, whichever number is drawn."""
    return choices[position % len(choices)]


@dataclass
class Account:
    """What must be true of the fleet, kept beside it."""

    held: list[Lease] = field(default_factory=list)
    health: dict[str, object] = field(default_factory=lambda: dict.fromkeys(NODES, UNKNOWN))
    states: dict[tuple[str, str], ReplicaState] = field(default_factory=dict)
    unloading: dict[Replica, int] = field(default_factory=dict)
    leaked: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NODES, 0))
    missing: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NODES, 0))
    unreachable: set[str] = field(default_factory=set)
    ended: dict[str, tuple[float, int | None]] = field(default_factory=dict)


class FleetMachine(RuleBasedStateMachine):
    """Polls, reports, operations, leases and readings of memory; the books always balance."""

    @initialize()
    def begin(self) -> None:
        """Begin with nodes that nobody has heard of."""
        self.fleet = make_fleet(*NODES, sizes=SIZES, down_after=2)
        self.now = 0.0
        self.account = Account()

    def follow(self, name: str, changes: tuple[Change, ...] | list[Change]) -> None:
        """Keep an account of what the fleet tells: each change begins where the last ended."""
        for change in changes:
            match change:
                case HealthChanged():
                    assert (self.account.health[change.node], name) == (change.before, change.node)
                    self.account.health[change.node] = change.after
                case ReplicaChanged():
                    key = change.node, change.model
                    assert (self.account.states.pop(key, None), name) == (
                        change.before,
                        change.node,
                    )
                    if change.after is not None:
                        self.account.states[key] = change.after

    def replicas(self) -> list[Replica]:
        return [replica for node in self.fleet.nodes.values() for replica in node.replicas.values()]

    def idle(self) -> list[Replica]:
        """Return the replicas to which an operation may be begun."""
        return [replica for replica in self.replicas() if replica.operation in (None, DRAIN)]

    def operated(self) -> list[Replica]:
        return [replica for replica in self.replicas() if replica.operation is not None]

    @rule(seconds=st.floats(0, 150))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=nodes, created=st.sampled_from([None, 100, 200]), listing=listings)
    def poll(self, name: str, created: int | None, listing: dict[str, ReplicaState]) -> None:
        operated = {
            model
            for model, replica in self.fleet.nodes[name].replicas.items()
            if replica.operation in (LOAD, UNLOAD)
        }
        restarts = self.fleet.nodes[name].restarts
        changes = self.fleet.observe(name, Observation(created, listing), self.now)
        self.follow(name, changes)
        self.account.unreachable.discard(name)
        if self.fleet.nodes[name].restarts > restarts:
            self.account.leaked[name] = self.account.missing[name] = 0
            self.account.unloading = {
                replica: replica.footprint_mb if replica.node.name == name else booked_mb
                for replica, booked_mb in self.account.unloading.items()
            }
        listed = {
            model: replica.listed
            for model, replica in self.fleet.nodes[name].replicas.items()
            if model not in operated
        }
        expected = {model: state for model, state in listing.items() if model not in operated}
        assert expected == listed
        assert operated <= set(self.fleet.nodes[name].replicas)

    @rule(name=nodes, failure=st.sampled_from([SILENT, REFUSED]))
    def fail(self, name: str, failure: PollFailure) -> None:
        self.follow(name, self.fleet.fail(name, failure, self.now))

    @rule(name=nodes)
    def lose(self, name: str) -> None:
        self.fleet.note_unreachable(self.fleet.nodes[name])
        self.account.unreachable.add(name)

    @precondition(lambda self: self.replicas())
    @rule(position=positions)
    def grant(self, position: int) -> None:
        replica = at(self.replicas(), position)
        self.account.held.append(self.fleet.grant(replica, "request", self.now))

    @precondition(lambda self: self.account.held)
    @rule(position=positions)
    def release(self, position: int) -> None:
        lease = at(self.account.held, position)
        self.account.held.remove(lease)
        self.fleet.release(lease, self.now)

    @precondition(lambda self: self.idle())
    @rule(position=positions, drains=st.booleans())
    def operate(self, position: int, drains: bool) -> None:
        replica = at(self.idle(), position)
        operation = DRAIN if drains else UNLOAD if replica.is_resident else LOAD
        self.follow(replica.node.name, self.fleet.begin(replica, operation, self.now))
        if operation is UNLOAD:
            self.account.unloading[replica] = replica.footprint_mb

    @precondition(lambda self: self.operated())
    @rule(
        position=positions,
        listed=st.sampled_from(LISTED_STATES),
        mb=st.integers(-10, 9_000) | st.none(),
    )
    def end(self, position: int, listed: ReplicaState, mb: int | None) -> None:
        replica = at(self.operated(), position)
        name = replica.node.name
        if replica.operation is UNLOAD:
            del self.account.unloading[replica]
            if listed is UNLOADED:
                self.fleet.note_unload(replica.node, max(0, mb or 0))
                self.account.leaked[name] += max(0, mb or 0)
        if replica.operation is LOAD and listed is LOADED:
            self.fleet.footprints.learn(name, replica.model, 5.0, mb)
        self.follow(name, self.fleet.end(replica, listed, self.now))

    @rule(name=nodes, used_mb=st.integers(0, BUDGET_MB), age=st.floats(0, 50) | st.none())
    def read_system(self, name: str, used_mb: int, age: float | None) -> None:
        asked_at = None if age is None else self.now - age
        self.fleet.record_system(name, memory(used_mb), asked_at)
        assert self.fleet.nodes[name].leaked_mb <= self.account.leaked[name]
        self.account.leaked[name] = self.fleet.nodes[name].leaked_mb
        missing_mb = self.fleet.nodes[name].missing_mb
        if missing_mb != self.account.missing[name]:
            at_most = used_mb - self.fleet.nodes[name].resident_mb
            assert missing_mb == 0 or TOLERATED_MISSING_MB < missing_mb <= at_most
            assert asked_at is not None or missing_mb in (0, at_most)
        self.account.missing[name] = missing_mb

    @rule(name=nodes, joins=st.booleans())
    def change_agent(self, name: str, joins: bool) -> None:
        free_mb = self.fleet.nodes[name].free_mb
        self.fleet.note_agent(name, AgentAbilities(version="1") if joins else None)
        assert free_mb == self.fleet.nodes[name].free_mb

    @rule(
        name=nodes,
        life=st.sampled_from(EngineLife),
        used_mb=st.integers(0, BUDGET_MB) | st.none(),
        others_mb=st.integers(0, BUDGET_MB) | st.none(),
        age=st.floats(0, 50) | st.none(),
    )
    def report(
        self,
        name: str,
        life: EngineLife,
        used_mb: int | None,
        others_mb: int | None,
        age: float | None,
    ) -> None:
        node = self.fleet.nodes[name]
        before, health, created = node.report, node.health, node.created
        ended_at, ended_created = self.account.ended.get(name, (-inf, None))
        is_told_again = self.now - ended_at < WRONG_SECONDS and ended_created == created
        is_there = health in ANSWERING_HEALTH and name not in self.account.unreachable
        others_before, missing_before = node.others_mb, node.missing_mb
        free_mb = None if used_mb is None else max(0, BUDGET_MB - used_mb - (others_mb or 0))
        report = AgentReport(
            life=life,
            memory_total_mb=BUDGET_MB,
            memory_free_mb=free_mb,
            others_mb=others_mb,
        )
        asked_at = None if age is None else self.now - age
        self.follow(name, self.fleet.take_report(name, report, self.now, asked_at))
        if free_mb is None:
            assert (others_before, missing_before) == (node.others_mb, node.missing_mb)
        else:
            assert (others_mb or 0) == node.others_mb
            at_most = BUDGET_MB - free_mb - node.others_mb - node.resident_mb
            assert node.missing_mb in (0, missing_before) or node.missing_mb <= at_most
        assert node.leaked_mb <= self.account.leaked[name]
        self.account.leaked[name], self.account.missing[name] = node.leaked_mb, node.missing_mb
        had_ended = before is not None and before.life in ENDED_LIVES
        is_news = before is None or before.life is not life
        was_wrong = (had_ended and health in ANSWERING_HEALTH) or (is_told_again and is_there)
        if life in ENDED_LIVES and is_news and not was_wrong:
            self.account.ended[name] = self.now, created
            self.account.unreachable.add(name)
            assert DOWN is node.health
        else:
            assert health is node.health

    @invariant()
    def memory_is_booked(self) -> None:
        """Whatever is resident is counted, with what is known of it or was booked before."""
        for name, node in self.fleet.nodes.items():
            resident = [replica for replica in node.replicas.values() if replica.is_resident]
            assert all(replica.footprint_mb > 0 for replica in resident)
            assert len(resident) == node.resident
            assert sum(replica.footprint_mb for replica in resident) == node.resident_mb
            assert self.account.leaked[name] == node.leaked_mb
            assert self.account.missing[name] == node.missing_mb
            assert node.resident_mb + max(node.leaked_mb, node.missing_mb) == node.committed_mb
            assert min(node.leaked_mb, node.missing_mb, node.shortfall_mb, node.others_mb) >= 0
            assert node.others_mb <= node.budget_mb
            assert node.budget_mb - node.others_mb - node.committed_mb == node.free_mb
            for replica in resident:
                if replica.model in SIZES and replica.operation is not UNLOAD:
                    assert SIZES[replica.model] == replica.footprint_mb
        for replica, booked_mb in self.account.unloading.items():
            assert (UNLOADING, booked_mb) == (replica.state, replica.footprint_mb)

    @invariant()
    def leases_are_counted(self) -> None:
        """Leases are counted where they are held."""
        fleet, held = self.fleet, self.account.held
        assert sorted(held, key=lambda lease: lease.number) == list(fleet.leases)
        for name, node in fleet.nodes.items():
            here = [lease.model for lease in held if lease.node == name]
            assert len(here) == node.leases
            for model, replica in node.replicas.items():
                assert here.count(model) == replica.leases

    @invariant()
    def all_that_is_asked_agrees(self) -> None:
        """All answers of the fleet agree with its nodes, and with what it told of them."""
        fleet = self.fleet
        assert self.account.health == {name: node.health for name, node in fleet.nodes.items()}
        assert self.account.states == {
            (name, model): replica.state
            for name, node in fleet.nodes.items()
            for model, replica in node.replicas.items()
        }
        assert self.account.unreachable == {
            name for name, node in fleet.nodes.items() if node.unreachable
        }
        listed = {model for node in fleet.nodes.values() for model in node.replicas}
        assert sorted(listed) == list(fleet.models)
        for model in MODELS:
            assert (model in listed) == (model in fleet)
            assert list(fleet.replicas(model)) == [
                node.replicas[model] for node in fleet.nodes.values() if model in node.replicas
            ]
        answers = any(node.health in ANSWERING_HEALTH for node in fleet.nodes.values())
        polled = all(
            node.last_answer_at is not None or node.reason != "not polled yet"
            for node in fleet.nodes.values()
        )
        assert (answers and polled) == (fleet.not_ready_reason() is None)


class RandomEventTests(SynchronousTestCase):
    def test_books_balance(self) -> None:
        """Whatever happens, in whatever order, memory and leases are counted where they are."""
        run_state_machine_as_test(
            FleetMachine, settings=settings(max_examples=200, stateful_step_count=40)
        )
