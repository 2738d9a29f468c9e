import re
import tempfile
import tomllib
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as some
from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.keys import Key, KeyLimits, Scope
from cortexd.access.requesters import Priority
from cortexd.access.secret import hashed, new_key
from cortexd.config.keys_file import (
    GLOB,
    HASH,
    ID,
    NAME,
    KeySettings,
    exposure,
    load,
    parse,
    read,
)
from cortexd.config.reading import ConfigError

SAMPLE = Path(__file__).parents[2] / "etc" / "keys.toml"
SECRET = new_key()
A_HASH = hashed(SECRET, cost=2)
OTHER_HASH = hashed(new_key(), cost=2)
TIME = "a date and time with its time zone, such as 2027-01-31T18:00:00Z"
NAMED = '[[keys]]\nname = "alice"\n'
ALICE = f'{NAMED}id = "aaaaaaaaaaaa"\nhash = "{A_HASH}"\n'
BOB = f'[[keys]]\nname = "bob"\nid = "bbbbbbbbbbbb"\nhash = "{OTHER_HASH}"\n'

# What a key refuses: its line in the file, and the message behind the name of the file.
WRONG = [
    ('scopes = ["write"]', '.scopes[0]: found "write", expected "control" or "infer" or "read"'),
    (
        "scopes = []",
        ".scopes: found an empty list, expected a list of at least one string, each "
        '"control" or "infer" or "read"',
    ),
    ('models = [""]', f'.models[0]: found "", expected {GLOB}'),
    (
        "models = []",
        f".models: found an empty list, expected a list of at least one string, each {GLOB}",
    ),
    ("requests_per_minute = 0", ".requests_per_minute: found 0, expected an integer >= 1"),
    ("max_concurrency = 1.5", ".max_concurrency: found 1.5, expected an integer >= 1"),
    ("weight = 0", ".weight: found 0, expected a number >= 0.001 and <= 1000"),
    (
        'priority = "high"',
        '.priority: found "high", expected "bulk" or "default" or "interactive"',
    ),
    ("expires = 2027-01-31", f".expires: found a date or time, expected {TIME}"),
    ("expires = 2027-01-31T18:00:00", f".expires: found a date or time, expected {TIME}"),
    ('expires = "tomorrow"', f'.expires: found "tomorrow", expected {TIME}'),
    ("budget_hours = 5", ".budget_hours: found 5, expected no such key without token_budget"),
    (
        "former_until = 2027-01-31T18:00:00Z",
        ": expected former_id, former_hash and former_until, or no former key",
    ),
    ("former_id = 123456789012", f".former_id: found another value, expected {ID}"),
]


