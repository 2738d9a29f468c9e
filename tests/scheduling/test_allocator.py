import inspect
import re

from twisted.trial.unittest import SynchronousTestCase

from cortexd.scheduling import allocator
from cortexd.scheduling.events import Submit, Sweep, Unsettled
from tests.support.scheduling import World, setup


class CaseTests(SynchronousTestCase):
    def test_cases_are_numbered_alike(self) -> None:
        """Each case of the module's docstring has its comment in the code, in the same order."""
        described = re.findall(r"^(\d)\. ", inspect.getdoc(allocator) or "", re.MULTILINE)
        source = inspect.getsource(allocator.Allocator._seek)
        comments = " ".join(re.findall(r"# (.*)", source))

        assert list("123456") == described
        assert described == re.findall(r"\b(\d)\. ", comments)


class SettlingTests(SynchronousTestCase):
    def test_steps_have_a_limit(self) -> None:
        """Steps that call for each other end; the sweep goes on with what was left."""
        world = World(setup({"ada": 20}, {"a": 8, "b": 8}, {}))
        self.patch(allocator, "LEAST_STEPS", 1)
        self.patch(allocator, "STEPS_EACH", 0)

        cut = world.scheduler.handle(Submit("one", "a"), world.now)
        self.patch(allocator, "LEAST_STEPS", 1000)
        followed = world.scheduler.handle(Sweep(), world.now)

        assert [Unsettled(1, ("a",))] == [*cut]
        assert "StartLoad" in [type(each).__name__ for each in followed]
