"""Loads and unloads at nodes that answer what no mistral.rs would, or at a bad moment."""

import json
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from cortexd.fleet.states import ReplicaState
from cortexd.scheduling.events import Abandon, LoadDone, LoadFailed, UnloadDone, UnloadFailed
from cortexd.upstream.lifecycle import ASKING_SECONDS, MOST_REFUSALS, UNLOAD_SECONDS
from cortexd.upstream.verifying import WATCH_SECONDS
from tests.support.fleets import MODEL, InMemoryFleet
from tests.support.lifecycles import COLD, METRICS, RELOAD, STATUS, UNLOAD, LifecycleTestCase
from tests.support.scripted import ScriptedNode

FOOTPRINTS = {MODEL: {"vram_mb": 1_000}, COLD: {"vram_mb": 4_000}}
SILENT, RESET, GARBAGE, REFUSED, ABANDON = "silent", "reset", "garbage", "refused", "abandon"
STATUSES = ("loaded", "unloaded", "reloading", "not_found", "no_loader_config", "internal_error")
SPECIAL = (SILENT, RESET, GARBAGE, REFUSED, ABANDON)
CLOSED = "the connection was closed before the answer was complete"


def say(node: ScriptedNode, status: str, error: str | None = None) -> None:
    """Answer the newest request of a node as mistral.rs does: with 200, whatever it says."""
    outcome = {"model_id": "echo", "status": status}
    node.answer(200, json.dumps(outcome | ({"error": error} if error else {})).encode())


