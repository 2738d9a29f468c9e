"""``cortexctl usage``: what keys have used, by way of the control socket."""

from __future__ import annotations

from collections.abc import Sequence

from cortexd.access.usage import Usage
from cortexd.ctl.commands import SUBCOMMANDS
from tests.ctl.test_commands import CommandTestCase


class Scripted:
    """Knows what keys have used: as much in each day."""

    def __init__(self, *names: str, used: Usage) -> None:
        self.names = [*names, "unused"]
        self._names, self._used = names, used

    async def used(self, periods: Sequence[int]) -> dict[int, dict[str, Usage]]:
        found = {}
        for days in periods:
            total = Usage()
            for _ in range(days):
                total += self._used
            found[days] = dict.fromkeys(self._names, total)
        return found


class UsageTests(CommandTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.factory.usage = Scripted("bob", "alice", used=Usage(2, 30, 4, 5, 1.5, 0.25, 0.5))

    def text(self, line: str) -> str:
        """Return what a command line prints."""
        return SUBCOMMANDS["usage"].text(self.answer(line), 0.0)

    def test_one_key(self) -> None:
        """Today, in a week and in a month."""
        expected = """\
KEY    SINCE    REQUESTS  TOKENS IN  TOKENS OUT  ESTIMATED  GPU SECONDS  LOADS
alice  today    2         30         4           5          1.8          0.5
alice  7 days   14        210        28          35         12.2         3.5
alice  30 days  60        900        120         150        52.5         15
"""
        assert expected == self.text("usage --key alice")

    def test_the_action_of_key(self) -> None:
        """``key usage`` shows the same of one key."""
        done = self.answer("key usage alice")
        assert self.text("usage --key alice") == done.text
        assert 3 == len(done.data["usage"])
        assert 1 == len(self.answer("key usage alice --days 2").data["usage"])

    def test_all_keys_in_some_days(self) -> None:
        """By their names, those that were not used too; the data has all figures."""
        found = self.answer("usage --days 2")
        data = SUBCOMMANDS["usage"].data(found)["usage"]

        assert [("alice", 2, 4), ("bob", 2, 4), ("unused", 2, 0)] == [
            (each["key"], each["days"], each["requests"]) for each in data
        ]
        assert {
            "key": "bob",
            "days": 2,
            "requests": 4,
            "prompt_tokens": 60,
            "completion_tokens": 8,
            "uncounted_tokens": 10,
            "gpu_seconds": 3.0,
            "load_seconds": 0.5,
            "loads": 1.0,
        } == data[1]

    def test_a_key_that_there_is_not(self) -> None:
        """It is refused, with the command that shows the names."""
        assert "there is no key 'carol'; 'cortexctl usage' shows" in self.refused(
            "usage --key carol"
        )

    def test_many_keys_come_in_pages(self) -> None:
        """And each of them once."""
        names = [f"key-{number:04}" for number in range(1000)]
        self.factory.usage = Scripted(*names, used=Usage(1))
        begun = self.begin("usage")
        for pump in self.pumps:
            pump.flush()
        found = self.successResultOf(begun)

        assert 3 * 1001 == len(found) == len({(each.key, each.days) for each in found})

    def test_nothing_at_all(self) -> None:
        """Without keys there is nothing to show; a daemon that counts nothing says so."""
        self.factory.usage = None
        assert "counts no usage" in self.refused("usage")
        assert "no key has used anything\n" == SUBCOMMANDS["usage"].text([], 0.0)
