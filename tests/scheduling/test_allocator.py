import inspect
import re

from twisted.trial.unittest import SynchronousTestCase

from cortexd.scheduling import allocator


class CaseTests(SynchronousTestCase):
    def test_cases_are_numbered_alike(self) -> None:
        """Each case of the module's docstring has its comment in the code, in the same order."""
        described = re.findall(r"^(\d)\. ", inspect.getdoc(allocator) or "", re.MULTILINE)
        source = inspect.getsource(allocator.Allocator._seek)
        comments = " ".join(re.findall(r"# (.*)", source))

        assert list("123456") == described
        assert described == re.findall(r"\b(\d)\. ", comments)
