"""The table of `python -m bench.reliability`."""

from twisted.trial.unittest import SynchronousTestCase

from bench.reliability.__main__ import scenes, table
from bench.reliability.scene import Figure


class SceneTableTests(SynchronousTestCase):
    """Each figure is one row, which says whether its bar holds."""

    def test_a_figure_above_its_bar_is_missed(self) -> None:
        """A value above its bar is missed; one at its bar, or without a bar, holds."""
        figures = [
            Figure("failed", 2.0, "%", 1.0),
            Figure("gap", 1.0, "s", 1.0),
            Figure("sent", 40.0, ""),
        ]

        self.assertEqual(
            table("sick_node", figures).splitlines(),
            [
                "| sick_node | failed | 2 % | 1 | **missed** |",
                "| sick_node | gap | 1 s | 1 | holds |",
                "| sick_node | sent | 40 |  |  |",
            ],
        )
        self.assertEqual([each.holds for each in figures], [False, True, True])


class SceneListTests(SynchronousTestCase):
    """The scenes are the modules below ``bench.reliability``."""

    def test_scenes_in_folders_have_the_folder_in_their_names(self) -> None:
        """Modules that are no scenes are left out, and so are folders."""
        found = scenes()

        self.assertEqual(found["sick_node"], "bench.reliability.sick_node")
        self.assertEqual(found["agents.cut_link"], "bench.reliability.agents.cut_link")
        self.assertTrue({"__main__", "daemons", "scene", "agents"}.isdisjoint(found))
        self.assertEqual(list(found), sorted(found))
