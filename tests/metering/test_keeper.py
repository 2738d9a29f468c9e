"""Usage in the store: it adds up, is trimmed, and brings the budgets back."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred

from cortexd.access.keys import KeyLimits
from cortexd.access.usage import DAY, HOUR, Usage
from cortexd.scheduling.events import Charged
from cortexd.store.journal import Store
from cortexd.store.usage import (
    DAYS_KEPT,
    HOURS_KEPT,
    add_usage,
    tokens_of,
    trim_usage,
    usage_between,
)
from cortexd.store.writing import WRITE_SECONDS
from tests.access.making import given
from tests.metering.keyed import NAME, KeyedTestCase, metered
from tests.support.fleets import STARTED_AT, InMemoryFleet

TODAY = STARTED_AT // DAY
SOME = Usage(1, 20, 3, 0, 1.5, 0.5, 0.25)


def restart(fleet: InMemoryFleet) -> None:
    """Let another process find the state that this one leaves."""
    fleet.parts.usage_keeper.stopService()
    fleet.recorder.stopService()
    for each in list(fleet.parts.meters.all):
        each.meter.spent.restore(HOUR, {})
        each.meter.spent.restore(DAY, {})
    fleet.recorder.startService()
    fleet.parts.usage_keeper.startService()


def all_usage(store: Store) -> dict[str, Usage]:
    """Return all that keys have used."""
    return usage_between(store, 0, TODAY + 999)


def tokens(store: Store, span: int) -> dict[str, dict[int, int]]:
    """Return the tokens of two keys in all hours or days that may have some."""
    now = STARTED_AT // span
    return tokens_of(store, ("a", "b"), span, now - 1, now + 999 * DAY // span)


class KeeperTests(KeyedTestCase):
    def test_usage_is_written_every_few_seconds(self) -> None:
        """A daemon that is killed forgets no more than that."""
        fleet = self.keyed(self.node(), limits=KeyLimits())
        fleet.chat()
        store = fleet.recorder.store
        assert store is not None
        assert {} == all_usage(store)
        fleet.advance(WRITE_SECONDS)

        expected = metered(fleet).usage
        assert expected.tokens > 0
        assert {NAME: expected} == all_usage(store)

    def test_a_budget_holds_over_a_restart(self) -> None:
        """What was used before counts."""
        fleet = self.keyed(self.node(), limits=KeyLimits(token_budget=4))
        assert 200 == fleet.chat().status
        restart(fleet)

        assert 429 == fleet.chat().status

    def test_a_budget_of_hours_holds_over_a_restart(self) -> None:
        """And over a reload that gives it to a key which had none."""
        fleet = self.keyed(self.node(), limits=KeyLimits())
        fleet.chat()
        restart(fleet)
        self.limit(fleet, KeyLimits(token_budget=4, budget_hours=5))

        refused = fleet.chat()
        assert (429, "insufficient_quota") == (refused.status, refused.error["code"])

    def test_what_nodes_did_counts_for_the_key(self) -> None:
        """Not for requests without one."""
        fleet = self.keyed(self.node(), limits=KeyLimits())
        follow = fleet.parts.meters.follow
        follow(Charged(NAME, "acme/chat", "a", gpu_seconds=2.0))
        follow(Charged(NAME, "acme/chat", "a", load_seconds=3.0, loads=0.5))
        follow(Charged("", "acme/chat", "a", gpu_seconds=9.0))

        usage = metered(fleet).usage
        assert (2.0, 3.0, 0.5) == (usage.gpu_seconds, usage.load_seconds, usage.loads)
        assert [NAME] == [each.name for each in fleet.parts.meters.all]
        assert 2.0 == fleet.sample("cortex_key_gpu_seconds_total", key=NAME, cause="answer")
        assert 3.0 == fleet.sample("cortex_key_gpu_seconds_total", key=NAME, cause="load")

    def test_a_budget_that_a_reload_brings_is_read_once(self) -> None:
        """What the store has replaces what this process knows, and so must have all of it."""
        fleet = self.keyed(self.node(), limits=KeyLimits(token_budget=100, budget_hours=100))
        fleet.chat()
        restart(fleet)
        spent = metered(fleet).meter.spent
        fleet.chat()
        assert 8 == spent.within(100, STARTED_AT) == spent.within(None, STARTED_AT)
        self.limit(fleet, KeyLimits(token_budget=100, budget_hours=5))
        for tokens_used in (12, 16):
            fleet.chat()
            fleet.parts.usage_keeper.write()
            assert tokens_used == spent.within(5, STARTED_AT)

    def test_budgets_are_restored_one_at_a_time(self) -> None:
        """Each with the first request of its key, so that many keys delay nobody else."""
        fleet = self.keyed(self.node(), limits=KeyLimits(token_budget=100))
        read: list[str] = []
        meters = fleet.parts.meters
        restore = meters.restore_budget

        def noted(name: str, limits: KeyLimits) -> None:
            read.append(name)
            restore(name, limits)

        self.patch(meters, "restore_budget", noted)
        others = [given(f"key-{i}", limits=KeyLimits(token_budget=9)).key for i in range(3)]
        fleet.parts.ring.take([*others, self.key.key])
        restart(fleet)
        fleet.advance(WRITE_SECONDS)
        assert [] == read
        for _ in range(2):
            fleet.chat()
            assert [NAME] == read

    def test_many_keys_are_written_bit_by_bit(self) -> None:
        """And all of them at the end."""
        fleet = self.keyed(self.node(), limits=KeyLimits())
        for number in range(400):
            fleet.parts.meters.follow(Charged(f"key-{number}", "m", "a", gpu_seconds=1.0))
        store = fleet.recorder.store
        assert store is not None
        fleet.advance(WRITE_SECONDS)
        assert 150 == len(all_usage(store))
        used = Deferred.fromCoroutine(fleet.parts.usage_keeper.used((1, 30)))
        fleet.advance(WRITE_SECONDS)
        assert [400, 400] == [len(found) for found in self.successResultOf(used).values()]

        assert [] == [each for each in fleet.parts.meters.all if each.name != NAME]


class StoreTests(KeyedTestCase):
    def store(self, folder: str = "state") -> Store:
        store = Store(self.state_dir / folder, STARTED_AT)
        self.addCleanup(store.close)
        return store

    def test_writes_add_up(self) -> None:
        """By hour and by day, for each key."""
        store = self.store()
        for hours in (0, 0, 1, 30):
            add_usage(store, STARTED_AT + hours * HOUR, {"a": SOME, "b": SOME})

        found = all_usage(store)
        assert {"a", "b"} == found.keys()
        assert Usage(4, 80, 12, 0, 6.0, 2.0, 1.0) == found["a"]
        assert [2, 1, 1] == [n // 23 for n in tokens(store, HOUR)["a"].values()]
        assert {"a": SOME, "b": SOME} == usage_between(store, TODAY + 1, TODAY + 9)

    def test_the_rows_of_few_and_of_many_keys_are_the_same(self) -> None:
        """However they are found."""
        store = self.store()
        names = [f"key-{number}" for number in range(30)]
        for days in range(4):
            add_usage(store, STARTED_AT + days * DAY, dict.fromkeys(names, SOME))
        many = tokens_of(store, names, DAY, TODAY + 1, TODAY + 2)
        few = tokens_of(store, names[:3], DAY, TODAY + 1, TODAY + 2)

        assert {TODAY + 1: 23, TODAY + 2: 23} == many["key-29"]
        assert {name: many[name] for name in names[:3]} == few

    def test_nothing_is_kept_for_ever(self) -> None:
        """Hours for as long as the longest budget that counts them, days for over a year."""
        store = self.store()
        for days in (0, 1, 300, 500):
            add_usage(store, STARTED_AT + days * DAY, {"a": SOME})
        trim_usage(store, STARTED_AT + 500 * DAY)

        hours = tokens(store, HOUR)["a"]
        assert [(STARTED_AT + 500 * DAY) // HOUR] == list(hours)
        assert [TODAY + 300, TODAY + 500] == list(tokens(store, DAY)["a"])
        assert (49, 400) == (HOURS_KEPT, DAYS_KEPT)

    def test_a_full_disk_loses_and_doubles_nothing(self) -> None:
        """What waits in memory adds up, is shown, and counts once when it is written."""
        store = self.store()
        add_usage(store, STARTED_AT, {"a": SOME})
        file = store._file
        full = OSError(28, "No space left on device")

        def fail(statements: object) -> None:
            raise full

        self.patch(file, "write", fail)
        for _ in range(3):
            add_usage(store, STARTED_AT, {"a": SOME, "b": SOME})
        assert 4 == all_usage(store)["a"].requests
        assert {TODAY: 69} == tokens(store, DAY)["b"]

        self.patch(file, "write", type(file).write.__get__(file))
        store.retry(STARTED_AT)
        assert [] == list(store.unwritten)
        assert (4, 3) == tuple(all_usage(store)[name].requests for name in "ab")

    def test_a_file_that_opens_late_gets_what_was_counted_meanwhile(self) -> None:
        """On top of what it has."""
        folder = self.state_dir / "late"
        first = Store(folder, STARTED_AT)
        add_usage(first, STARTED_AT, {"a": SOME})
        first.close()
        hidden = self.hide(folder)
        store = Store(folder, STARTED_AT)
        self.addCleanup(store.close)
        assert store.unstored
        for _ in range(2):
            add_usage(store, STARTED_AT, {"a": SOME})
        assert 2 == all_usage(store)["a"].requests

        folder.rmdir() if folder.is_dir() else folder.unlink()
        hidden.rename(folder)
        assert store.retry(STARTED_AT)
        assert 3 == all_usage(store)["a"].requests

    def hide(self, folder: Path) -> Path:
        """Put a file where the folder is."""
        hidden = folder.with_name("hidden")
        folder.rename(hidden)
        folder.write_text("no folder", encoding="utf-8")
        return hidden
