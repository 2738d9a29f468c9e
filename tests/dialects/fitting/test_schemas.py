from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.fitting.schemas import fit_tools

TYPED: dict[str, Any] = {"type": "object"}
EMPTY: dict[str, Any] = {"type": "object", "properties": {}}


def tool(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look", **fields}}


class FitToolsTests(SynchronousTestCase):
    def test_what_is_missing(self) -> None:
        """A function gets a description, and parameters with properties, if they are missing."""
        expected = [tool(description="", parameters=EMPTY)]
        for given in (tool(), tool(parameters=None, description=None), tool(parameters=TYPED)):
            self.assertEqual(expected, fit_tools([given]))

    def test_other_tools_stay(self) -> None:
        """Tools that have both, are no functions, or are wrong are not touched."""
        whole = tool(description="Looks.", parameters={"properties": {"a": {}}})
        tools = [whole, {"type": "web_search"}, tool(description=1, parameters=[]), 7]
        fitted = fit_tools(tools)

        self.assertTrue(all(new is old for new, old in zip(fitted, tools, strict=True)))
        self.assertEqual("none", fit_tools("none"))
