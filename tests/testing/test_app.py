from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing import SimulatedModel
from tests.testing.client import CHAT, Bench

A = SimulatedModel(id="acme/chat", size_mb=6_000)
B = SimulatedModel(id="acme/other", size_mb=3_000)
COLD = SimulatedModel(id="acme/cold", size_mb=2_000, load_seconds=5, loaded=False)


class ModelListTests(SynchronousTestCase):
    def test_list(self) -> None:
        """The list begins with `default`, which alone has no status; all share one `created`."""
        bench = Bench(A, COLD)
        data = bench.get("/v1/models").json()["data"]
        created = bench.node.running_process.created
        self.assertEqual(
            [
                {
                    "id": model_id,
                    "object": "model",
                    "created": created,
                    "owned_by": "local",
                    "root": model_id,
                }
                | status
                for model_id, status in (
                    ("default", {}),
                    ("acme/chat", {"status": "loaded"}),
                    ("acme/cold", {"status": "unloaded"}),
                )
            ],
            data,
        )

    def test_before_lora(self) -> None:
        """Before v0.9.1 entries have no root."""
        data = Bench(A, version="0.9.0").get("/v1/models").json()["data"]
        self.assertNotIn("root", data[1])


class ModelOperationTests(SynchronousTestCase):
    def test_unload(self) -> None:
        """Unload answers 200 with the outcome, unknown ids included."""
        bench = Bench(A, B)
        self.assertEqual(
            {"model_id": "acme/chat", "status": "unloaded"}, bench.operate("unload", "acme/chat")
        )
        self.assertEqual("not_found", bench.operate("unload", "acme/none")["status"])
        self.assertEqual("not_found", bench.operate("unload", "default")["status"])
        self.assertEqual("unloaded", bench.operate("status", "acme/chat")["status"])
        self.assertEqual(1, len(bench.node.journal.of("unload")))

    def test_reload_blocks(self) -> None:
        """Reload sends no byte until the model is loaded; status tells meanwhile."""
        bench = Bench(A, COLD)
        reload = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.advance(4.9)
        self.assertIsNone(reload.status)
        self.assertEqual("reloading", bench.operate("status", "acme/cold")["status"])
        self.assertIn(("acme/cold", "reloading"), bench.listed())
        self.assertNotIn(("acme/cold", "unloaded"), bench.listed())
        bench.advance(5 - bench.clock.seconds())
        self.assertEqual(
            (200, {"model_id": "acme/cold", "status": "loaded"}), (reload.status, reload.json())
        )
        (done,) = bench.node.journal.of("load_done", "acme/cold")
        self.assertEqual({"seconds": 5.0}, done.detail)

    def test_held_reload(self) -> None:
        """A load that is held ends once it is let go, and not before its time."""
        bench = Bench(A, COLD)
        bench.node.faults.holds_loads = lambda: True
        reload = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.advance(20)
        self.assertEqual("reloading", bench.operate("status", "acme/cold")["status"])
        bench.node.faults.holds_loads = lambda: False
        bench.advance(1)
        self.assertEqual("loaded", reload.json()["status"])
        (done,) = bench.node.journal.of("load_done")
        self.assertEqual(21, done.detail["seconds"])

    def test_second_reload(self) -> None:
        """A second reload of the same model answers `reloading` at once."""
        bench = Bench(A, COLD)
        bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        self.assertEqual("reloading", bench.operate("reload", "acme/cold")["status"])
        states = [entry.detail["state"] for entry in bench.node.journal.of("reload")]
        self.assertEqual(["unloaded", "reloading"], states)
        self.assertEqual(1, len(bench.node.journal.of("load_started")))

    def test_reload_outlives_its_client(self) -> None:
        """A load goes on though whoever asked for it has left."""
        bench = Bench(A, COLD)
        reload = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.leave(reload)
        bench.advance(5)
        self.assertEqual("loaded", bench.operate("status", "acme/cold")["status"])

    def test_reload_of_loaded_bricks(self) -> None:
        """The reload of a loaded id bricks it: it works until unloaded, and then never again."""
        bench = Bench(A, B)
        self.assertEqual("not_found", bench.operate("reload", "acme/chat")["status"])
        self.assertEqual("reloading", bench.operate("status", "acme/chat")["status"])
        listed = [status for model_id, status in bench.listed() if model_id == "acme/chat"]
        self.assertEqual(["reloading", "loaded"], listed)
        self.assertEqual(200, bench.chat().status)
        bench.operate("unload", "acme/chat")
        refused = bench.chat()
        self.assertEqual(500, refused.status)
        self.assertEqual({"message": "model `acme/chat` is being reloaded"}, refused.json())
        bricked = bench.node.journal.of("reload")[0]
        self.assertEqual({"state": "loaded", "automatic": False}, bricked.detail)

    def test_reload_of_unknown_leaves_a_phantom(self) -> None:
        """The reload of an unknown id puts a phantom into the list."""
        bench = Bench(A)
        self.assertEqual("not_found", bench.operate("reload", "acme/typo")["status"])
        self.assertIn(("acme/typo", "reloading"), bench.listed())
        self.assertEqual(500, bench.chat(model="acme/typo").status)

    def test_failed_load(self) -> None:
        """A load that fails says so in the body after its full time, and may be tried again."""
        bench = Bench(A, COLD)
        bench.node.faults.fail_load["acme/cold"] = "no such file"
        reload = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.advance(5)
        self.assertEqual(
            {
                "model_id": "acme/cold",
                "status": "internal_error",
                "error": "failed to load model: no such file",
            },
            reload.json(),
        )
        self.assertEqual("unloaded", bench.operate("status", "acme/cold")["status"])
        del bench.node.faults.fail_load["acme/cold"]
        reload = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.advance(5)
        self.assertEqual("loaded", reload.json()["status"])

    def test_load_that_fails_some_times(self) -> None:
        """A load may fail a number of times and then work."""
        bench = Bench(A, COLD)
        bench.node.faults.fail_load["acme/cold"] = "the disk is slow"
        bench.node.faults.fail_load_times["acme/cold"] = 2
        outcomes = []
        for _ in range(3):
            reload = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
            bench.advance(5)
            outcomes.append(reload.json()["status"])
        self.assertEqual(["internal_error", "internal_error", "loaded"], outcomes)

    def test_panic(self) -> None:
        """A load that panics breaks its connection and leaves the id reloading for ever."""
        bench = Bench(A, COLD)
        bench.node.faults.panic_load.add("acme/cold")
        reload = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.advance(5)
        bench.advance(0)
        self.assertEqual("refused", reload.ended)
        self.assertEqual("reloading", bench.operate("status", "acme/cold")["status"])
        self.assertEqual("reloading", bench.operate("reload", "acme/cold")["status"])
        self.assertEqual(6_000, bench.node.resident_mb)
        bench.node.restart()
        self.assertEqual("unloaded", bench.operate("status", "acme/cold")["status"])

    def test_panic_under_a_request(self) -> None:
        """Whoever caused the load by a request gets a broken connection as well."""
        bench = Bench(A, COLD)
        bench.node.faults.panic_load.add("acme/cold")
        chat = bench.chat(model="acme/cold")
        bench.advance(5)
        bench.advance(0)
        self.assertEqual("refused", chat.ended)

    def test_out_of_memory(self) -> None:
        """A load that does not fit fails as CUDA does."""
        bench = Bench(A, COLD, memory_mb=7_000)
        reload = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.advance(5)
        self.assertEqual("internal_error", reload.json()["status"])
        self.assertEqual(
            'failed to load model: DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")',
            reload.json()["error"],
        )
        self.assertEqual("unloaded", bench.operate("status", "acme/cold")["status"])
        self.assertEqual([], bench.node.journal.of("overfilled"))
        self.assertEqual(6_000, bench.node.resident_mb)

    def test_overfilled(self) -> None:
        """Where memory never runs out, a load that does not fit is journalled."""
        bench = Bench(A, COLD, memory_mb=7_000, out_of_memory=False)
        bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.advance(5)
        self.assertEqual("loaded", bench.operate("status", "acme/cold")["status"])
        (overfilled,) = bench.node.journal.of("overfilled")
        self.assertEqual({"resident_mb": 8_000, "memory_mb": 7_000}, overfilled.detail)

    def test_loads_race_for_memory(self) -> None:
        """Loads of different models run side by side and may take each other's memory."""
        twin = SimulatedModel(id="acme/twin", size_mb=2_000, load_seconds=5, loaded=False)
        bench = Bench(A, COLD, twin, memory_mb=9_000)
        first = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        second = bench.post("/v1/models/reload", {"model_id": "acme/twin"})
        bench.advance(5)
        self.assertEqual("loaded", first.json()["status"])
        self.assertEqual("internal_error", second.json()["status"])

    def test_memory_comes_back_late(self) -> None:
        """A load right after an unload finds the memory still taken; later it fits."""
        bench = Bench(A, COLD, memory_mb=7_000)
        bench.node.faults.free_delay_seconds = 3
        bench.operate("unload", "acme/chat")
        self.assertEqual(6_000, bench.node.resident_mb)
        reload = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.advance(5)
        self.assertEqual("internal_error", reload.json()["status"])
        self.assertEqual(0, bench.node.resident_mb)
        reload = bench.post("/v1/models/reload", {"model_id": "acme/cold"})
        bench.advance(5)
        self.assertEqual("loaded", reload.json()["status"])

    def test_memory_comes_back_in_pieces(self) -> None:
        """Free memory may rise step by step until the last of it is back."""
        bench = Bench(A, COLD, memory_mb=7_000)
        bench.node.faults.free_delay_seconds = 3
        bench.node.faults.free_steps = 3
        bench.operate("unload", "acme/chat")
        seen = []
        for _ in range(4):
            seen.append(bench.node.resident_mb)
            bench.advance(1)
        self.assertEqual([6_000, 4_000, 2_000, 0], seen)

    def test_lost_before_loader_configurations(self) -> None:
        """Before v0.9.1 an unload of one of several models loses it, its streams going on."""
        bench = Bench(A, B, version="0.9.0", token_seconds=1)
        stream = bench.stream()
        self.assertEqual("no_loader_config", bench.operate("unload", "acme/chat")["status"])
        bench.advance(1)
        bench.advance(1)
        self.assertEqual("clean", stream.ended)
        self.assertEqual("[DONE]", stream.events()[-1])
        self.assertEqual(500, bench.chat().status)


