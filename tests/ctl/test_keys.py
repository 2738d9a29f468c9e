import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from cortexd.access.keys import Key
from cortexd.access.ring import KeyRing
from cortexd.access.secret import id_of, matches
from cortexd.config.keys_file import parse
from cortexd.control.keys import key_summary
from cortexd.control.server import ControlFactory
from cortexd.ctl import main
from cortexd.ctl.keys import MOST_MODELS, key_text, keys_text
from cortexd.ctl.progress import Done
from cortexd.store.key_keeper import KeyKeeper
from tests.ctl.test_commands import CommandTestCase
from tests.support.control import STARTED_AT

SUMMARY = {
    "name": "alice",
    "scopes": ["infer", "read"],
    "models": ["*"],
    "priority": "default",
    "weight": 1.0,
    "requests_per_minute": None,
    "tokens_per_minute": None,
    "max_concurrency": None,
    "token_budget": None,
    "budget_hours": None,
    "expires": None,
    "former_until": None,
}


def at_once(call: Callable[[], Any]) -> Deferred[Any]:
    """Call in this thread."""
    return maybeDeferred(call)


class KeyCommandTests(CommandTestCase):
    def make_factory(self) -> ControlFactory:
        """Return a factory with a keys file that the daemon may write."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(folder.name, "keys.toml")
        self.ring = KeyRing(())
        self.keeper = KeyKeeper(self.ring, str(self.file), self.file, at_once, self.clock.seconds)
        return ControlFactory(
            self.given.dispatcher, None, self.clock, STARTED_AT, {}, keys=self.keeper
        )

    def run_line(self, line: str) -> Done:
        done: Done = self.answer(line)
        return done

    def admits(self, text: str) -> bool:
        found = self.ring.find(id_of(text) or "")
        return found is not None and matches(text, found[1])

    def test_add(self) -> None:
        """The key alone is on a line of its own, for shells, and the rest is a note."""
        done = self.run_line("key add alice")
        text = done.text.removesuffix("\n")

        assert self.admits(text)
        assert {"key": SUMMARY, "text": text} == done.data
        assert "the key of alice: no one can show it again, so keep it now\n" == done.note

    def test_every_option(self) -> None:
        """Each option reaches the key."""
        done = self.run_line(
            "key add bob --scope infer,control --model Qwen/* --model other --priority bulk "
            "--weight 2 --expires 2100-01-01T00:00:00Z --requests-per-minute 1 "
            "--tokens-per-minute 2 --max-concurrency 3 --token-budget 4 --budget-hours 5"
        )
        assert done.note.endswith("; it expires at 2100-01-01T00:00:00Z\n")
        bob = self.ring.keys["bob"]
        assert done.data["key"] == {
            "name": "bob",
            "scopes": ["control", "infer"],
            "models": ["Qwen/*", "other"],
            "priority": "bulk",
            "weight": 2.0,
            "requests_per_minute": 1,
            "tokens_per_minute": 2,
            "max_concurrency": 3,
            "token_budget": 4,
            "budget_hours": 5.0,
            "expires": bob.expires,
            "former_until": None,
        }
        assert (
            "name:     bob\n"
            "scopes:   control, infer\n"
            "models:   Qwen/*, other\n"
            "priority: bulk\n"
            "weight:   2\n"
            "limits:   1 request per minute, 2 tokens per minute, 3 requests at a time, "
            "4 tokens in 5 h\n"
            "expires:  2100-01-01T00:00:00Z\n"
        ) == self.run_line("key show bob").text
        assert {"key": done.data["key"]} == self.run_line("key show bob").data

    def test_list(self) -> None:
        """A thousand keys come in pages, each once, and without ids and hashes."""
        assert "'cortexctl key add NAME' makes one" in self.run_line("key list").text
        self.ring.take(
            Key(f"key-{number}", f"id-{number}", "$scrypt$", models=("x" * 60,))
            for number in range(1000)
        )
        done = self.run_line("key list")
        lines = done.text.splitlines()

        assert 1001 == len(lines)
        assert ["key-0", "infer,read", "x" * 60, "default", "1", "-", "-"] == lines[1].split()
        assert [f"key-{number}" for number in range(1000)] == [
            each["name"] for each in done.data["keys"]
        ]
        for secret in ("id-", "$scrypt"):
            assert secret not in f"{done.text}{done.data}"

    def test_rotate_and_revoke(self) -> None:
        """The old key ends at once or later, as the note says."""
        first = self.run_line("key add alice").text.strip()
        done = self.run_line("key rotate alice --keep-old 1h")
        second = done.text.strip()
        assert (True, True) == (self.admits(first), self.admits(second))
        until = f"{self.clock.seconds() + 3600:.0f}"
        assert until == f"{done.data['key']['former_until']:.0f}"
        assert "; the old one is valid until 1970-01-01T01:" in done.note
        assert "old key:  valid until" in key_text(self.listed()[0], self.clock.seconds())

        done = self.run_line("key rotate alice")
        assert (False, False) == (self.admits(first), self.admits(second))
        assert done.note.endswith("; the old one is not valid any more\n")

        done = self.run_line("key revoke alice")
        assert "alice is revoked: requests with its key are refused from now on\n" == done.text
        assert {"name": "alice", "revoked": True} == done.data
        assert {} == dict(self.ring.keys)

    def listed(self) -> Any:
        """Return the summaries of all keys."""
        return [key_summary(key) for key in self.ring.keys.values()]

    def test_an_expired_key(self) -> None:
        """The list shows that it is of no use any more."""
        self.ring.take([Key("old", "i", "h", expires=60.0)])
        assert "1970-01-01T00:01:00Z (expired)" in keys_text(self.listed(), 61.0)
        assert "(expired)" not in keys_text(self.listed(), 59.0)

    def test_refusals(self) -> None:
        """A name that no key has gets the nearest; without keys the advice is to require some."""
        self.run_line("key add alice")
        for line in ("key show alcie", "key rotate alcie", "key revoke alcie"):
            assert "no key is called 'alcie'; did you mean alice?" == self.refused(line)
        assert "a key is called 'alice' already" in self.refused("key add alice")
        self.keeper.path = None
        for line in ("key list", "key show alice", "key add bob"):
            assert "write [auth] with keys_file = " in self.refused(line)

    def test_print(self) -> None:
        """The table is for other programs, and needs no daemon; only people get to see the key."""
        written, err = io.BytesIO(), io.StringIO()
        out = io.TextIOWrapper(written, "utf-8")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main.main(["key", "add", "alice", "--print", "--weight", "2"])

        assert 0 == status
        (alice,) = parse(written.getvalue().decode(), "f")
        text = err.getvalue().split()[4]
        assert matches(text, alice.hash)
        assert (2.0, id_of(text)) == (alice.weight, alice.id)
        assert text.encode() not in written.getvalue()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            assert 1 == main.main(["key", "add", "a b", "--print"])
        assert "cortexctl: the new key: name: found" in err.getvalue()

    def test_usage(self) -> None:
        """Wrong options end with 2 and what is wrong with them."""
        for line, words in {
            "": "ACTION",
            "add": "NAME",
            "add a --scope infer,write": "expected one or more of infer,read,control",
            "add a --weight nan": "expected a number above 0",
            "add a --weight 0": "expected a number above 0",
            "add a --expires soon": "expected a date such as",
            "add a --expires 2020-01-01": "is in the past",
            "add a --max-concurrency 0": "expected an integer of 1 or more",
            "add a --budget-hours 5": "--budget-hours needs --token-budget",
            "add a" + " --model b" * (MOST_MODELS + 1): "at most 100 times --model",
            "rotate a --keep-old 1y": "expected a span such as",
        }.items():
            said = io.StringIO()
            with contextlib.redirect_stderr(said), self.assertRaises(SystemExit) as caught:
                main.main(["key", *line.split()])
            assert 2 == caught.exception.code
            assert words in said.getvalue(), line
