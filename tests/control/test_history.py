"""What the control socket tells of decisions and of what was done."""

from types import MappingProxyType

from hypothesis import given, settings
from hypothesis import strategies as st

from cortexd.control.contract import (
    LAST_PAGE,
    CordonNode,
    Events,
    LoadModel,
    Refused,
    UnknownModel,
    Why,
)
from cortexd.control.server import MAX_ENTRIES, ControlFactory
from cortexd.control.summaries import (
    EventSummary,
    RequestSummary,
)
from cortexd.errors import Overloaded
from cortexd.fleet.states import ReplicaState
from cortexd.scheduling.events import (
    LoadDone,
    UnloadDone,
)
from tests.support.control import STARTED_AT, ChangesTestCase, ControlTestCase

LOADED, UNLOADED = ReplicaState.LOADED, ReplicaState.UNLOADED


class WhyTests(ChangesTestCase):
    def test_a_model(self) -> None:
        """A model's decisions come with the latest first, those that gave it up among them."""
        self.ask(LoadModel, model="org/new", node="small")
        self.given.tell(UnloadDone("small", "org/old"))
        self.given.tell(LoadDone("small", "org/new", 12.5))
        self.clock.advance(30.0)
        self.ask(LoadModel, model="org/old", node="small")
        self.clock.advance(5.0)

        answer = self.ask(Why, what="org/old", offset=0)

        latest, earlier = answer["items"]
        assert (None, LAST_PAGE) == (answer["request"], answer["next"])
        assert ("load", "org/old", ["org/new"], 5.0) == (
            latest.action,
            latest.model,
            latest.victims,
            latest.age_seconds,
        )
        assert "evicts org/new (500 MiB, unused for 30 s)" == latest.cost
        assert ("load", "org/new", ["org/old"], 35.0) == (
            earlier.action,
            earlier.model,
            earlier.victims,
            earlier.age_seconds,
        )

    def test_a_node(self) -> None:
        """The decisions about its models are those about it; another node's are not."""
        self.ask(LoadModel, model="org/new", node="small")
        [decision] = self.ask(Why, what="small", offset=0)["items"]
        assert ("load", "org/new", "small") == (decision.action, decision.model, decision.node)
        answer = self.ask(Why, what="large", offset=0)
        assert (None, []) == (answer["request"], answer["items"])

    def test_an_idle_model(self) -> None:
        """Of a model about which nothing was decided there is nothing to tell."""
        answer = self.ask(Why, what="org/chat", offset=0)
        assert (None, []) == (answer["request"], answer["items"])

    def test_a_request(self) -> None:
        """A request that was answered at once needed no decision."""
        answer = self.ask(Why, what="request-0", offset=0)
        assert [] == answer["items"]
        assert (
            RequestSummary(
                request_id="request-0",
                model="org/chat",
                outcome="resident",
                node="large",
                age_seconds=10.0,
                queued_seconds=0.0,
                decision=None,
            )
            == answer["request"]
        )

    def test_a_request_that_waits(self) -> None:
        """A request that waits is told with the decision that brings its model."""
        waiting = self.given.begin("org/new", "request-1")
        self.clock.advance(4.0)

        answer = self.ask(Why, what="request-1", offset=0)

        self.assertNoResult(waiting)
        [decision] = answer["items"]
        assert ("waiting", None, 4.0, decision.number) == (
            answer["request"].outcome,
            answer["request"].node,
            answer["request"].queued_seconds,
            answer["request"].decision,
        )
        assert ("org/new", ["org/old"], "requests wait for it") == (
            decision.model,
            decision.victims,
            decision.reason,
        )

    def test_a_request_that_had_to_wait(self) -> None:
        """Once it is answered, the decision that loaded its model for it is still told."""
        waiting = self.given.begin("org/new", "request-1")
        node = self.began()[0][1]
        self.given.tell(UnloadDone(node, "org/old"))
        self.clock.advance(4.0)
        self.given.tell(LoadDone(node, "org/new", 4.0))
        self.successResultOf(waiting)

        answer = self.ask(Why, what="request-1", offset=0)

        [decision] = answer["items"]
        assert ("swapped", node, 4.0) == (
            answer["request"].outcome,
            answer["request"].node,
            answer["request"].queued_seconds,
        )
        assert ["org/old"] == decision.victims

    def test_a_rejected_request(self) -> None:
        """The words of a rejection are those that the client was told."""
        self.ask(CordonNode, node="large")
        self.ask(CordonNode, node="small")
        self.failureResultOf(self.given.begin("org/new", "request-1"), Overloaded)

        request = self.ask(Why, what="request-1", offset=0)["request"]

        assert request.outcome.startswith("rejected: ")
        assert "cordoned" in request.outcome

    def test_nobody(self) -> None:
        """What is neither a model nor a request is refused as such."""
        words = self.refusal(UnknownModel, Why, what="org/none", offset=0)
        assert "'org/none' is unknown" in words
        assert "last 2000 requests" in words

    def test_many_decisions(self) -> None:
        """What does not fit into one value comes in pages, and nothing is missing or double."""
        for _ in range(200):
            self.ask(LoadModel, model="org/new", node="small")
            self.given.tell(UnloadDone("small", "org/old"))
            self.given.tell(LoadDone("small", "org/new", 1.0))
            self.ask(LoadModel, model="org/old", node="small")
            self.given.tell(UnloadDone("small", "org/new"))
            self.given.tell(LoadDone("small", "org/old", 1.0))

        numbers: list[int] = []
        pages = offset = 0
        while offset != LAST_PAGE:
            answer = self.ask(Why, what="org/new", offset=offset)
            numbers += [decision.number for decision in answer["items"]]
            offset = answer["next"]
            pages += 1

        assert list(range(400, 0, -1)) == numbers
        assert pages > 1


