from collections.abc import Mapping
from functools import cache
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.test.iosim import IOPump

from cortexd import __version__
from cortexd.control.contract import PROTOCOL, Refused, UnknownNode
from cortexd.control.summaries import PlanSummary
from cortexd.ctl.client import ControlClient
from cortexd.ctl.commands import SUBCOMMANDS, DaemonVersion, carry_out
from cortexd.ctl.fleet_output import Status
from cortexd.ctl.main import make_parser
from cortexd.ctl.output import Explanation
from cortexd.ctl.progress import Done
from cortexd.fleet.states import ReplicaState
from cortexd.scheduling.events import (
    CordonWanted,
    LoadDone,
    LoadFailed,
    StartLoad,
    StartUnload,
    UnloadDone,
)
from cortexd.store.journal import Store
from tests.support.control import STARTED_AT, ControlledFleet, ControlTestCase
from tests.support.stores import free_path

LOADED, UNLOADED = ReplicaState.LOADED, ReplicaState.UNLOADED

parser = cache(make_parser)
"""Returns the parser of the command line, which takes longer to make than most tests."""


class CommandTestCase(ControlTestCase):
    """Command lines, carried out at a daemon of two nodes; ``told`` is what was shown meanwhile."""

    def make_fleet(self) -> ControlledFleet:
        """Return a fleet where loading "new" gives up "old", on either node."""
        given = ControlledFleet(
            {"large": 1000, "small": 500},
            footprints={"org/old": 400, "org/chat": 500, "org/new": 500},
        )
        given.see("large", old=LOADED, chat=LOADED, new=UNLOADED)
        given.see("small", old=LOADED, new=UNLOADED)
        given.clock.advance(30.0)
        return given

    def setUp(self) -> None:
        """Connect nobody yet."""
        super().setUp()
        self.told: list[tuple[str, Mapping[str, Any] | None]] = []
        self.pumps: list[IOPump] = []

    def begin(self, line: str) -> Deferred[Any]:
        """Let a command line begin; what it comes to is the answer."""
        arguments = parser().parse_args(line.split())
        connection, server, pump = self.connect()
        client = ControlClient(connection, self.clock, "/control.sock", 10.0)

        def tell(text: str, data: Mapping[str, Any] | None = None) -> None:
            self.told.append((text, data))

        subcommand = SUBCOMMANDS[arguments.subcommand]
        answered = Deferred.fromCoroutine(carry_out(subcommand, client, arguments, tell))
        pump.flush()
        if answered.called:
            server.transport.loseConnection()
            pump.flush()
        else:
            self.pumps.append(pump)
        return answered

    def answer(self, line: str) -> Any:
        """Return what a command line comes to at once."""
        return self.successResultOf(self.begin(line))

    def done(self, line: str) -> tuple[str, Mapping[str, Any]]:
        """Return what a change comes to, for people and for programs."""
        done: Done = self.answer(line)
        return done.text, done.data

    def refused(self, line: str) -> str:
        """Return the words with which a command line is refused."""
        return str(self.failureResultOf(self.begin(line), Refused).value)

    def pass_second(self) -> None:
        """Let a second pass, so that what polls asks again."""
        self.clock.advance(1.0)
        for pump in self.pumps:
            pump.flush()

    def texts(self) -> list[str]:
        """Return what was told since this was asked last."""
        found = [text for text, _data in self.told]
        self.told.clear()
        return found


