import json
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from cortexd.control.summaries import (
    CandidateSummary,
    DecisionSummary,
    PlanSummary,
    RequestSummary,
    UnloadSummary,
)
from cortexd.ctl.output import (
    Explanation,
    loading_text,
    plan_data,
    plan_text,
    unload_text,
    why_data,
    why_text,
)

NOW = 1100.0


def decision(number: int, **changes: Any) -> DecisionSummary:
    """Return a decision to load, but for the changes."""
    load = DecisionSummary(
        number=number,
        age_seconds=310.0,
        action="load",
        model="org/new",
        node="gpu-1",
        reason="requests wait for it",
        victims=["org/old"],
        cost="evicts org/old (8000 MiB, unused for 30 s)",
        seconds=42.0,
        candidates=[
            CandidateSummary(
                node="gpu-1",
                possible=True,
                cost="evicts org/old (8000 MiB, unused for 30 s)",
                victims=["org/old"],
            ),
            CandidateSummary(node="gpu-2", possible=False, cost="can never hold it", victims=[]),
        ],
    )
    return msgspec.structs.replace(load, **changes)


PLAN = PlanSummary(
    model="org/new",
    node="gpu-1",
    victims=["org/old"],
    seconds=42.4,
    is_measured=True,
    cost="evicts org/old (8000 MiB, unused for 30 s)",
    candidates=decision(1).candidates,
)


class PlanTests(SynchronousTestCase):
    def test_text(self) -> None:
        """What would be done, what it would cost, and what each node would cost."""
        expected = """\
org/new would be loaded on gpu-1: it evicts org/old (8000 MiB, unused for 30 s) and takes \
about 42s, like its last loads

NODE   POSSIBLE  COST
gpu-1  yes       evicts org/old (8000 MiB, unused for 30 s)
gpu-2  no        can never hold it
"""
        assert expected == plan_text(PLAN, NOW)

    def test_assumed(self) -> None:
        """Seconds that nobody has measured are said to be assumed, and few are few."""
        plan = msgspec.structs.replace(PLAN, is_measured=False)
        assert "about 42s, an assumption: no load was seen yet" in plan_text(plan, NOW)
        quick = msgspec.structs.replace(PLAN, seconds=0.4)
        assert "takes less than a second, like" in plan_text(quick, NOW)

    def test_begun(self) -> None:
        """A load that has begun is told in the same words."""
        expected = (
            "loading org/new on gpu-1: it evicts org/old (8000 MiB, unused for 30 s) and takes "
            "about 42s, like its last loads\n"
        )
        assert expected == loading_text(PLAN)

    def test_data(self) -> None:
        """The JSON has the whole plan."""
        data = plan_data(PLAN)
        assert {"plan": msgspec.to_builtins(PLAN)} == data
        assert data == json.loads(json.dumps(data))


class UnloadTests(SynchronousTestCase):
    def unload(self, leases: int, *, now: bool) -> str:
        """Return what is said of an unload from two nodes."""
        summary = UnloadSummary(model="org/old", nodes=["a", "b"], leases=leases)
        return unload_text(summary, now=now)

    def test_text(self) -> None:
        """It is said where it goes, and what becomes of its requests."""
        assert "unloading org/old from a, b\n" == self.unload(0, now=False)
        assert "unloading org/old from a, b after 1 request on it has ended\n" == self.unload(
            1, now=False
        )
        assert "unloading org/old from a, b after 2 requests on it have ended\n" == self.unload(
            2, now=False
        )
        assert "unloading org/old from a, b, which aborts 2 requests\n" == self.unload(2, now=True)
        assert "unloading org/old from a, b\n" == self.unload(0, now=True)


class WhyTests(SynchronousTestCase):
    def test_a_model(self) -> None:
        """The latest decision is told in full, the ones before it in a line each."""
        unload = decision(
            1,
            action="unload_failed",
            age_seconds=4000.0,
            model="org/old",
            node=None,
            reason="it is busy",
            cost="",
            candidates=[],
        )
        explanation = Explanation(
            what="org/new", request=None, decisions=[decision(3), decision(2), unload]
        )
        expected = """\
5m10s ago: load org/new on gpu-1, because requests wait for it
it evicts org/old (8000 MiB, unused for 30 s), expected to take 42s

NODE   POSSIBLE  COST
gpu-1  yes       evicts org/old (8000 MiB, unused for 30 s)
gpu-2  no        can never hold it

AGE    ACTION         MODEL    NODE   REASON                COST
5m10s  load           org/new  gpu-1  requests wait for it  evicts org/old (8000 MiB, unused for \
30 s)
1h6m   unload failed  org/old  -      it is busy            -
"""
        assert expected == why_text(explanation, NOW)

    def test_a_failure(self) -> None:
        """What has no cost and no candidates is told in one line."""
        failed = decision(
            1, action="load_failed", reason="no such file", cost="", candidates=[], victims=[]
        )
        explanation = Explanation(what="org/new", request=None, decisions=[failed])
        expected = "5m10s ago: load failed org/new on gpu-1, because no such file\n"
        assert expected == why_text(explanation, NOW)

    def request(self, **changes: Any) -> RequestSummary:
        """Return a request that was answered after a swap, but for the changes."""
        swapped = RequestSummary(
            request_id="request-1",
            model="org/new",
            outcome="swapped",
            node="gpu-1",
            age_seconds=75.0,
            queued_seconds=43.0,
            decision=3,
        )
        return msgspec.structs.replace(swapped, **changes)

    def test_a_request(self) -> None:
        """What became of a request comes first, and then the decision that loaded for it."""
        explanation = Explanation(what="request-1", request=self.request(), decisions=[decision(3)])
        first, blank, second, *_rest = why_text(explanation, NOW).splitlines()
        assert (
            "request-1 requested org/new: swapped, answered on gpu-1, 43s in the queue, 1m15s ago"
            == first
        )
        assert "" == blank
        assert second.startswith("5m10s ago: load org/new on gpu-1")

    def test_a_request_that_waits(self) -> None:
        """A request that waits has no node, and its wait is its age."""
        request = self.request(outcome="waiting", node=None)
        explanation = Explanation(what="request-1", request=request, decisions=[])
        expected = "request-1 requested org/new: waiting, 43s in the queue\n"
        assert expected == why_text(explanation, NOW)

    def test_a_decision_about_a_node(self) -> None:
        """A restart is of no model: the line has the node alone."""
        restart = decision(
            7, action="restart", model="", reason="stuck: org/old", cost="", candidates=[]
        )
        text = why_text(Explanation(what="gpu-1", request=None, decisions=[restart, restart]), 0.0)
        assert "5m10s ago: restart on gpu-1, because stuck: org/old\n" in text
        assert "restart  -      gpu-1  stuck: org/old" in text

    def test_nothing_decided(self) -> None:
        """A model that needed no decision is said to have needed none."""
        explanation = Explanation(what="org/chat", request=None, decisions=[])
        expected = "since its start the daemon has decided nothing about org/chat\n"
        assert expected == why_text(explanation, NOW)

    def test_data(self) -> None:
        """The JSON has all of it."""
        explanation = Explanation(what="request-1", request=self.request(), decisions=[decision(3)])
        data = why_data(explanation)
        assert ("request-1", "swapped", [3]) == (
            data["what"],
            data["request"]["outcome"],
            [each["number"] for each in data["decisions"]],
        )
        assert data == json.loads(json.dumps(data))
