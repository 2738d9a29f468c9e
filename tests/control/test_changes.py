"""What the control socket changes, and what it says would be."""

from types import MappingProxyType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.protocols import amp

from cortexd.control.auditing import Users
from cortexd.control.contract import (
    LAST_PAGE,
    CordonNode,
    ListModels,
    ListNodes,
    ListReplicas,
    LoadModel,
    PinModel,
    PlanLoad,
    Refused,
    UncordonNode,
    UnknownModel,
    UnknownNode,
    UnloadModel,
    UnpinModel,
    Why,
)
from cortexd.control.summaries import (
    CandidateSummary,
    DecisionSummary,
    PlanSummary,
    UnloadSummary,
)
from cortexd.fleet.breaker import Outcome
from cortexd.fleet.states import PollFailure, ReplicaState
from cortexd.scheduling.events import (
    CordonChanged,
    LoadDone,
    LoadFailed,
    PinChanged,
    PollFailed,
    UnloadDone,
)
from tests.support.control import (
    OWN_CREDENTIALS,
    ChangesTestCase,
    ControlledFleet,
    ControlTestCase,
    send,
)

LOADED, UNLOADED = ReplicaState.LOADED, ReplicaState.UNLOADED


class PlanTests(ChangesTestCase):
    def test_plan(self) -> None:
        """A plan names the cheapest node, what is given up there, and why not the others."""
        plan: PlanSummary = self.ask(PlanLoad, model="org/new")["plan"]

        assert ("org/new", "large", ["org/old"]) == (plan.model, plan.node, plan.victims)
        assert (30.0, False) == (plan.seconds, plan.is_measured)
        assert "evicts org/old (400 MiB, not used yet)" == plan.cost
        assert [
            CandidateSummary(node="large", possible=True, cost=plan.cost, victims=["org/old"]),
            CandidateSummary(node="small", possible=True, cost=plan.cost, victims=["org/old"]),
        ] == plan.candidates
        assert [] == self.began()

    def test_plan_of_a_node(self) -> None:
        """The node may be chosen; the plan is for that one alone."""
        plan: PlanSummary = self.ask(PlanLoad, model="org/new", node="small")["plan"]

        assert ("small", ["org/old"]) == (plan.node, plan.victims)
        assert ["small"] == [candidate.node for candidate in plan.candidates]

    def check_agreement(self, **arguments: Any) -> None:
        planned: PlanSummary = self.ask(PlanLoad, **arguments)["plan"]
        begun: PlanSummary = self.ask(LoadModel, **arguments)["plan"]
        [decision] = self.ask(Why, what=planned.model, offset=0)["items"]

        assert planned == begun
        assert (
            DecisionSummary(
                number=decision.number,
                age_seconds=0.0,
                action="load",
                model=planned.model,
                node=planned.node,
                reason="the operator requested it",
                victims=planned.victims,
                cost=planned.cost,
                seconds=planned.seconds,
                candidates=planned.candidates,
            )
            == decision
        )

    def test_the_action_does_what_the_plan_says(self) -> None:
        """At one moment, plan, load and the decision that is told of it agree in everything."""
        self.check_agreement(model="org/huge")

    def test_the_action_on_a_node_does_what_the_plan_says(self) -> None:
        """That is so where the operator chooses the node, too."""
        self.check_agreement(model="org/new", node="small")

    def test_measured_seconds(self) -> None:
        """Once a load was seen, its seconds are what the next is expected to take."""
        self.ask(LoadModel, model="org/new", node="small")
        self.given.tell(UnloadDone("small", "org/old"))
        self.given.tell(LoadDone("small", "org/new", 12.5))
        self.ask(UnloadModel, model="org/new", node="small")
        self.given.tell(UnloadDone("small", "org/new"))

        plan: PlanSummary = self.ask(PlanLoad, model="org/new", node="small")["plan"]

        assert (12.5, True) == (plan.seconds, plan.is_measured)

    def test_what_cannot_be_is_refused(self) -> None:
        """A model that is loaded, or fits nowhere, is refused with the reason of each node."""
        assert "is already loaded on large, small" in self.refusal(
            Refused, PlanLoad, model="org/old"
        )
        assert "small can never hold it" in self.refusal(
            Refused, PlanLoad, model="org/huge", node="small"
        )