class EventsTests(ControlTestCase):
    aliases = MappingProxyType({"old": "org/old"})

    def append(self, kind: str, model: str | None = None, **fields: object) -> int:
        """Write an entry."""
        return self.journal.append(self.clock.seconds(), kind, "large", model, fields)

    def test_entries(self) -> None:
        """Entries come with all they have, the oldest first, and the number of the last."""
        self.append("loaded", "org/chat", seconds=12.5, gives_up=["org/old"])
        self.append("cordoned")

        answer = self.ask(Events, after=0, limit=10)

        assert 2 == answer["last"]
        assert [
            EventSummary(
                number=1,
                at=STARTED_AT,
                kind="loaded",
                node="large",
                model="org/chat",
                fields={"seconds": 12.5, "gives_up": ["org/old"]},
            ),
            EventSummary(
                number=2, at=STARTED_AT, kind="cordoned", node="large", model=None, fields={}
            ),
        ] == answer["items"]

    def test_after(self) -> None:
        """Only newer entries are told, and none if there is nothing newer."""
        for kind in ("a", "b", "c"):
            self.append(kind)
        assert ["c"] == [event.kind for event in self.ask(Events, after=2, limit=10)["items"]]
        assert {"items": [], "last": 3} == self.ask(Events, after=3, limit=10)

    def test_a_model(self) -> None:
        """Only what happened to one model may be asked for."""
        self.append("loaded", "org/chat")
        self.append("loaded", "org/old")
        asked = self.ask(Events, after=0, limit=10, model="org/old")
        assert [2] == [event.number for event in asked["items"]]
        assert asked == self.ask(Events, after=0, limit=10, model="old")

    def test_limit(self) -> None:
        """There are no more than were asked for, nor than the daemon reads at once."""
        for _ in range(MAX_ENTRIES + 1):
            self.append("loaded")
        assert 3 == len(self.ask(Events, after=0, limit=3)["items"])
        assert MAX_ENTRIES == len(self.ask(Events, after=0, limit=10**9)["items"])
        assert {"items": [], "last": MAX_ENTRIES + 1} == self.ask(Events, after=0, limit=0)

    def test_no_journal(self) -> None:
        """A daemon without a journal says so."""
        self.factory = ControlFactory(self.given.dispatcher, None, self.clock, STARTED_AT, {})
        assert "has no journal" in self.refusal(Refused, Events, after=0, limit=10)

    @settings(max_examples=25)
    @given(
        st.lists(
            st.tuples(st.sampled_from(["org/a", "org/b", None]), st.integers(0, 30_000)),
            max_size=30,
        ),
        st.integers(1, 50),
        st.sampled_from(["org/a", "org/b", None]),
    )
    def test_pages(
        self, entries: list[tuple[str | None, int]], limit: int, model: str | None
    ) -> None:
        """Asking on after the last entry gives every entry once, however long they are."""
        before = self.journal.last_number
        for of_model, length in entries:
            # Lists are not cut by the journal, as long texts are.
            self.append("loaded", of_model, words=["x" * 1000] * (length // 1000))
        found: list[EventSummary] = []
        after = before
        while items := self.ask(Events, after=after, limit=limit, model=model)["items"]:
            assert len(items) <= limit
            found += items
            after = items[-1].number

        expected = [
            before + position
            for position, (of_model, _length) in enumerate(entries, start=1)
            if model in (None, of_model)
        ]
        assert expected == [event.number for event in found]
