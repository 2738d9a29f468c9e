"""Stored responses have owners: in the file, in its limits, and for the readers of the store."""

import sqlite3
from contextlib import closing
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.store.response_file import MIGRATIONS, Limits, StoredResponse, fair_shares
from tests.store.test_response_file import DAY, FileTestCase, stored
from tests.support.stores import NOW


def owned(name: str, owner: str, *, at: float = NOW, size: int = 100) -> StoredResponse:
    return replace(stored(name, at=at, size=size), owner=owner)


class FileTests(FileTestCase):
    def test_it_comes_back_with_its_owner(self) -> None:
        """From another daemon too, and after it was stored anew."""
        opened = self.open()
        opened.write([owned("resp_1", "alice"), owned("resp_2", "")], (), (), NOW)
        opened.close()

        again = self.open()
        first = again.get("resp_1", NOW)
        assert first == owned("resp_1", "alice")
        again.write([replace(owned("resp_1", "alice"), response=b"more")], (), (), NOW)
        found = [again.get(name, NOW) for name in ("resp_1", "resp_2")]
        assert ["alice", ""] == [each.owner for each in found if each is not None]

    def test_a_file_from_before_there_were_owners(self) -> None:
        """Its responses are there, and belong to no key; new ones have an owner."""
        with closing(sqlite3.connect(self.path)) as connection:
            for statement in MIGRATIONS[0]:
                connection.execute(statement)
            connection.execute(
                "INSERT INTO responses (id, previous, model, created_at, used_at, size,"
                " is_unfinished) VALUES ('resp_1', NULL, 'acme/chat', ?, ?, 100, 0)",
                (NOW, NOW),
            )
            connection.execute("INSERT INTO bodies VALUES (1, ?, ?)", (b"r" * 90, b"i" * 10))
            connection.execute("PRAGMA user_version = 1")
            connection.commit()

        opened = self.open()
        assert stored("resp_1") == opened.get("resp_1", NOW)
        opened.write([owned("resp_2", "alice")], (), (), NOW)
        assert ["resp_1", "resp_2"] == self.names(opened, "resp_1", "resp_2")

    def test_a_full_store(self) -> None:
        """The owner with the most loses its oldest; what others have stays, also if it is older."""
        opened = self.open(Limits(30 * DAY, 1_000))
        few = [owned(f"few_{n}", "bob", at=NOW + n) for n in range(3)]
        opened.write(few, (), (), NOW)
        many = [owned(f"many_{n}", "alice", at=NOW + 10 + n) for n in range(20)]
        opened.write(many, (), (), NOW)

        assert [each.id for each in few] == self.names(opened, *(each.id for each in few))
        left = self.names(opened, *(each.id for each in many))
        assert [f"many_{n}" for n in range(13, 20)] == left


class ShareTests(SynchronousTestCase):
    @given(
        st.dictionaries(st.text("ab", max_size=3), st.integers(1, 50)),
        st.integers(0, 100),
    )
    def test_shares(self, sizes: dict[str, int], most: int) -> None:
        """All fits; only the largest give up something, and none more than rounding needs."""
        shares = fair_shares(sizes, most)
        left = {owner: shares.get(owner, size) for owner, size in sizes.items()}

        assert sum(left.values()) <= most or not sizes
        assert bool(shares) == (sum(sizes.values()) > most)
        if shares:
            (share,) = set(shares.values())
            assert all(sizes[owner] > share for owner in shares)
            assert all(size <= share for owner, size in left.items())
            assert most - sum(left.values()) < len(shares)
