"""The sample in etc/ says of every key what it is."""

import re
import tomllib
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from cortexd.config import reading
from cortexd.config.settings import Config
from cortexd.dialects.wire.profile import MISTRALRS
from cortexd.terms import explicit_abilities

SAMPLE = Path(__file__).parents[2] / "etc" / "cortex.toml"
TABLES = {
    name: settings_type
    for name, hint in get_type_hints(Config).items()
    for settings_type in (hint, *get_args(hint))
    if isinstance(settings_type, type) and issubclass(settings_type, msgspec.Struct)
}
ENTRIES = {"nodes", "models"}


def uncommented() -> str:
    """Return the sample with its commented keys in effect."""
    return re.sub(r"^#(?=[a-z_]+ = )", "", SAMPLE.read_text("utf-8"), flags=re.MULTILINE)


class SampleFileTests(SynchronousTestCase):
    def test_loads(self) -> None:
        """The sample loads as it is, with three nodes and every setting at its default."""
        loaded = reading.load(SAMPLE)
        expected = ["gpu-large", "gpu-medium", "gpu-small"]
        assert expected == [node.name for node in loaded.nodes]
        assert Config(nodes=loaded.nodes, models=loaded.models) == loaded

    def test_every_key(self) -> None:
        """Every key of every table is in the sample, and the sample has no other."""
        tables = tomllib.loads(uncommented())
        assert set(TABLES) == set(tables)
        for name, settings_type in TABLES.items():
            found = tables[name]
            keys = {
                key for entry in (found if isinstance(found, list) else [found]) for key in entry
            }
            assert set(settings_type.__struct_fields__) == keys

    def test_defaults(self) -> None:
        """A key the sample has commented out shows the value it has when it is left so."""
        loaded = reading.parse(uncommented(), "uncommented")
        for name, settings_type in TABLES.items():
            if name in ENTRIES:
                continue
            for field in msgspec.structs.fields(settings_type):
                if field.default is not None:
                    assert field.default == getattr(getattr(loaded, name), field.name)
        # The two keys that may name an engine have no default of their own, but one together.
        assert loaded.nodes[-1].runs is reading.load(SAMPLE).nodes[-1].runs
        for entry, keys in [
            (loaded.nodes[-1], ("reserve_mb", "max_resident", "anthropic")),
            (
                loaded.models[0],
                ("max_concurrency", "priority", "pinned_on", "min_copies", "max_copies"),
            ),
        ]:
            defaults = {field.name: field.default for field in msgspec.structs.fields(entry)}
            for key in keys:
                assert defaults[key] == getattr(entry, key), key

    def test_abilities(self) -> None:
        """A key of a chat template shows the ability that a model has before any probe."""
        entry = reading.parse(uncommented(), "uncommented").models[0]
        stated = explicit_abilities(entry)
        assert ("low", "medium", "high", "xhigh") == stated.pop("efforts")
        assert stated
        for name, value in stated.items():
            assert value == getattr(MISTRALRS, name), name

    def test_prose(self) -> None:
        """Each key of a table is preceded by prose that names its default."""
        tables = re.split(r"^\[([a-z]+)\]$", SAMPLE.read_text("utf-8"), flags=re.MULTILINE)
        texts = dict(zip(tables[1::2], tables[2::2], strict=True))
        for name in set(TABLES) - ENTRIES:
            paragraphs = texts[name].split("\n\n")
            for key in TABLES[name].__struct_fields__:
                (paragraph,) = [p for p in paragraphs if re.search(rf"^#{key} = ", p, re.MULTILINE)]
                assert re.search(r"^# .*\bDefault\b|^# Default\b", paragraph, re.MULTILINE)

    def test_entries(self) -> None:
        """Each key of an entry is told before the first one, with its default or as required."""
        paragraphs = SAMPLE.read_text("utf-8").split("\n\n")
        for name in ENTRIES:
            (first, *_) = [i for i, p in enumerate(paragraphs) if p.startswith(f"[[{name}]]")]
            told = re.split(r"^# ([a-z_]+)  +", paragraphs[first - 1], flags=re.MULTILINE)
            words = dict(zip(told[1::2], told[2::2], strict=True))
            for field in msgspec.structs.fields(TABLES[name]):
                ending = r"\bRequired\.$" if field.required else r"\bDefault\b[^.]*(\.|\]\.)$"
                text = " ".join(words[field.name].replace("#", " ").split())
                assert re.search(ending, text), f"{name}.{field.name}: {text}"
