import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.keys import Scope
from cortexd.access.requesters import Priority
from cortexd.access.ring import KeyRing
from cortexd.access.secret import id_of, matches
from cortexd.config.keys_file import load
from cortexd.errors import OperationRefused
from cortexd.store.key_keeper import KeyKeeper

NOW = 1_800_000_000.0


class KeeperTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.file = self.folder / "keys.toml"
        self.ring = KeyRing(())
        self.held: list[Callable[[], object]] = []
        self.holds = False
        self.keeper = KeyKeeper(
            self.ring, str(self.file), self.folder / "keys.toml", self.in_thread, lambda: NOW
        )

    def in_thread(self, call: Callable[[], Any]) -> Deferred[Any]:
        """Call at once, or when the test lets it."""
        if not self.holds:
            return maybeDeferred(call)
        done: Deferred[Any] = Deferred()
        self.held.append(lambda: maybeDeferred(call).chainDeferred(done))
        return done

    def do(self, order: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(order))

    def add(self, name: str, **values: object) -> str:
        """Add a key and return its text."""
        _, text = self.do(self.keeper.add({"name": name, **values}))
        return str(text)

    def refusal(self, order: Any) -> str:
        failure = self.failureResultOf(Deferred.fromCoroutine(order), OperationRefused)
        return str(failure.value).replace(str(self.file), "FILE")

    def admits(self, text: str) -> bool:
        """Whether the ring has this key now, with its hash."""
        found = self.ring.find(id_of(text) or "")
        return found is not None and matches(text, found[1])

    def test_add(self) -> None:
        """The new key is in the file and admits at once; only its hash is stored."""
        first = self.add("alice")
        second = self.add(
            "bob",
            scopes=["control"],
            models=["Qwen/*"],
            priority="bulk",
            weight=2,
            expires=NOW + 60,
            max_concurrency=3,
        )

        assert self.admits(first)
        assert self.admits(second)
        assert first not in self.file.read_text()
        assert load(self.file) == tuple(self.ring.keys.values())
        bob = self.ring.keys["bob"]
        assert (frozenset([Scope.CONTROL]), ("Qwen/*",)) == (bob.scopes, bob.models)
        assert (Priority.BULK, 2.0, NOW + 60) == (bob.priority, bob.weight, bob.expires)
        assert 3 == bob.limits.max_concurrency
        assert 0o600 == self.file.stat().st_mode & 0o777
        assert ["keys.toml"] == [each.name for each in self.folder.iterdir()]

    def test_rotate(self) -> None:
        """The former key ends at once, or when it was told to."""
        first = self.add("alice", models=["a", "b"])
        alice, second = self.do(self.keeper.rotate("alice"))
        assert (False, True) == (self.admits(first), self.admits(second))
        assert ("a", "b") == alice.models

        alice, third = self.do(self.keeper.rotate("alice", 3600.0))
        assert (True, True) == (self.admits(second), self.admits(third))
        assert NOW + 3600 == alice.former_until
        _, fourth = self.do(self.keeper.rotate("alice"))
        assert [False, False, False, True] == [
            self.admits(each) for each in (first, second, third, fourth)
        ]

    def test_revoke(self) -> None:
        """The key is gone from the file and from the ring, and no other one."""
        first, second = self.add("alice"), self.add("bob")
        self.do(self.keeper.revoke("alice"))

        assert (False, True) == (self.admits(first), self.admits(second))
        assert ["bob"] == [key.name for key in load(self.file)]

    def test_no_keys_are_noticed(self) -> None:
        """Until the first key is added, the operator learns why each request is refused."""
        (notice,) = self.keeper.notices()
        assert f"{self.file} has no keys" in notice
        assert "'cortexctl key add NAME'" in notice

        self.add("alice")
        assert [] == self.keeper.notices()
        self.keeper.take(None, None)
        assert [] == self.keeper.notices()

    def test_a_change_by_hand_is_read_first(self) -> None:
        """What people wrote since the start stays, and counts from then on too."""
        self.add("alice")
        self.file.write_text("# mine\n" + self.file.read_text().replace("alice", "carol"))
        self.add("bob")

        assert ["carol", "bob"] == list(self.ring.keys)
        assert self.file.read_text().startswith("# mine\n")

    def test_the_bytes_around_a_change_stay(self) -> None:
        """Also a byte order mark and the line ends of another system."""
        before = b"\xef\xbb\xbf# mine\r\n"
        self.file.write_bytes(before)
        self.add("alice")
        assert self.file.read_bytes().startswith(before + b"\r\n[[keys]]\r\nname = ")
        self.do(self.keeper.revoke("alice"))
        assert self.file.read_bytes().startswith(before)

    def test_a_file_that_changes_meanwhile_is_read_again(self) -> None:
        """No change of others is overwritten, also one in the last moment."""
        self.add("alice")
        self.file.chmod(0o640)
        before = self.file.read_text()
        keeper = KeyKeeper(self.ring, str(self.file), self.file, self.in_thread, self.other_writes)
        self.writes = [lambda: self.file.write_text(before + "# later\n")]
        self.successResultOf(Deferred.fromCoroutine(keeper.add({"name": "bob"})))

        assert "# later\n" in self.file.read_text()
        assert ["alice", "bob"] == list(self.ring.keys)
        assert 0o640 == self.file.stat().st_mode & 0o777

        self.writes = [lambda: self.file.write_text(f"{before}# {os.urandom(8).hex()}\n")] * 9
        assert "FILE is being changed by another program: try again" == self.refusal(
            keeper.add({"name": "carol"})
        )
        assert ["keys.toml"] == [each.name for each in self.folder.iterdir()]

    def other_writes(self) -> float:
        """Return the time, and let another program write between a reading and a writing."""
        if self.writes:
            self.writes.pop()()
        return NOW

    def test_one_change_at_a_time(self) -> None:
        """Two orders at once are two keys."""
        self.holds = True
        orders = [
            Deferred.fromCoroutine(self.keeper.add({"name": name})) for name in ("alice", "bob")
        ]
        assert 1 == len(self.held)
        while self.held:
            self.held.pop()()
        for each in orders:
            self.successResultOf(each)

        assert ["alice", "bob"] == list(self.ring.keys)

    def test_a_link_stays_one(self) -> None:
        """The file that it leads to is replaced."""
        real = self.folder / "real.toml"
        real.write_text("")
        self.file.symlink_to(real)
        self.add("alice")

        assert self.file.is_symlink()
        assert "alice" in real.read_text()

    def test_refusals(self) -> None:
        """A refused change changes nothing, and says what to do."""
        text = self.add("alice")
        before = self.file.read_text()
        assert (
            "a key is called 'alice' already; 'cortexctl key rotate alice' replaces it by a new one"
            == self.refusal(self.keeper.add({"name": "alice"}))
        )
        assert "no key is called 'alcie'; did you mean alice?" == self.refusal(
            self.keeper.revoke("alcie")
        )
        assert "no key is called 'x'; 'cortexctl key list' shows the keys" == self.refusal(
            self.keeper.rotate("x")
        )
        assert "the new key: weight: found 0, expected a number" in self.refusal(
            self.keeper.add({"name": "bob", "weight": 0})
        )
        assert "the new key: unknown key hast;" in self.refusal(
            self.keeper.add({"name": "bob", "hast": 0})
        )
        assert "the new key: keys[0] (bob).budget_hours" in self.refusal(
            self.keeper.add({"name": "bob", "budget_hours": 5})
        )
        assert before == self.file.read_text()
        assert self.admits(text)

    def test_a_file_that_cannot_be_used(self) -> None:
        """Neither a faulty file nor one of another form is written over."""
        inline = "keys = []\n"
        for content, words in (
            ("keys = 5\n", "FILE: keys: found 5, expected any number of [[keys]]"),
            (inline, "FILE: it has keys that are not [[keys]] tables"),
        ):
            self.file.write_text(content)
            self.assertIn(words, self.refusal(self.keeper.add({"name": "bob"})))
            assert content == self.file.read_text()
        self.file.unlink()
        self.file.mkdir()
        words = self.refusal(self.keeper.add({"name": "bob"}))
        assert "FILE cannot be changed (Is a directory): let the daemon's user write" in words
        self.file.rmdir()
        self.keeper.path = "/nowhere/keys.toml"
        words = self.refusal(self.keeper.add({"name": "bob"}))
        assert words.startswith("/nowhere/keys.toml cannot be changed (No such file or directory)")

    def test_without_a_keys_file(self) -> None:
        """The refusal has what to write into the configuration."""
        self.keeper.path = None
        assert (
            'no request needs a key: write [auth] with keys_file = "FILE" into cortex.toml, and '
            "run 'cortexctl reload'"
        ) == self.refusal(self.keeper.revoke("alice"))
