from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing import SimulatedNode
from cortexd.testing.demo import demo_fleet, single_node


class DemoTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Set up the fleet on a Clock."""
        self.fleet = demo_fleet(Clock())

    def test_sizes(self) -> None:
        """Three nodes of different sizes, each with its models within its memory."""
        self.assertEqual(
            [("gpu-large", 49_152), ("gpu-medium", 24_576), ("gpu-small", 12_288)],
            [(node.name, node.memory_mb) for node in self.fleet],
        )
        for node in self.fleet:
            self.assertLess(node.resident_mb, node.memory_mb)

    def test_one_model_twice(self) -> None:
        """One model is loaded on two nodes."""
        loaded = [model for node in self.fleet for model in node.loaded_models]
        self.assertEqual(1, len(loaded) - len(set(loaded)))

    def test_cold_models_need_room(self) -> None:
        """Each model that starts unloaded fits its node only if something else goes."""
        cold = 0
        for node in self.fleet:
            models = node.running_process.models
            for listed in models.listed():
                if listed.status == "unloaded":
                    size_mb = models.configured(listed.id).size_mb
                    self.assertLess(models.free_mb(0), size_mb)
                    self.assertLess(size_mb, node.memory_mb)
                    cold += 1
        self.assertEqual(2, cold)

    def test_single_node(self) -> None:
        """The single node has a chat and an embedding model, loaded."""
        node = single_node(Clock(), fast=True)
        self.assertEqual(("acme/chat", "acme/embed", "acme/thinker"), node.loaded_models)

    def test_single_node_of_a_kind(self) -> None:
        """A caller may choose the node's class; its models are the same."""

        class Other(SimulatedNode):
            pass

        node = single_node(Clock(), fast=True, kind=Other)
        self.assertIsInstance(node, Other)
        self.assertEqual(("acme/chat", "acme/embed", "acme/thinker"), node.loaded_models)

    def test_single_node_of_a_size(self) -> None:
        """It may have less memory and start with fewer models; more than fits is refused."""
        node = single_node(Clock(), fast=True, memory_mb=8_000, cold=["acme/thinker"])
        self.assertEqual(("acme/chat", "acme/embed"), node.loaded_models)
        self.assertEqual(8_000, node.memory_mb)
        with self.assertRaisesRegex(ValueError, "there are 8000"):
            single_node(Clock(), fast=True, memory_mb=8_000)
        with self.assertRaisesRegex(ValueError, "no model acme/none"):
            single_node(Clock(), fast=True, cold=["acme/none"])