class ScriptedTestCase(LifecycleTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.begin()

    def begin(self) -> None:
        """Begin anew with another node and fleet."""
        self.ends.clear()
        self.clock = Clock()
        self.scripted_node = self.scripted("a", MODEL)
        self.scripted_node.listed += [(COLD, "unloaded")]
        self.fleet_under_test = self.fleet_of(
            self.scripted_node, load_timeout=100.0, models=FOOTPRINTS
        )

    def says(self, path: str, status: str, error: str | None = None) -> None:
        """See that this is what is asked for now, and answer."""
        assert path == self.scripted_node.asked[-1]
        assert not self.scripted_node.requests[-1].finished
        say(self.scripted_node, status, error)
        self.fleet_under_test.flush()

    def breaks(self, path: str) -> None:
        assert path == self.scripted_node.asked[-1]
        self.scripted_node.reset()
        self.fleet_under_test.flush()


class ScriptedLoadTests(ScriptedTestCase):
    def assert_load_failed(self, reason: str, listed: ReplicaState) -> None:
        assert [LoadFailed("a", COLD, reason, listed=listed)] == self.ends
        self.assert_at_rest(self.fleet_under_test)

    def test_only_what_is_exactly_unloaded_is_reloaded(self) -> None:
        """Every other word ends the load, and no reload is asked for."""
        for status, error, reason, listed in (
            ("loaded", None, "another client of the node has loaded it", ReplicaState.LOADED),
            ("not_found", None, "the node reports not_found", ReplicaState.UNLOADED),
            ("no_loader_config", None, "the node reports no_loader_config", ReplicaState.UNLOADED),
            ("internal_error", "poisoned lock", "poisoned lock", ReplicaState.UNLOADED),
        ):
            self.begin()
            self.load(self.fleet_under_test)
            self.says(STATUS, status, error)
            self.assert_load_failed(reason, listed)
            assert [STATUS] == self.scripted_node.asked

    def test_an_answer_that_is_none_is_no_leave_to_reload(self) -> None:
        """Nor is one of another kind than 200."""
        for code, body, reason in (
            (200, b"{}", "POST /v1/models/status: the status is None, which is not known"),
            (200, b"<html>", "POST /v1/models/status: the answer is not valid JSON"),
            (503, b"later", "POST /v1/models/status answered with status 503: later"),
            (200, b'{"status":"napping"}', "the status is 'napping', which is not known"),
        ):
            self.begin()
            self.load(self.fleet_under_test)
            self.scripted_node.answer(code, body)
            self.fleet_under_test.flush()
            (end,) = self.ends
            assert isinstance(end, LoadFailed)
            assert end.reason.endswith(reason)
            assert [STATUS] == self.scripted_node.asked

    def test_a_node_that_does_not_say_its_status_is_not_waited_for(self) -> None:
        """Nothing has begun there that would be worth it."""
        self.load(self.fleet_under_test)
        self.fleet_under_test.advance(ASKING_SECONDS)
        self.assert_load_failed("no answer within 10 s", ReplicaState.UNLOADED)

    def test_somebody_may_be_quicker(self) -> None:
        """Between our question and our reload: theirs is waited for then."""
        self.load(self.fleet_under_test)
        self.says(STATUS, "unloaded")
        self.says(RELOAD, "reloading")
        self.says(STATUS, "reloading")
        self.fleet_under_test.advance(WATCH_SECONDS)
        self.says(STATUS, "loaded")
        self.assert_load_failed("another client of the node has loaded it", ReplicaState.LOADED)

    def test_somebody_may_be_quicker_still(self) -> None:
        """A reload of what is loaded bricks the id: it is listed twice then, and still answers."""
        self.load(self.fleet_under_test)
        self.says(STATUS, "unloaded")
        self.scripted_node.listed += [(COLD, "loaded"), (COLD, "reloading")]
        self.says(RELOAD, "not_found")
        (end,) = self.ends
        assert isinstance(end, LoadFailed)
        assert ReplicaState.STUCK is end.listed
        assert "restart the node" in end.reason
        self.assert_at_rest(self.fleet_under_test)

    def test_out_of_memory_is_read_off_the_nodes_words(self) -> None:
        """All of them; what is passed on is their first line."""
        self.load(self.fleet_under_test)
        self.says(STATUS, "unloaded")
        self.says(RELOAD, "internal_error", "failed to load model: x\n0: cudaMalloc failed")
        reason = "failed to load model: x"
        assert [LoadFailed("a", COLD, reason, out_of_memory=True)] == self.ends

    def test_out_of_memory_may_be_told_by_the_status(self) -> None:
        """Where the connection broke."""
        self.load(self.fleet_under_test)
        self.says(STATUS, "unloaded")
        self.breaks(RELOAD)
        self.says(STATUS, "internal_error", "CUDA out of memory")
        assert [LoadFailed("a", COLD, "CUDA out of memory", out_of_memory=True)] == self.ends

    def test_a_hiccup_is_no_end(self) -> None:
        """A question that breaks off once or twice after the connection did is asked again."""
        self.load(self.fleet_under_test)
        self.says(STATUS, "unloaded")
        self.breaks(RELOAD)
        for _ in range(MOST_REFUSALS - 1):
            self.breaks(STATUS)
            self.fleet_under_test.advance(WATCH_SECONDS)
        self.says(STATUS, "reloading")
        self.fleet_under_test.advance(WATCH_SECONDS)
        for _ in range(MOST_REFUSALS - 1):
            self.breaks(STATUS)
            self.fleet_under_test.advance(WATCH_SECONDS)
        self.says(STATUS, "loaded")
        assert [LoadDone("a", COLD, 2.5, None)] == self.ends


class ScriptedUnloadTests(ScriptedTestCase):
    def assert_unload_failed(self, reason: str, listed: ReplicaState) -> None:
        assert [UnloadFailed("a", MODEL, reason, listed)] == self.ends
        assert listed is self.state(self.fleet_under_test, MODEL)
        self.assert_at_rest(self.fleet_under_test)

    def test_only_what_is_loaded_is_unloaded(self) -> None:
        """Every other word ends the unload, and none is asked for."""
        for status in ("reloading", "no_loader_config", "internal_error"):
            self.begin()
            self.unload(self.fleet_under_test)
            self.says(STATUS, status)
            self.assert_unload_failed(
                f"the node reports {status}, but only a loaded model can be unloaded",
                ReplicaState.LOADED,
            )
            assert [STATUS] == self.scripted_node.asked

    def test_a_node_without_a_loader_for_the_model_keeps_it(self) -> None:
        """As its listing then says."""
        self.unload(self.fleet_under_test)
        self.says(STATUS, "loaded")
        self.says(UNLOAD, "no_loader_config")
        self.assert_unload_failed("the node reports no_loader_config", ReplicaState.LOADED)

    def test_a_model_that_is_lost_is_given_no_request(self) -> None:
        """A node may list it no more after an unload that failed."""
        self.unload(self.fleet_under_test)
        self.says(STATUS, "loaded")
        self.scripted_node.listed.clear()
        self.says(UNLOAD, "no_loader_config")
        self.assert_unload_failed("the node reports no_loader_config", ReplicaState.UNLOADED)

    def test_the_nodes_words_are_passed_on(self) -> None:
        """Of an error inside it."""
        self.unload(self.fleet_under_test)
        self.says(STATUS, "loaded")
        self.says(UNLOAD, "internal_error", "poisoned lock")
        self.assert_unload_failed("poisoned lock", ReplicaState.LOADED)

    def test_an_unload_that_breaks_off_may_be_done(self) -> None:
        """The status says so, once the node says anything."""
        self.unload(self.fleet_under_test)
        self.says(STATUS, "loaded")
        self.breaks(UNLOAD)
        self.fleet_under_test.advance(ASKING_SECONDS + WATCH_SECONDS)
        self.says(STATUS, "unloaded")
        assert [UnloadDone("a", MODEL)] == self.ends

    def test_an_unload_that_breaks_off_may_not_be_done(self) -> None:
        """The reason is the broken connection."""
        self.unload(self.fleet_under_test)
        self.says(STATUS, "loaded")
        self.breaks(UNLOAD)
        self.says(STATUS, "loaded")
        self.assert_unload_failed(CLOSED, ReplicaState.LOADED)

    def test_what_is_loaded_again_at_once_is_not_gone(self) -> None:
        """A stray request may have had the node reload it."""
        self.unload(self.fleet_under_test)
        self.says(STATUS, "loaded")
        self.scripted_node.listed[0] = (MODEL, "reloading")
        self.says(UNLOAD, "unloaded")
        self.says(STATUS, "reloading")
        self.assert_unload_failed(
            "after its unload the node reports reloading", ReplicaState.LOADING
        )

    def test_requests_for_an_adapter_run_on_its_model(self) -> None:
        """They are counted under the id they were asked by."""
        series = 'http_requests_in_flight{method="POST",path="/v1/chat/completions",model="%s"} 1\n'
        page = f"# TYPE http_requests_in_flight gauge\n{series}"
        self.scripted_node.pages[METRICS] = (page % f"{MODEL}::code").encode()
        self.unload(self.fleet_under_test)
        self.fleet_under_test.advance(5)
        assert [] == self.scripted_node.asked
        self.scripted_node.pages[METRICS] = (page % f"{MODEL}-other").encode()
        self.fleet_under_test.advance(WATCH_SECONDS)
        assert [STATUS] == self.scripted_node.asked

    def test_a_count_that_cannot_be_read_is_no_leave_to_unload(self) -> None:
        """Something may run there."""
        self.scripted_node.pages[METRICS] = b'http_requests_in_flight{model="x"} nonsense\n'
        self.unload(self.fleet_under_test)
        (end,) = self.ends
        assert isinstance(end, UnloadFailed)
        assert "http_requests_in_flight cannot be read" in end.reason
        assert [] == self.scripted_node.asked

    def test_a_node_that_says_nothing_any_more_is_given_up(self) -> None:
        """After a minute of silence; what it had is what it has, as far as anybody knows."""
        self.unload(self.fleet_under_test)
        self.says(STATUS, "loaded")
        self.says(UNLOAD, "unloaded")
        self.fleet_under_test.advance(UNLOAD_SECONDS - 1)
        assert [] == self.ends
        self.fleet_under_test.advance(ASKING_SECONDS + 1)
        self.assert_unload_failed(
            "after its unload the node reports no status", ReplicaState.LOADED
        )


class AnyAnswerTests(LifecycleTestCase):
    """Whatever a node answers, in whatever order, and whenever the scheduler gives it up."""

    def drive(self, fleet: InMemoryFleet, node: ScriptedNode, script: Sequence[str]) -> list[str]:
        """Let the node answer by the script, then with errors; give "path answer" of each."""
        told: list[str] = []
        for _ in range(200):
            if self.ends:
                break
            if len(node.requests) == len(told):
                fleet.advance(WATCH_SECONDS)
                continue
            answer = script[len(told)] if len(told) < len(script) else "internal_error"
            told.append(f"{node.asked[-1]} {answer}")
            if answer == SILENT:
                fleet.advance(ASKING_SECONDS + WATCH_SECONDS)
            elif answer == RESET:
                node.reset()
            elif answer == GARBAGE:
                node.answer(200, b"<html>")
            elif answer == REFUSED:
                node.answer(502, b"no")
            elif answer == ABANDON:
                for model in (MODEL, COLD):
                    fleet.lifecycle._carry_out(Abandon(node.name, model))
            else:
                say(node, answer)
            fleet.flush()
        return told

    def prepared(self) -> tuple[InMemoryFleet, ScriptedNode]:
        self.ends.clear()
        self.clock = Clock()
        node = self.scripted("a", MODEL)
        node.listed += [(COLD, "unloaded")]
        fleet = InMemoryFleet(node, load_timeout=100.0, models=FOOTPRINTS)
        self.listen(fleet)
        return fleet, node

    def assert_over(self, fleet: InMemoryFleet) -> None:
        """See that there was one end, and that nothing is left."""
        assert 1 == len(self.ends)
        self.assert_at_rest(fleet)
        fleet.advance(200)
        assert 1 == len(self.ends)
        fleet.close()
        assert [] == self.clock.getDelayedCalls()
        assert [] == self.flushLoggedErrors()

    @settings(max_examples=150)
    @given(st.lists(st.sampled_from([*STATUSES, "unloaded", "reloading", *SPECIAL]), max_size=9))
    def test_a_load_ends_once_and_bricks_nothing(self, script: list[str]) -> None:
        """A reload is asked for once at most, and right after the word ``unloaded``."""
        fleet, node = self.prepared()
        self.load(fleet)
        told = self.drive(fleet, node, script)

        reloads = [at for at, line in enumerate(told) if line.startswith(RELOAD)]
        assert len(reloads) <= 1
        for at in reloads:
            assert f"{STATUS} unloaded" == told[at - 1]
        if isinstance(self.ends[0], LoadDone):
            assert reloads
            assert told[-1].endswith(" loaded")
        self.assert_over(fleet)

    @settings(max_examples=150)
    @given(st.lists(st.sampled_from([*STATUSES, "unloaded", "loaded", *SPECIAL]), max_size=9))
    def test_an_unload_ends_once_and_takes_only_what_is_loaded(self, script: list[str]) -> None:
        """It is asked for once at most, right after the word ``loaded``, and is over when gone."""
        fleet, node = self.prepared()
        self.unload(fleet)
        told = self.drive(fleet, node, script)

        unloads = [at for at, line in enumerate(told) if line.startswith(UNLOAD)]
        assert len(unloads) <= 1
        for at in unloads:
            assert f"{STATUS} loaded" == told[at - 1]
        gone = told[-1] in (f"{STATUS} unloaded", f"{STATUS} not_found")
        assert gone is isinstance(self.ends[0], UnloadDone)
        self.assert_over(fleet)
