"""Any mutation of a configuration loads, or is refused in one line."""

import copy
import math
import string
import tomllib
from collections.abc import Callable
from datetime import date
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.config import reading
from cortexd.config.addresses import endpoint_description
from cortexd.config.reading import ConfigError
from tests.config.test_reading import EXISTING
from tests.config.test_sample import uncommented

JUNK_TEXT = st.text(max_size=80) | st.text(string.printable, max_size=20)
JUNK = st.recursive(
    st.none().map(lambda _: date(2026, 1, 1))
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**63)
    | st.floats()
    | JUNK_TEXT
    | st.sampled_from(["http://[::1]:", "[::]:8000", "unix:/x", "tcp:0", "a" * 500, "default"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(JUNK_TEXT, inner, max_size=3),
    max_leaves=5,
)
Place = tuple[Any, Any]


def places(value: Any) -> list[Place]:
    """Return every (container, key) within a parsed file."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [(value, key) for key in keys] + [p for key in keys for p in places(value[key])]


def replace(place: Place, junk: Any) -> None:
    """Put junk in the place of a value."""
    container, key = place
    container[key] = junk


def remove(place: Place, _junk: Any) -> None:
    """Take a value away."""
    container, key = place
    del container[key]


def add(place: Place, junk: Any) -> None:
    """Put junk beside a value."""
    container, _ = place
    if isinstance(container, list):
        container.append(junk)
    else:
        container[str(junk)[:30]] = junk


def duplicate(place: Place, _junk: Any) -> None:
    """Put a copy of an entry at the end of its list."""
    container, key = place
    if isinstance(container, list):
        container.append(copy.deepcopy(container[key]))


MUTATIONS: list[Callable[[Place, Any], None]] = [replace, remove, add, duplicate]


def toml_text(text: str) -> str:
    """Write a TOML string with every character outside printable ASCII escaped."""
    return '"' + "".join(map(toml_character, text)) + '"'


def toml_character(character: str) -> str:
    """Write one character of a TOML string."""
    code = ord(character)
    if 0xD800 <= code < 0xE000:  # TOML has no lone surrogates
        return "?"
    return character if 32 <= code < 127 and character not in '"\\' else f"\\U{code:08x}"


def toml_value(value: Any) -> str:
    """Write any TOML value on one line."""
    match value:
        case bool():
            return str(value).lower()
        case date():
            return value.isoformat()
        case int():
            return str(value)
        case float():
            if not math.isfinite(value):
                return str(value)
            return repr(value) if "." in repr(value) or "e" in repr(value) else f"{value}.0"
        case str():
            return toml_text(value)
        case list():
            return "[" + ", ".join(map(toml_value, value)) + "]"
        case dict():
            return "{" + ", ".join(toml_pairs(value)) + "}"
    raise AssertionError(f"no TOML for {value!r}")


def toml_pairs(table: dict[str, Any]) -> list[str]:
    """Write the keys of a table."""
    return [f"{toml_text(key)} = {toml_value(value)}" for key, value in table.items()]


class MutationTests(SynchronousTestCase):
    def check(self, text: str) -> None:
        """Fail unless a text is a configuration or is refused in one line."""
        try:
            loaded = reading.parse(text, "mutated")
        except ConfigError as refused:
            line = str(refused)
        else:
            endpoint_description(loaded.gateway.listen)
            line = f"mutated: {len(loaded.nodes)} nodes"
            for node in loaded.nodes:
                pins = loaded.pins[node.name]
                taken = sum(loaded.footprint_mb(node.name, model) or 0 for model in pins)
                assert taken <= node.budget_mb
                assert not node.max_resident or len(pins) <= node.max_resident
        assert line.startswith("mutated: ")
        assert line.isprintable()

    @settings(max_examples=300)
    @given(st.data())
    def test_mutations(self, data: st.DataObject) -> None:
        """A file with anything in it replaced, removed or added loads or is refused in one line."""
        tables = tomllib.loads(uncommented())
        for _ in range(data.draw(st.integers(1, 3))):
            if found := places(tables):
                mutate = data.draw(st.sampled_from(MUTATIONS))
                mutate(found[data.draw(st.integers(0, len(found) - 1))], data.draw(JUNK))
        self.check("\n".join(toml_pairs(tables)))

    @settings(max_examples=200)
    @given(st.integers(0, len(EXISTING)), st.integers(0, 40), JUNK_TEXT)
    def test_torn_text(self, start: int, length: int, junk: str) -> None:
        """A file whose text was torn anywhere loads or is refused in one line."""
        self.check(EXISTING[:start] + junk + EXISTING[start + length :])

    def test_unmutated(self) -> None:
        """The mutations start from a file that loads."""
        text = "\n".join(toml_pairs(tomllib.loads(uncommented())))
        assert reading.parse(uncommented(), "x") == reading.parse(text, "x")
