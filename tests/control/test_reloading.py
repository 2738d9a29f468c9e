"""The commands of the control socket that reload the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from cortexd.config.changes import ConfigChange
from cortexd.control.contract import LAST_PAGE, ListReloaded, PlanReload, Refused, Reload
from cortexd.errors import OperationRefused
from tests.support.control import ControlledFleet, ControlTestCase, send


class Scripted:
    """Reloads with these changes, or is refused if there are none."""

    def __init__(self, changes: Sequence[ConfigChange] | None) -> None:
        self._changes = changes

    def reload(self) -> Deferred[Sequence[ConfigChange]]:
        if self._changes is None:
            return fail(OperationRefused("cortex.toml: line 1: not valid TOML"))
        return succeed(self._changes)

    async def plan(self) -> Sequence[ConfigChange]:
        return await self.reload()


class ReloadingTests(ControlTestCase):
    def make_fleet(self) -> ControlledFleet:
        return ControlledFleet({"large": 1000})

    def ask_for(self, changes: Sequence[ConfigChange] | None, *commands: Any) -> list[Any]:
        """Return the answers to commands, each with its arguments, on one connection."""
        self.factory.reloading = Scripted(changes)
        client, _, pump = self.connect()
        answers = []
        for command, arguments in commands:
            answers.append(send(client, command, **arguments))
            pump.flush()
        return answers

    def test_changes(self) -> None:
        """Each has the path of its key, its words, and whether it waits for a restart."""
        changes = [
            ConfigChange("gateway.state_dir", "a -> b", True),
            ConfigChange("nodes (a)", "x"),
        ]
        for command, arguments in ((Reload, {}), (PlanReload, {"offset": 0})):
            (answered,) = self.ask_for(changes, (command, arguments))
            answer = self.successResultOf(answered)
            assert LAST_PAGE == answer["next"]
            assert [("gateway.state_dir", "a -> b", True), ("nodes (a)", "x", False)] == [
                (each.key, each.words, each.at_restart) for each in answer["items"]
            ]

    def test_a_refusal(self) -> None:
        """The words of the error reach the operator."""
        for command, arguments in ((Reload, {}), (PlanReload, {"offset": 0})):
            (answered,) = self.ask_for(None, (command, arguments))
            failure = self.failureResultOf(answered, Refused)
            assert "not valid TOML" in str(failure.value)

    def test_pages(self) -> None:
        """More changes than fit into a value come in pages, each one once."""
        changes = [ConfigChange(f"models ({number})", "x" * 200) for number in range(1000)]
        (answered,) = self.ask_for(changes, (Reload, {}))
        first = self.successResultOf(answered)
        assert 0 < first["next"] < 1000

        first_again, second = map(
            self.successResultOf,
            self.ask_for(changes, (Reload, {}), (ListReloaded, {"offset": first["next"]})),
        )

        assert len(first_again["items"]) == first["next"]
        assert f"models ({first['next']})" == second["items"][0].key

    def test_a_daemon_that_cannot(self) -> None:
        """Without anything that reloads, the commands are refused."""
        client, _, pump = self.connect()

        answered = send(client, Reload)
        pump.flush()

        assert "cannot reload" in str(self.failureResultOf(answered, Refused).value)