class AskingTests(CommandTestCase):
    def test_version(self) -> None:
        """The version is asked of a daemon of any protocol."""
        version: DaemonVersion = self.answer("version")
        assert (__version__, STARTED_AT) == (version.version, version.started_at)
        subcommand = SUBCOMMANDS["version"]
        other = DaemonVersion(version="9.8.7", pid=42, started_at=1000.0, protocol=3)
        assert (
            f"cortexctl {__version__}, control protocol {PROTOCOL}\n"
            "cortexd 9.8.7, control protocol 3, process 42, up 1m40s\n"
        ) == subcommand.text(other, 1100.0)
        assert {
            "version": "9.8.7",
            "pid": 42,
            "started_at": 1000.0,
            "protocol": 3,
            "client_version": __version__,
            "client_protocol": PROTOCOL,
        } == subcommand.data(other)

    def test_status(self) -> None:
        """The whole fleet is asked for."""
        self.successResultOf(self.given.begin("org/chat", "request-1"))
        self.given.begin("org/new", "request-2")
        status: Status = self.answer("status")
        assert ["large", "small"] == [node.name for node in status.nodes]
        assert ["org/chat", "org/new", "org/old"] == [
            replica.model for replica in status.replicas["large"]
        ]
        assert ["request-1"] == [lease.request_id for lease in status.leases]
        assert [0, 1, 0] == [model.waiting for model in status.models]

    def test_nodes_and_models(self) -> None:
        """Either list comes whole."""
        assert ["large", "small"] == [node.name for node in self.answer("nodes")]
        assert ["org/chat", "org/new", "org/old"] == [model.id for model in self.answer("models")]

    def test_ps(self) -> None:
        """Only what is in memory is told, node by node."""
        assert [("large", "org/chat"), ("large", "org/old"), ("small", "org/old")] == [
            (node, replica.model) for node, replica in self.answer("ps")
        ]

    def test_plan(self) -> None:
        """A plan changes nothing."""
        plan: PlanSummary = self.answer("plan load org/new --node small")
        assert ("small", ["org/old"]) == (plan.node, plan.victims)
        begun = [each for each in self.given.effects if isinstance(each, StartLoad | StartUnload)]
        assert [] == begun

    def test_the_nearest_model(self) -> None:
        """A model that nobody lists is refused with the nearest that there is."""
        for line in (
            "load org/chatt",
            "unload ORG/CHAT",
            "pin chat --node large",
            "plan load org-chat",
            "why Org/chat",
        ):
            assert self.refused(line).endswith("did you mean org/chat?"), line
        assert "no node lists a model 'org/chatt'; did you mean org/chat?" == self.refused(
            "load org/chatt"
        )

    def test_nothing_near(self) -> None:
        """Where nothing is near it is said how to see what there is."""
        expected = "no node lists a model 'xyz'; 'cortexctl models' shows the models"
        assert expected == self.refused("load xyz")

    def test_unknown_node(self) -> None:
        """A node that nobody configured is refused with those that there are."""
        for line in ("cordon huge", "drain huge", "load org/new --node huge"):
            error = self.failureResultOf(self.begin(line), UnknownNode).value
            assert "no node is called 'huge'; the nodes are large, small" == str(error)


class ChangingTests(CommandTestCase):
    def test_unload(self) -> None:
        """It is said where the model goes, and the scheduler sees to it."""
        text, data = self.done("unload org/old")
        assert "unloading org/old from large, small\n" == text
        assert {"unload": {"model": "org/old", "nodes": ["large", "small"], "leases": 0}} == data

    def test_unload_now(self) -> None:
        """It is said how many requests that cuts."""
        self.successResultOf(self.given.begin("org/chat", "request-1"))
        text, _data = self.done("unload org/chat --now")
        assert "unloading org/chat from large, which aborts 1 request\n" == text
        [unload] = [each for each in self.given.effects if isinstance(each, StartUnload)]
        assert unload.now

    def test_pins(self) -> None:
        """A pin is confirmed, and so is its end; what was so already is refused."""
        assert (
            "org/chat is pinned on large\n",
            {"model": "org/chat", "node": "large", "pinned": True},
        ) == self.done("pin org/chat --node large")
        assert "is already pinned on large" in self.refused("pin org/chat --node large")
        assert (
            "org/chat is no longer pinned on large\n",
            {"model": "org/chat", "node": "large", "pinned": False},
        ) == self.done("unpin org/chat --node large")

    def test_cordons(self) -> None:
        """A cordon is confirmed, and so is its end."""
        expected = ("small gets no new work\n", {"node": "small", "cordoned": True})
        assert expected == self.done("cordon small")
        assert self.fleet.nodes["small"].cordoned
        expected = ("small gets work again\n", {"node": "small", "cordoned": False})
        assert expected == self.done("uncordon small")
        assert not self.fleet.nodes["small"].cordoned


class UnstoredTests(CommandTestCase):
    """The daemon's directory is a file, and so it stores nothing."""

    def make_journal(self) -> Store:
        """Return a journal in memory."""
        blocked = free_path(self)
        blocked.write_text("in the way")
        journal = Store(blocked, STARTED_AT)
        self.addCleanup(journal.close)
        return journal

    def test_changes_say_that_they_are_not_stored(self) -> None:
        """A pin or a cordon counts, with the reason why it will be lost."""
        words = ", but not stored: File exists; it is lost at the next restart\n"
        for line, done in (
            ("pin org/chat --node large", "org/chat is pinned on large"),
            ("unpin org/chat --node large", "org/chat is no longer pinned on large"),
            ("cordon small", "small gets no new work"),
            ("uncordon small", "small gets work again"),
        ):
            text, data = self.done(line)
            assert done + words == text
            assert "File exists" == data["unstored"]

    def test_status_says_so(self) -> None:
        """The first line is about it."""
        status: Status = self.answer("status")
        expected = (
            "the state is not stored: File exists; changes of pins and cordons are lost at the "
            "next restart"
        )
        assert expected == SUBCOMMANDS["status"].text(status, 1100.0).splitlines()[0]
        assert "File exists" == SUBCOMMANDS["status"].data(status)["unstored"]