class ParsingTests(SynchronousTestCase):
    def refusal(self, text: str) -> str:
        with self.assertRaises(ConfigError) as caught:
            parse(text, "keys.toml")
        return str(caught.exception)

    def test_defaults(self) -> None:
        """A name, an id and a hash are enough: such a key asks all models, and reads."""
        (key,) = parse(ALICE, "keys.toml")

        assert Key("alice", "aaaaaaaaaaaa", A_HASH) == key
        assert frozenset((Scope.INFER, Scope.READ)) == key.scopes

    def test_every_field(self) -> None:
        """A time is one moment, whatever its zone."""
        (key,) = parse(
            f"""{ALICE}
            scopes = ["control"]
            models = ["Qwen/*", "default"]
            requests_per_minute = 60
            tokens_per_minute = 100_000
            max_concurrency = 4
            token_budget = 5_000_000
            budget_hours = 24
            priority = "bulk"
            weight = 2
            expires = 2027-01-31T20:00:00+02:00
            former_id = "cccccccccccc"
            former_hash = "{OTHER_HASH}"
            former_until = 1970-01-01T00:01:00Z
            created = 2026-01-01T00:00:00Z
            """,
            "keys.toml",
        )

        assert key == Key(
            name="alice",
            id="aaaaaaaaaaaa",
            hash=A_HASH,
            scopes=frozenset((Scope.CONTROL,)),
            models=("Qwen/*", "default"),
            limits=KeyLimits(60, 100_000, 4, 5_000_000, 24.0),
            priority=Priority.BULK,
            weight=2.0,
            expires=1_801_418_400.0,
            former_id="cccccccccccc",
            former_hash=OTHER_HASH,
            former_until=60.0,
        )

    def test_wrong_values(self) -> None:
        """An error has the path of its value, with the name of its key."""
        for line, words in WRONG:
            self.assertEqual(f"keys.toml: keys[0] (alice){words}", self.refusal(ALICE + line))
        assert f'keys.toml: keys[0] (al ice).name: found "al ice", expected {NAME}' == self.refusal(
            ALICE.replace("alice", "al ice")
        )
        assert "unknown key keys[0] (alice).scope; did you mean keys[0] (alice).scopes?" in (
            self.refusal(f'{ALICE}scope = ["infer"]')
        )
        assert "keys.toml: keys[0].name: missing" in self.refusal(
            ALICE.replace('name = "alice"\n', "", 1)
        )

    def test_names_and_ids_are_unique(self) -> None:
        """An id is one key's, also that of a key before its rotation."""
        assert 'keys.toml: keys[1] (alice).name: found "alice", expected a unique value' in (
            self.refusal(ALICE + BOB.replace("bob", "alice"))
        )
        again = "keys[1] (bob).id: found another key's, expected a unique value: keys[0] (alice).id"
        assert again in self.refusal(ALICE + BOB.replace("b" * 12, "a" * 12))
        former = f'former_id = "{"b" * 12}"\nformer_hash = "{A_HASH}"\n'
        former += "former_until = 2027-01-01T00:00:00Z\n"
        assert "keys[1] (bob).id: found another key's" in self.refusal(ALICE + former + BOB)

    def test_no_secret_is_shown(self) -> None:
        """No error has an id, a hash or a key, wherever people put them."""
        texts = [
            f'{NAMED}id = "aaaaaaaaaaaa"\nhash = "{SECRET}"',
            f'{NAMED}id = "{SECRET}"\nhash = "{A_HASH}"',
            f'{NAMED}id = "aaaaaaaaaaaa"\nhash = "{A_HASH[:-9]}!"',
            f'[[keys]]\nid = "aaaaaaaaaaaa"\nhash = "{A_HASH}"',
            f'[[keys]]\nname = "{SECRET}"\nid = "aaaaaaaaaaaa"\nhash = "{A_HASH}"',
            f"{ALICE}{SECRET} = 1",
            f"{SECRET} = 1",
            f'[{SECRET}]\nname = "alice"',
            f"[[keys]]\nname = {SECRET}",
            ALICE + ALICE.replace("alice", "bob"),
            f"{NAMED}id = 100000000000\nhash = 1",
        ]
        for text in texts:
            message = self.refusal(text)
            for secret in (SECRET[-30:], SECRET[:30], "aaaaaaaaaaaa", A_HASH[-20:], "1000000"):
                assert secret not in message, message
        assert f"keys[0] (alice).hash: found another value, expected {HASH}" in self.refusal(
            texts[0]
        )

    @settings(max_examples=150)
    @given(some.text(max_size=60), some.integers(0, 400))
    def test_any_text_is_read_or_refused(self, noise: str, where: int) -> None:
        """Whatever stands in a file, it has keys or an error of one line."""
        text = ALICE + BOB
        try:
            keys = parse(text[:where] + noise + text[where:], "keys.toml")
        except ConfigError as error:
            self.assertTrue(str(error).isprintable())
        else:
            self.assertTrue(all(key.name and key.models for key in keys))

    def test_the_sample(self) -> None:
        """It has no keys; with its comments in effect it has every field."""
        text = SAMPLE.read_text("utf-8")
        assert () == parse(text, "sample")
        uncommented = re.sub(r"(?m)^#(?=[a-z_]+ = |\[\[)", "", text)
        (key,) = read(uncommented, "sample")
        assert set(KeySettings.__struct_fields__) == set(tomllib.loads(uncommented)["keys"][0])
        plain = KeySettings(name="alice", id=key.id, hash=key.hash)
        for field in ("scopes", "priority", "weight"):
            assert getattr(plain, field) == getattr(key, field)

    def test_every_field_is_of_a_key(self) -> None:
        """A setting that a Key lacks would be read and forgotten."""
        known = {*Key.__dataclass_fields__, *KeyLimits.__dataclass_fields__, "created"}
        assert known - {"limits"} == set(KeySettings.__struct_fields__)


class LoadingTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(folder.name) / "keys.toml"

    def refusal(self) -> str:
        with self.assertRaises(ConfigError) as caught:
            load(self.file)
        return str(caught.exception).replace(str(self.file), "FILE")

    def test_a_missing_file_has_no_keys(self) -> None:
        """Keys are required then, and nobody has one."""
        assert () == load(self.file)
        assert exposure(self.file) is None

    def test_a_file(self) -> None:
        """The keys are in the order of the file."""
        self.file.write_text(ALICE + BOB)
        self.file.chmod(0o600)

        assert ["alice", "bob"] == [key.name for key in load(self.file)]
        assert exposure(self.file) is None

    def test_what_others_may_do(self) -> None:
        """Hashes let no one in who reads them, so that is a warning; to write them does."""
        self.file.write_text(ALICE)
        self.file.chmod(0o604)
        assert ["alice"] == [key.name for key in load(self.file)]
        warning = exposure(self.file)
        assert warning is not None
        assert f"every user may read {self.file}" in warning

        self.file.chmod(0o602)
        assert "FILE: every user may write it, and so make keys: run 'chmod 600' on it" == (
            self.refusal()
        )

    def test_unreadable(self) -> None:
        """A file that cannot be read is no file without keys."""
        self.file.mkdir()
        assert "FILE: cannot be read (Is a directory), expected a TOML file" == self.refusal()
        self.file.rmdir()
        self.file.write_bytes(b"# \xff")
        assert "FILE: line 1: found byte 0xff, expected UTF-8 text" == self.refusal()