class AutomaticReloadTests(SynchronousTestCase):
    def test_first_caller(self) -> None:
        """A request for an unloaded model loads it silently: not even headers before that."""
        bench = Bench(A, COLD, keepalive_seconds=1)
        stream = bench.stream(model="acme/cold")
        bench.advance(4.9)
        self.assertIsNone(stream.status)
        bench.advance(0.1)
        self.assertEqual("You said: hi", stream.content())
        (started,) = bench.node.journal.of("load_started")
        self.assertEqual({"automatic": True, "beside": 0}, started.detail)

    def test_second_caller(self) -> None:
        """A second request during that load is refused at once with 500."""
        bench = Bench(A, COLD)
        bench.chat(model="acme/cold")
        second = bench.chat(model="acme/cold")
        self.assertEqual(500, second.status)
        self.assertEqual({"message": "model `acme/cold` is being reloaded"}, second.json())

    def test_failure(self) -> None:
        """A failed load is a 500 for who caused it."""
        bench = Bench(A, COLD, memory_mb=7_000)
        chat = bench.chat(model="acme/cold")
        bench.advance(5)
        self.assertEqual(500, chat.status)
        self.assertIn("failed to reload model: failed to load", chat.json()["message"])

    def test_client_leaves(self) -> None:
        """The load goes on though the client left, and nothing is generated for it."""
        bench = Bench(A, COLD)
        bench.leave(bench.stream(model="acme/cold"))
        bench.advance(5)
        self.assertEqual("loaded", bench.operate("status", "acme/cold")["status"])
        self.assertEqual([], bench.node.journal.of("stream_opened"))

    def test_refused_before_loading(self) -> None:
        """A request that makes no sense loads nothing."""
        bench = Bench(A, COLD)
        self.assertEqual(500, bench.chat(model="acme/cold", max_tokens=0).status)
        self.assertEqual([], bench.node.journal.of("load_started"))


class DefaultModelTests(SynchronousTestCase):
    def test_real_id(self) -> None:
        """`default`, said or implied, is answered under the real id."""
        bench = Bench(A, B)
        self.assertEqual("acme/chat", bench.chat(model="default").json()["model"])
        implied = bench.post(CHAT, {"messages": "hi"})
        self.assertEqual("acme/chat", implied.json()["model"])

    def test_broken(self) -> None:
        """Once nothing was loaded, `default` is broken until the process restarts."""
        bench = Bench(A)
        bench.operate("unload", "acme/chat")
        bench.operate("reload", "acme/chat")
        chat = bench.chat(model="default")
        self.assertEqual(500, chat.status)
        self.assertEqual({"message": "engine state lock is poisoned"}, chat.json())
        bench.node.restart()
        self.assertEqual(200, bench.chat(model="default").status)