class LoadTests(CommandTestCase):
    BEGUN = (
        "loading org/new on small: it evicts org/old (400 MiB, not used yet) and takes about "
        "30s, an assumption: no load was seen yet\n"
    )

    def test_load(self) -> None:
        """What begins is said at once: where, what is given up for it, and how long it takes."""
        text, data = self.done("load org/new --node small")
        assert self.BEGUN == text
        assert ("small", ["org/old"]) == (data["plan"]["node"], data["plan"]["victims"])

    def test_wait(self) -> None:
        """With --wait the command ends when the model is loaded, and says how long it took."""
        waiting = self.begin("load org/new --node small --wait")
        assert [self.BEGUN] == self.texts()
        self.pass_second()
        self.given.tell(UnloadDone("small", "org/old"))
        self.pass_second()
        self.assertNoResult(waiting)
        self.given.tell(LoadDone("small", "org/new", 1.0))
        self.pass_second()

        done: Done = self.successResultOf(waiting)
        assert ("loaded, after 3s\n", 3.0) == (done.text, done.data["seconds"])
        assert [] == self.texts()

    def test_wait_for_victims(self) -> None:
        """While a victim still answers, the load has not failed: it has not begun."""
        self.successResultOf(self.given.begin("org/chat", "request-1"))
        grants = [
            self.successResultOf(self.given.begin("org/old", request_id))
            for request_id in ("request-2", "request-3")
        ]
        waiting = self.begin("load org/new --node large --wait")
        for _ in range(5):
            self.pass_second()
        self.assertNoResult(waiting)
        for grant in grants:
            self.given.dispatcher.release(grant.lease)
        self.given.tell(UnloadDone("large", "org/old"))
        self.given.tell(LoadDone("large", "org/new", 1.0))
        self.pass_second()
        assert "loaded, after 6s\n" == self.successResultOf(waiting).text

    def test_failure(self) -> None:
        """A load that fails is a refusal in the node's own words."""
        waiting = self.begin("load org/new --node small --wait")
        self.given.tell(UnloadDone("small", "org/old"))
        self.given.tell(LoadFailed("small", "org/new", "no such file"))
        self.pass_second()
        error = self.failureResultOf(waiting, Refused).value
        assert "small could not load org/new: no such file" == str(error)

    def test_given_up(self) -> None:
        """A load that does not come to its end is a refusal that says where to look."""
        waiting = self.begin("load org/new --node small --wait")
        self.given.tell(CordonWanted("small", cordoned=True))
        self.given.tell(UnloadDone("small", "org/old"))
        self.pass_second()
        error = self.failureResultOf(waiting, Refused).value
        assert "org/new is no longer being loaded on small; 'cortexctl events" in str(error)

    def test_model_gone(self) -> None:
        """A node that does not list the model any more cannot load it."""
        waiting = self.begin("load org/new --node small --wait")
        self.given.see("small", old=LOADED)
        self.pass_second()
        error = self.failureResultOf(waiting, Refused).value
        assert "small does not list org/new any more" == str(error)