class LoadTests(ChangesTestCase):
    def test_load(self) -> None:
        """A load begins with what must go, and goes on by itself until the model is there."""
        self.ask(LoadModel, model="org/new")
        assert [("unload", "large", "org/old")] == self.began()

        self.given.tell(UnloadDone("large", "org/old"))
        assert [("load", "large", "org/new")] == self.began()

    def test_refused_load(self) -> None:
        """What the scheduler refuses is refused in its words, and nothing has changed."""
        assert "already" in self.refusal(Refused, LoadModel, model="org/old")
        self.refusal(UnknownModel, LoadModel, model="org/none")
        self.refusal(UnknownNode, LoadModel, model="org/new", node="huge")
        assert [] == self.began()

    def test_failing_load(self) -> None:
        """The node's own words for a failed load stay with the replica, and when it is retried."""
        self.ask(LoadModel, model="org/new", node="small")
        self.given.tell(UnloadDone("small", "org/old"))
        self.given.tell(LoadFailed("small", "org/new", "no such file"))

        plan = self.refusal(Refused, PlanLoad, model="org/new", node="small")

        assert "no such file" in plan
        assert "next try in 5 s" in plan


class UnloadTests(ChangesTestCase):
    def test_everywhere(self) -> None:
        """Without a node a model goes from all that have it."""
        expected = UnloadSummary(model="org/old", nodes=["large", "small"], leases=0)
        assert expected == self.ask(UnloadModel, model="org/old")["unload"]
        assert [
            ("unload", "large", "org/old"),
            ("unload", "small", "org/old"),
        ] == self.began()

    def test_after_its_requests(self) -> None:
        """A model that answers goes once it has answered, and gets no new requests."""
        grant = self.successResultOf(self.given.begin("org/chat", "request-1"))

        expected = UnloadSummary(model="org/chat", nodes=["large"], leases=1)
        assert expected == self.ask(UnloadModel, model="org/chat", node="large")["unload"]
        assert [] == self.began()

        self.given.dispatcher.release(grant.lease)
        assert [("unload", "large", "org/chat")] == self.began()

    def test_now(self) -> None:
        """With ``now`` its requests are given up."""
        self.successResultOf(self.given.begin("org/chat", "request-1"))
        self.ask(UnloadModel, model="org/chat", now=True)
        assert [("cut", "large", "org/chat")] == self.began()

    def test_refused(self) -> None:
        """What is pinned, or not loaded, or nobody's, is refused, and nothing has changed."""
        self.ask(PinModel, model="org/chat", node="large")
        assert "pinned on large" in self.refusal(Refused, UnloadModel, model="org/chat")
        assert "not loaded" in self.refusal(Refused, UnloadModel, model="org/new")
        self.refusal(UnknownModel, UnloadModel, model="org/none")
        self.refusal(UnknownNode, UnloadModel, model="org/old", node="huge")
        assert [] == self.began()


class PinTests(ChangesTestCase):
    def test_pin(self) -> None:
        """A pin is told of, shown, and kept; unpinned it is as any other."""
        self.ask(PinModel, model="org/chat", node="large")
        assert [PinChanged("large", "org/chat", True)] == self.did(PinChanged)
        [node, _small] = self.ask(ListNodes, offset=0)["items"]
        [chat, *_others] = self.ask(ListModels, offset=0)["items"]
        assert (["org/chat"], ["large"]) == (node.pins, chat.pinned_on)

        self.ask(UnpinModel, model="org/chat", node="large")
        assert [PinChanged("large", "org/chat", False)] == self.did(PinChanged)

    def test_a_pin_of_what_is_gone_can_be_removed(self) -> None:
        """A pin outlives the node's listing of the model, and must not be there for ever."""
        self.ask(PinModel, model="org/chat", node="large")
        self.given.see("large", old=LOADED)
        self.refusal(UnknownModel, PinModel, model="org/chat", node="large")

        self.ask(UnpinModel, model="org/chat", node="large")

        [node, _small] = self.ask(ListNodes, offset=0)["items"]
        assert [] == node.pins

    def test_refused(self) -> None:
        """A pin twice, the end of none, and names that nobody has are refused."""
        self.ask(PinModel, model="org/chat", node="large")
        chat = {"model": "org/chat", "node": "large"}
        assert "already" in self.refusal(Refused, PinModel, **chat)
        assert "not pinned" in self.refusal(Refused, UnpinModel, model="org/old", node="large")
        assert "does not list" in self.refusal(Refused, PinModel, model="org/chat", node="small")
        for command in (PinModel, UnpinModel):
            self.refusal(UnknownNode, command, model="org/chat", node="huge")


