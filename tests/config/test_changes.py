"""What differs between two configurations, in words for the operator."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.config import reading
from cortexd.config.changes import LONGEST_VALUE, changes, shown
from cortexd.config.settings import Config

NODE = '[[nodes]]\nname = "{0}"\nendpoint = "http://{0}:{1}"\nvram_mb = 1000\n'


def config(text: str = "", **nodes: int) -> Config:
    """Return a configuration of nodes with these ports, and of what the text says."""
    tables = "".join(NODE.format(name, port) for name, port in (nodes or {"a": 1}).items())
    return reading.parse(tables + text, "test")


def words(before: Config, after: Config) -> list[str]:
    return [str(each) for each in changes(before, after)]


class ChangesTests(SynchronousTestCase):
    def test_equal(self) -> None:
        """Two readings of one file differ in nothing."""
        assert [] == words(config(), config())

    def test_a_key(self) -> None:
        """It has its path, and its values as in the file; a default counts as its value."""
        after = config('[gateway]\nhold_seconds = 1\ncors_origins = ["*"]\n')
        assert [
            "gateway.hold_seconds: 5.0 -> 1.0",
            'gateway.cors_origins: [] -> ["*"]',
        ] == words(config(), after)

    def test_a_key_that_waits_for_a_restart(self) -> None:
        """The operator is told, whatever else the reload applies."""
        (line,) = words(config(), config('[gateway]\nstate_dir = "/a"\n'))
        assert 'gateway.state_dir: not set -> "/a"; takes effect at the next restart' == line

    def test_nodes(self) -> None:
        """Those that come and go are named; so is a new machine under an old name."""
        assert ["nodes (a): removed", "nodes (b): added, http://b:2"] == words(
            config(a=1), config(b=2)
        )
        assert [
            "nodes (a): another node under this name: running requests end at the old one",
            'nodes (a).endpoint: "http://a:1" -> "http://a:2"',
        ] == words(config(a=1), config(a=2))

    def test_an_order(self) -> None:
        """It counts: the first of equal nodes is preferred."""
        assert ["nodes: in another order: b, a"] == words(config(a=1, b=2), config(b=2, a=1))

    def test_models(self) -> None:
        """They have their ids, and what was not set says so."""
        before = config('[[models]]\nid = "x"\n')
        after = config('[[models]]\nid = "x"\naliases = ["fast"]\nttl = 5\n[[models]]\nid = "y"\n')
        assert [
            'models (x).aliases: [] -> ["fast"]',
            "models (x).ttl: not set -> 5.0",
            "models (y): added",
        ] == words(before, after)

    def test_the_same_engine_by_another_key(self) -> None:
        """A node stays the same one if only the key that names its engine is another."""
        after = reading.parse(NODE.format("a", 1) + 'engine = "mistralrs"\n', "test")
        assert ['nodes (a).engine: not set -> "mistralrs"'] == words(config(), after)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


class ShownTests(SynchronousTestCase):
    @settings(max_examples=100, derandomize=True, database=None)
    @given(VALUES)
    def test_one_short_line(self, value: Any) -> None:
        """Whatever a file contains is shown without control characters, and cut."""
        text = shown(value)
        assert text.isprintable()
        assert len(text) <= LONGEST_VALUE
