"""Commands of the configuration, as real processes."""

from __future__ import annotations

from twisted.internet import process, reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from cortexd.agents.commands import CommandFailed, run

LIMIT = 60.0


class CommandTests(TestCase):
    timeout = 120

    async def failure(self, command: list[str], limit: float) -> str:
        """Return why a command fails."""
        try:
            await run(reactor, command, limit)
        except CommandFailed as error:
            return str(error)
        raise AssertionError("it has not failed")

    def test_one_that_succeeds(self) -> Deferred[None]:
        """It has run without a shell."""
        return run(reactor, ["true", "$(false)"], LIMIT)

    async def test_one_that_fails(self) -> None:
        """Its status and the end of its output say why."""
        words = await self.failure(["sh", "-c", "echo denied >&2; exit 3"], LIMIT)
        assert "exit code 3. denied" in words

    async def test_one_that_is_missing(self) -> None:
        """It fails too."""
        assert "cannot be run" in await self.failure(["/nowhere/suspend"], LIMIT)

    async def test_one_that_does_not_end(self) -> None:
        """It is killed after its limit."""
        words = await self.failure(["sleep", "1000"], 0.1)
        assert "it has not ended within 0.1 s" == words

    async def test_one_that_is_given_up(self) -> None:
        """It is killed when nobody waits for it any more."""
        running = run(reactor, ["sleep", "1000"], LIMIT)
        running.cancel()
        await self.assertFailure(running, CancelledError)
        readers = reactor.getReaders
        while process.reapProcessHandlers or any(
            isinstance(each, process.ProcessReader) for each in readers()
        ):
            await deferLater(reactor, 0.01)