class CordonTests(ChangesTestCase):
    def test_cordon(self) -> None:
        """A cordoned node gets nothing new, until it is uncordoned."""
        self.ask(CordonNode, node="small")
        assert [CordonChanged("small", True)] == self.did(CordonChanged)
        assert [False, True] == [node.cordoned for node in self.ask(ListNodes, offset=0)["items"]]
        assert "is cordoned" in self.refusal(Refused, LoadModel, model="org/new", node="small")

        self.ask(UncordonNode, node="small")
        assert [CordonChanged("small", False)] == self.did(CordonChanged)
        self.ask(LoadModel, model="org/new", node="small")

    def test_twice(self) -> None:
        """To cordon what is cordoned is no mistake: it is as it should be."""
        for command in (CordonNode, CordonNode, UncordonNode, UncordonNode):
            self.ask(command, node="small")

    def test_unknown_node(self) -> None:
        """A node that is not configured is refused by name."""
        for command in (CordonNode, UncordonNode):
            words = self.refusal(UnknownNode, command, node="huge")
            assert "no node is called 'huge'; the nodes are large, small" == words


class AuditTests(ChangesTestCase):
    def test_every_change_is_recorded_with_who_asked(self) -> None:
        """It has the command, what it names, and the process, user and group that asked."""
        lines = self.audits
        who = {
            "peer_pid": OWN_CREDENTIALS.pid,
            "peer_uid": OWN_CREDENTIALS.uid,
            "peer_gid": OWN_CREDENTIALS.gid,
        }
        chat = {"model": "org/chat", "node": "large"}
        new = {"model": "org/new", "node": "small"}

        self.ask(PinModel, **chat)
        self.ask(UnpinModel, **chat)
        self.ask(CordonNode, node="large")
        self.ask(UncordonNode, node="large")
        self.ask(LoadModel, **new)
        self.ask(UnloadModel, **chat, now=True)

        given = {"actor": Users().actor(OWN_CREDENTIALS.uid), "logged": who}
        assert [
            {**given, "command": "pin", **chat},
            {**given, "command": "unpin", **chat},
            {**given, "command": "cordon", "node": "large", "model": None},
            {**given, "command": "uncordon", "node": "large", "model": None},
            {**given, "command": "load", **new},
            {**given, "command": "unload", **chat, "now": True},
        ] == lines

    def test_what_is_refused_or_only_asked_is_no_change(self) -> None:
        """Neither a plan nor a refusal is recorded."""
        self.ask(PlanLoad, model="org/new")
        self.refusal(Refused, LoadModel, model="org/old")
        self.refusal(UnknownNode, CordonNode, node="huge")
        assert [] == self.audits