class DrainTests(CommandTestCase):
    def lease(self, number: int) -> Any:
        """Let a request be at work on the node "large"."""
        return self.successResultOf(self.given.begin("org/chat", f"request-{number}")).lease

    def test_idle(self) -> None:
        """A node where nothing runs is drained as soon as it is cordoned."""
        expected = (
            "small is drained: no request is running there\n",
            {"node": "small", "cordoned": True, "leases": 0},
        )
        assert expected == self.done("drain small")
        assert self.fleet.nodes["small"].cordoned
        assert ["small gets no new work\n"] == self.texts()

    def test_wait(self) -> None:
        """It is told how many are left, each time that there are fewer, until there are none."""
        first, second = self.lease(1), self.lease(2)
        waiting = self.begin("drain large")
        assert ["large gets no new work\n", "2 requests left on large\n"] == self.texts()
        self.pass_second()
        assert [] == self.texts()
        self.given.dispatcher.release(first)
        self.pass_second()
        assert ["1 request left on large\n"] == self.texts()
        self.given.dispatcher.release(second)
        self.assertNoResult(waiting)
        self.pass_second()
        done: Done = self.successResultOf(waiting)
        assert "large is drained: no request is running there\n" == done.text
        assert all(data is None for _text, data in self.told)

    def test_no_wait(self) -> None:
        """Without waiting it is told how many are left now."""
        self.lease(1)
        expected = (
            "1 request left on large\n",
            {"node": "large", "cordoned": True, "leases": 1},
        )
        assert expected == self.done("drain large --no-wait")

    def test_uncordoned_meanwhile(self) -> None:
        """A node that gets work again would never be drained."""
        self.lease(1)
        waiting = self.begin("drain large")
        self.given.tell(CordonWanted("large", cordoned=False))
        self.pass_second()
        error = self.failureResultOf(waiting, Refused).value
        assert "large gets work again: it was uncordoned in the meantime" == str(error)


class WhyTests(CommandTestCase):
    def test_count(self) -> None:
        """As many of the latest decisions are asked for as are to be shown."""
        for _ in range(200):
            self.done("load org/new --node small")
            self.given.tell(UnloadDone("small", "org/old"))
            self.given.tell(LoadDone("small", "org/new", 1.0))
            self.done("load org/old --node small")
            self.given.tell(UnloadDone("small", "org/new"))
            self.given.tell(LoadDone("small", "org/old", 1.0))
        for count in (1, 10, 399, 500):
            explanation: Explanation = self.answer(f"why org/new -n {count}")
            numbers = [decision.number for decision in explanation.decisions]
            assert list(range(400, 400 - min(count, 400), -1)) == numbers

    def test_a_request(self) -> None:
        """A request is told with the decision about its model."""
        self.given.begin("org/new", "request-1")
        explanation: Explanation = self.answer("why request-1")
        assert explanation.request is not None
        assert ("request-1", "waiting", ["load"]) == (
            explanation.what,
            explanation.request.outcome,
            [decision.action for decision in explanation.decisions],
        )


class EventsTests(CommandTestCase):
    def append(self, kind: str, model: str | None = None) -> None:
        """Write an entry into the journal."""
        self.journal.append(self.clock.seconds(), kind, "large", model, {})

    def kinds(self) -> list[str]:
        """Return the kinds of entries that were told since this was asked last."""
        found = [data["kind"] for _text, data in self.told if data is not None]
        assert len(found) == len(self.told)
        self.told.clear()
        return found

    def test_latest(self) -> None:
        """The latest entries come in their order, no more than are to be shown."""
        assert [] == self.answer("events")
        for number in range(450):
            self.append(f"kind-{number}")
        expected = [f"kind-{number}" for number in range(400, 450)]
        assert expected == [event.kind for event in self.answer("events")]
        assert [f"kind-{n}" for n in range(450)] == [e.kind for e in self.answer("events -n 1000")]

    def test_latest_of_a_model(self) -> None:
        """The latest entries of a model are found however old they are."""
        for number in range(3):
            self.append(f"kind-{number}", "org/chat")
        for _ in range(250):
            self.append("other", "org/old")
        events = self.answer("events --model org/chat -n 2")
        assert ["kind-1", "kind-2"] == [event.kind for event in events]

    def test_follow(self) -> None:
        """The latest are told, then what comes, each once, within a second; for ever."""
        for number in range(3):
            self.append(f"kind-{number}")
        following = self.begin("events -f -n 2")
        assert ["kind-1", "kind-2"] == self.kinds()
        self.pass_second()
        assert [] == self.kinds()
        for number in range(3, 303):
            self.append(f"kind-{number}")
        self.pass_second()
        assert [f"kind-{number}" for number in range(3, 303)] == self.kinds()
        self.pass_second()
        assert [] == self.kinds()
        self.assertNoResult(following)
        following.cancel()
        self.failureResultOf(following, CancelledError)

    def test_follow_a_model(self) -> None:
        """What happens to others is not told."""
        self.append("old", "org/chat")
        self.append("other", "org/old")
        following = self.begin("events -f --model org/chat")
        assert ["old"] == self.kinds()
        self.append("other", "org/old")
        self.append("new", "org/chat")
        self.pass_second()
        assert ["new"] == self.kinds()
        following.cancel()
        self.failureResultOf(following, CancelledError)
