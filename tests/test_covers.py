"""Whether every row of the dialects' mapping tables has a test that names it."""

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.covers import ROWS, covers

TESTS = Path(__file__).parent


def named_rows(source: str) -> Iterator[str]:
    """Yield the rows that the tests in a module's source name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(
            "test"
        ):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "covers":
                    yield from (ast.literal_eval(argument) for argument in decorator.args)


class CoversTests(SynchronousTestCase):
    def test_every_row_is_shown(self) -> None:
        """Each row is named by at least one test, and no test names what is no row."""
        named = {
            row for path in TESTS.rglob("test_*.py") for row in named_rows(path.read_text("utf-8"))
        }

        assert [] == sorted(ROWS - named), "rows that no test names"
        assert set() == named - ROWS, "what is no row"

    def test_an_unknown_row_is_refused(self) -> None:
        """A test cannot name a row that the tables do not have."""
        with self.assertRaises(ValueError):
            covers("2.1 no such field")
