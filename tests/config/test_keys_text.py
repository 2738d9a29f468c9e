from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as some
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.secret import ID_LETTERS, hashed, new_key
from cortexd.config.keys_file import KeySettings, read
from cortexd.config.keys_text import added, revoked, rotated, table_text
from cortexd.config.reading import ConfigError
from cortexd.config.tables_text import UnknownFormError

HASHES = [hashed(new_key(), cost=1) for _ in range(4)]
NOW = datetime(2026, 11, 30, 17, tzinfo=UTC)

FILE = f"""\
# All keys of the laboratory.

[[keys]]
name = "alice"  # from accounting
id = "aaaaaaaaaaaa"
hash = "{HASHES[0]}"
scopes = ["infer"]  # nothing else

# Bob is on leave.
  [[ keys ]]
  'name' = 'bob'
  models = [  # = [[keys]]
    "Qwen/*",
  ]
  hash = '''{HASHES[1]}'''
  id = "bbbbbbbbbbbb"
# The end."""

GLOB_LETTERS = "aZ/*[]?\"'\\#=é"
chances = some.integers(0, 2**32).map(Random)


def made_keys(chance: Random) -> list[KeySettings]:
    """Return some keys with names and ids of their own."""
    names = chance.sample(["alice", "bob", "k-1", "a.b", "_", "name"], chance.randint(1, 4))
    chosen = iter(["".join(chance.choices(ID_LETTERS, k=12)) for _ in range(9)])
    return [made_key(name, chosen, chance) for name in names]


def made_key(name: str, chosen: Iterator[str], chance: Random) -> KeySettings:
    key = KeySettings(
        name=name,
        id=next(chosen),
        hash=chance.choice(HASHES),
        scopes=chance.choice([("infer", "read"), ("control",), ("read",)]),
        models=tuple("".join(chance.choices(GLOB_LETTERS, k=5)) for _ in range(3)),
        requests_per_minute=chance.choice([None, 1, 10**9]),
        token_budget=5,
        budget_hours=chance.choice([None, chance.uniform(0.01, 8000)]),
        priority=chance.choice(["interactive", "default", "bulk"]),
        weight=chance.uniform(0.001, 1000),
        expires=chance.choice([None, NOW + timedelta(seconds=chance.randint(0, 10**9))]),
    )
    if chance.random() < 0.7:
        return key
    return replace(key, former_id=next(chosen), former_hash=HASHES[0], former_until=NOW)


def laid_out(found: Sequence[KeySettings], chance: Random) -> str:
    """Return the text of keys as people may write it: lines in any order, comments, blank lines."""
    lines = [chance.choice(["# top", ""])]
    for key in found:
        header, *values = table_text(key).splitlines()
        lines.append(chance.choice([f"# above {key.name}", "", "\t# x = [[keys]] '''"]))
        lines.append(header + chance.choice(["", "  # = '"]))
        for value in chance.sample(values, len(values)):
            after = chance.choice(["", "", " # a \" ' ]", "\n# between"])
            lines.append(chance.choice(["", "  ", "\t"]) + value + after)
    ending = chance.choice(["\n", "\r\n"])
    return ending.join("\n".join(lines).split("\n")) + chance.choice(["", ending])


def comments(text: str) -> list[str]:
    """Return the comments that have lines of their own."""
    return [line.strip() for line in text.splitlines() if line.lstrip().startswith("#")]


class ChangesTests(SynchronousTestCase):
    @settings(max_examples=100)
    @given(chances)
    def test_add(self, chance: Random) -> None:
        """All that was there stays before the new key, which is read as it was given."""
        *before, new = made_keys(chance)
        text = laid_out(before, chance)
        after = added(text, new)

        assert after.startswith(text)
        assert (*before, new) == read(after, "f")

    @settings(max_examples=100)
    @given(chances)
    def test_revoke(self, chance: Random) -> None:
        """All other keys stay, and every comment that is not inside the key's table."""
        found = made_keys(chance)
        gone = chance.choice(found)
        text = laid_out(found, chance)
        after = revoked(text, gone.name)

        assert tuple(key for key in found if key != gone) == read(after, "f")
        assert set() == set(comments(after)) - set(comments(text))
        for words in ("# top", *(f"# above {key.name}" for key in found)):
            assert (words in comments(text)) == (words in comments(after))

    @settings(max_examples=100)
    @given(chances, some.booleans())
    def test_rotate(self, chance: Random, keeps: bool) -> None:
        """The key has another id and hash, and its former ones if they stay valid a while."""
        found = made_keys(chance)
        position = chance.randrange(len(found))
        key = found[position]
        wanted = replace(
            key,
            id="0" * 12,
            hash=HASHES[3],
            former_id=key.id if keeps else None,
            former_hash=key.hash if keeps else None,
            former_until=NOW + timedelta(hours=1) if keeps else None,
            created=NOW,
        )
        text = laid_out(found, chance)
        after = rotated(text, key.name, wanted)

        assert (*found[:position], wanted, *found[position + 1 :]) == read(after, "f")
        if keeps or key.former_id is None:
            assert comments(text) == comments(after)

    @settings(max_examples=150)
    @given(some.text("[]{}=\"'#\\\n a,.", max_size=12), some.integers(0, len(FILE)))
    def test_any_file(self, noise: str, where: int) -> None:
        """Whatever a file has, a key of it goes, and no other one; or its form is not known."""
        text = FILE[:where] + noise + FILE[where:]
        try:
            found = read(text, "f")
        except ConfigError:
            return
        for key in found:
            try:
                after = revoked(text, key.name)
            except UnknownFormError:
                continue
            assert tuple(each for each in found if each != key) == read(after, "f")

    def test_by_example(self) -> None:
        """Only the lines of the key that changes are another."""
        after = rotated(
            FILE, "bob", replace(read(FILE, "f")[1], id="c" * 12, hash=HASHES[2], created=NOW)
        )
        assert after == FILE.replace("b" * 12, "c" * 12).replace(
            f"'''{HASHES[1]}'''", f'"{HASHES[2]}"\n  created = 2026-11-30T17:00:00Z'
        )
        assert revoked(FILE, "bob") == FILE[: FILE.index("  [[ keys ]]")] + "# The end."
        assert revoked(FILE, "alice").startswith(
            "# All keys of the laboratory.\n\n# Bob is on leave.\n  [[ keys ]]\n"
        )
        assert added("", read(FILE, "f")[0]).startswith('[[keys]]\nname = "alice"\nid = ')
        assert added(FILE, read(FILE, "f")[0]).startswith(f"{FILE}\n\n[[keys]]\n")

    def test_what_cannot_be_changed(self) -> None:
        """A name that no key has, and a list that is not written as tables."""
        self.assertRaises(KeyError, revoked, FILE, "carol")
        inline = f'keys = [{{name = "alice", id = "aaaaaaaaaaaa", hash = "{HASHES[0]}"}}]\n'
        assert "alice" == read(inline, "f")[0].name
        self.assertRaises(UnknownFormError, revoked, inline, "alice")