class AliasTests(ChangesTestCase):
    aliases = MappingProxyType({"new": "org/new", "org/chat": "org/old", "gone": "org/gone"})

    def test_it_is_its_model(self) -> None:
        """An operator may name a model as its clients do."""
        assert "org/new" == self.ask(PlanLoad, model="new")["plan"].model
        self.ask(LoadModel, model="new", node="small")
        self.given.tell(UnloadDone("small", "org/old"))
        self.given.tell(LoadDone("small", "org/new", 12.5))
        self.ask(PinModel, model="new", node="small")
        pinned = [node.pins for node in self.ask(ListNodes, offset=0)["items"]]
        self.ask(UnpinModel, model="new", node="small")
        decisions = self.ask(Why, what="new", offset=0)["items"]

        assert [[], ["org/new"]] == pinned
        assert ["org/new"] == [decision.model for decision in decisions]
        assert "org/new" == self.ask(UnloadModel, model="new")["unload"].model

    def test_an_id_comes_first(self) -> None:
        """What is an id of a model means that model, as it does to clients."""
        assert "org/chat" == self.ask(UnloadModel, model="org/chat")["unload"].model

    def test_its_model_is_named_where_that_is_missing(self) -> None:
        """An alias of what no node lists is refused by the name of that."""
        assert "no node lists a model 'org/gone'" == self.refusal(
            UnknownModel, LoadModel, model="gone"
        )

    def test_nodes_that_do_not_answer_may_have_it(self) -> None:
        """A model that no node lists may be on one that is down, which the refusal names."""
        self.given.tell(PollFailed("small", PollFailure("connection refused", silent=False)))

        assert "no node lists a model 'org/gone', and some do not answer: small" == self.refusal(
            UnknownModel, LoadModel, model="gone"
        )


class ManyModelsTests(ControlTestCase):
    def test_pages_of_models(self) -> None:
        """A catalogue that does not fit into one value comes in pages, whole and in order."""
        models = [f"organisation/model-{number:04}" for number in range(1500)]
        self.given.see_all("small", dict.fromkeys(models, UNLOADED))
        self.given.see_all("large", dict.fromkeys(models, UNLOADED))
        client, _server, pump = self.connect()

        found: list[str] = []
        pages = offset = 0
        while offset != LAST_PAGE:
            answered: Deferred[Any] = send(client, ListModels, offset=offset)
            pump.flush()
            answer = self.successResultOf(answered)
            assert all(2 == len(model.replicas) for model in answer["items"])
            found += [model.id for model in answer["items"]]
            offset = answer["next"]
            pages += 1

        assert models == found
        assert pages > 1

    def test_a_long_plan(self) -> None:
        """What a plan tells fits into a value, however many models it gives up."""
        models = [f"{number:04}" + "x" * 200 for number in range(400)]
        self.given = ControlledFleet(
            {"large": 400}, footprints={**dict.fromkeys(models, 1), "org/new": 400}
        )
        self.given.see_all("large", {**dict.fromkeys(models, LOADED), "org/new": UNLOADED})
        self.factory = self.make_factory()

        plan: PlanSummary = self.ask(LoadModel, model="org/new")["plan"]

        assert ("org/new", "large") == (plan.model, plan.node)
        assert plan.victims
        assert set(plan.victims) <= set(models)
        [decision] = self.ask(Why, what="org/new", offset=0)["items"]
        assert decision.victims
        [node] = self.ask(ListNodes, offset=0)["items"]
        assert node.swap.victims
        assert len(models[0]) < amp.MAX_VALUE_LENGTH < 400 * len(models[0])


class EjectionTests(ChangesTestCase):
    def test_everywhere(self) -> None:
        """An ejected replica shows with its node, among the replicas, with its model, in why."""
        grant = self.successResultOf(self.given.begin("org/chat", "request-1"))
        self.given.dispatcher.release(grant.lease, Outcome(fault="lock lost", poisoned=True))
        self.given.clock.advance(4.0)

        (node,) = self.ask(ListNodes, offset=0, node="large")["items"]
        assert {"org/chat": "lock lost"} == node.ejected
        assert "poisoned: org/chat (lock lost)" == node.restart_reason
        replicas = self.ask(ListReplicas, node="large", offset=0)["items"]
        shown = {each.model: (each.ejected_seconds, each.ejection_reason) for each in replicas}
        assert (6.0, "lock lost") == shown["org/chat"]
        assert (None, "") == shown["org/old"]
        models = {each.id: each for each in self.ask(ListModels, offset=0)["items"]}
        assert [True] == [each.ejected for each in models["org/chat"].replicas]
        (decision, *_) = self.ask(Why, what="org/chat", offset=0)["items"]
        assert ("eject", "large") == (decision.action, decision.node)
