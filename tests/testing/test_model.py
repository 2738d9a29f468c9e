from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing.model import Listed, ModelStore, NotAvailableError, SimulatedModel

A = SimulatedModel(id="acme/a", size_mb=6_000)
B = SimulatedModel(id="acme/b", size_mb=3_000)
COLD = SimulatedModel(id="acme/cold", size_mb=4_000, loaded=False)


def a_store(*models: SimulatedModel, version: tuple[int, ...] = (0, 9, 2)) -> ModelStore:
    return ModelStore(models or (A, B, COLD), memory_mb=10_000, version=version)


def load(store: ModelStore, model_id: str, now: float = 0.0) -> None:
    """Load a model that is unloaded and fits."""
    assert store.begin_load(model_id) is None
    assert store.claim_memory(model_id, now, may_overfill=False)
    store.end_load(model_id, loaded=True)


class StatusTests(SynchronousTestCase):
    def test_start(self) -> None:
        """A process starts with the models that its operator left loaded."""
        store = a_store()
        self.assertEqual(("acme/a", "acme/b"), store.loaded)
        self.assertEqual("loaded", store.status("acme/a"))
        self.assertEqual("unloaded", store.status("acme/cold"))
        self.assertEqual("not_found", store.status("acme/none"))

    def test_default_is_no_model(self) -> None:
        """The pseudo-model `default` is unknown to status and unload."""
        store = a_store()
        self.assertEqual("not_found", store.status("default"))
        self.assertEqual("not_found", store.unload("default", 0))

    def test_unload_is_idempotent(self) -> None:
        """Unloading twice reports `unloaded` twice."""
        store = a_store()
        self.assertEqual("unloaded", store.unload("acme/a", 0))
        self.assertEqual("unloaded", store.unload("acme/a", 0))
        self.assertEqual(("acme/b",), store.loaded)

    def test_load(self) -> None:
        """A load takes an unloaded model through reloading to loaded."""
        store = a_store(B, COLD)
        self.assertIsNone(store.begin_load("acme/cold"))
        self.assertEqual("reloading", store.status("acme/cold"))
        self.assertEqual(("acme/cold",), store.loading)
        self.assertTrue(store.claim_memory("acme/cold", 0, may_overfill=False))
        store.end_load("acme/cold", loaded=True)
        self.assertEqual("loaded", store.status("acme/cold"))
        self.assertEqual((), store.loading)

    def test_failed_load(self) -> None:
        """A load that fails leaves the model unloaded and free to be tried again."""
        store = a_store(B, COLD)
        store.begin_load("acme/cold")
        store.end_load("acme/cold", loaded=False)
        self.assertEqual("unloaded", store.status("acme/cold"))
        self.assertIsNone(store.begin_load("acme/cold"))

    def test_second_load(self) -> None:
        """A second load of the same model is refused with `reloading` and changes nothing."""
        store = a_store(B, COLD)
        store.begin_load("acme/cold")
        self.assertEqual("reloading", store.begin_load("acme/cold"))
        store.end_load("acme/cold", loaded=True)
        self.assertEqual("loaded", store.status("acme/cold"))

    def test_unload_does_not_stop_a_load(self) -> None:
        """An unload during a load says `unloaded`, and the model becomes loaded all the same."""
        store = a_store(B, COLD)
        store.begin_load("acme/cold")
        store.claim_memory("acme/cold", 0, may_overfill=False)
        self.assertEqual("unloaded", store.unload("acme/cold", 0))
        store.end_load("acme/cold", loaded=True)
        self.assertEqual("loaded", store.status("acme/cold"))


class ReloadBugTests(SynchronousTestCase):
    def test_reload_of_loaded(self) -> None:
        """The reload of a loaded model says not_found and leaves it reloading, though it works."""
        store = a_store()
        self.assertEqual("not_found", store.begin_load("acme/a"))
        self.assertEqual("reloading", store.status("acme/a"))
        self.assertEqual("reloading", store.begin_load("acme/a"))
        self.assertEqual("acme/a", store.resolve("acme/a"))
        self.assertIn("acme/a", store.loaded)

    def test_listed_twice(self) -> None:
        """A stuck id that is loaded is listed as reloading and as loaded."""
        store = a_store(A)
        store.begin_load("acme/a")
        self.assertEqual(
            [
                Listed(id="default", status=None),
                Listed(id="acme/a", status="reloading"),
                Listed(id="acme/a", status="loaded"),
            ],
            store.listed(),
        )

    def test_stuck_id_never_comes_back(self) -> None:
        """Once a stuck id is unloaded it can never be loaded again."""
        store = a_store()
        store.begin_load("acme/a")
        self.assertEqual("unloaded", store.unload("acme/a", 0))
        self.assertEqual("reloading", store.begin_load("acme/a"))
        self.assertEqual("reloading", store.status("acme/a"))

    def test_reload_of_unknown(self) -> None:
        """The reload of an unknown id leaves a phantom in the list that no request can use."""
        store = a_store(A)
        self.assertEqual("not_found", store.begin_load("acme/typo"))
        self.assertIn(Listed(id="acme/typo", status="reloading"), store.listed())
        self.assertEqual("not_found", store.unload("acme/typo", 0))
        with self.assertRaises(NotAvailableError):
            store.resolve("acme/typo")

    def test_reload_of_default(self) -> None:
        """The reload of `default` pollutes the list with a second entry of that name."""
        store = a_store(A)
        self.assertEqual("not_found", store.begin_load("default"))
        self.assertEqual(
            [Listed(id="default", status=None), Listed(id="default", status="reloading")],
            store.listed()[:2],
        )


class ListTests(SynchronousTestCase):
    def test_groups(self) -> None:
        """The list has default, then reloading, loaded and unloaded models, each once."""
        store = a_store(A, B, COLD, SimulatedModel(id="acme/colder", loaded=False))
        store.begin_load("acme/colder")
        self.assertEqual(
            [None, "reloading", "loaded", "loaded", "unloaded"],
            [listed.status for listed in store.listed()],
        )

    def test_order_means_nothing(self) -> None:
        """Within a group the order holds for one process and differs between processes."""
        models = [SimulatedModel(id=f"acme/{number}") for number in range(8)]

        def order(process_number: int) -> list[str]:
            store = ModelStore(
                models, memory_mb=10_000, version=(0, 9, 2), process_number=process_number
            )
            return [listed.id for listed in store.listed()]

        self.assertEqual(order(1), order(1))
        self.assertNotEqual(order(1), order(2))
        self.assertEqual(set(order(1)), set(order(2)))


class DefaultTests(SynchronousTestCase):
    def test_first_loaded_model(self) -> None:
        """The default is the first configured model that is loaded."""
        self.assertEqual("acme/a", a_store(COLD, A, B).resolve("default"))

    def test_moves_on_unload(self) -> None:
        """Unloading the default moves it to another loaded model, where a reload leaves it."""
        store = a_store(B, COLD, SimulatedModel(id="acme/c", size_mb=100))
        store.unload("acme/b", 0)
        self.assertEqual("acme/c", store.default)
        load(store, "acme/b")
        self.assertEqual("acme/c", store.default)

    def test_breaks_with_the_last(self) -> None:
        """Without any loaded model `default` is broken, and stays so after a reload."""
        store = a_store(A)
        store.unload("acme/a", 0)
        load(store, "acme/a")
        with self.assertRaises(NotAvailableError) as caught:
            store.resolve("default")
        self.assertEqual("engine state lock is poisoned", str(caught.exception))
        self.assertEqual("acme/a", store.resolve("acme/a"))

    def test_unknown_model(self) -> None:
        """An unknown name is refused with the names of the loaded models only."""
        with self.assertRaises(NotAvailableError) as caught:
            a_store().resolve("gpt")
        self.assertIn("Requested model 'gpt' is not available.", str(caught.exception))
        self.assertIn("Available models: acme/a, acme/b. ", str(caught.exception))

    def test_unknown_model_with_none_loaded(self) -> None:
        """An unknown name on an empty node is refused in other words."""
        with self.assertRaises(NotAvailableError) as caught:
            a_store(COLD).resolve("gpt")
        self.assertIn("No models are currently loaded.", str(caught.exception))


class MemoryTests(SynchronousTestCase):
    def test_resident(self) -> None:
        """Loaded models take their size, unloaded ones nothing."""
        self.assertEqual(9_000, a_store().resident_mb(0))
        self.assertEqual(1_000, a_store().free_mb(0))

    def test_load_claims_from_its_start(self) -> None:
        """A load takes its memory when it starts and gives it back if it fails."""
        store = a_store(B, COLD)
        store.begin_load("acme/cold")
        store.claim_memory("acme/cold", 0, may_overfill=False)
        self.assertEqual(7_000, store.resident_mb(0))
        store.end_load("acme/cold", loaded=False)
        self.assertEqual(3_000, store.resident_mb(0))

    def test_no_room(self) -> None:
        """Memory that is not there cannot be claimed, unless it may be overfilled."""
        store = a_store()
        store.begin_load("acme/cold")
        self.assertFalse(store.claim_memory("acme/cold", 0, may_overfill=False))
        self.assertEqual(9_000, store.resident_mb(0))
        self.assertTrue(store.claim_memory("acme/cold", 0, may_overfill=True))
        self.assertEqual(13_000, store.resident_mb(0))
        self.assertEqual(0, store.free_mb(0))

    def test_freed_late(self) -> None:
        """Unloaded memory comes back only after its delay."""
        store = a_store()
        store.unload("acme/a", now=10, free_after=2)
        self.assertEqual(9_000, store.resident_mb(11.9))
        self.assertEqual(3_000, store.resident_mb(12))

    def test_leak(self) -> None:
        """Each unload keeps what it leaks for the life of the process."""
        store = a_store()
        store.unload("acme/a", now=0, leaked_mb=500)
        self.assertEqual(3_500, store.resident_mb(1e9))
        load(store, "acme/a", now=1e9)
        store.unload("acme/a", now=1e9, leaked_mb=500)
        self.assertEqual(4_000, store.resident_mb(2e9))

    def test_leaks_no_more_than_its_size(self) -> None:
        """An unload cannot leak more than the model took."""
        store = a_store()
        store.unload("acme/b", now=0, free_after=5, leaked_mb=1_000_000)
        self.assertEqual(9_000, store.resident_mb(0))
        self.assertEqual(9_000, store.resident_mb(1e9))


class OldVersionTests(SynchronousTestCase):
    def test_unload_loses_the_model(self) -> None:
        """Before v0.9.1 unloading one of several models loses it and keeps its memory."""
        store = a_store(version=(0, 9, 0))
        self.assertEqual("no_loader_config", store.unload("acme/a", 0))
        self.assertEqual("not_found", store.status("acme/a"))
        self.assertEqual(9_000, store.resident_mb(1e9))

    def test_single_model_comes_back(self) -> None:
        """A node with one model could unload and reload it before that."""
        store = a_store(A, version=(0, 9, 0))
        self.assertEqual("unloaded", store.unload("acme/a", 0))
        load(store, "acme/a")
        self.assertEqual("loaded", store.status("acme/a"))
