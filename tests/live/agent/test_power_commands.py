"""The commands that let machines sleep, as real processes."""

from __future__ import annotations

import pytest
from twisted.internet import process, reactor
from twisted.internet.defer import CancelledError
from twisted.internet.task import deferLater

from cortexd.agents.commands import CommandFailed, run

LIMIT = 60.0


async def failure(command: list[str], limit: float) -> str:
    """Return why a command fails."""
    with pytest.raises(CommandFailed) as caught:
        await run(reactor, command, limit)
    return str(caught.value)


async def test_one_that_succeeds() -> None:
    """It has run without a shell."""
    await run(reactor, ["true", "$(false)"], LIMIT)


async def test_one_that_fails() -> None:
    """Its status and the end of its output say why."""
    words = await failure(["sh", "-c", "echo denied >&2; exit 3"], LIMIT)

    assert "exit code 3. denied" in words


async def test_one_that_is_missing() -> None:
    """It fails too."""
    assert "cannot be run" in await failure(["/nowhere/suspend"], LIMIT)


async def test_one_that_does_not_end() -> None:
    """It is killed after its limit."""
    assert "it has not ended within 0.1 s" == await failure(["sleep", "1000"], 0.1)


async def test_one_that_is_given_up() -> None:
    """It is killed when nobody waits for it any more."""
    running = run(reactor, ["sleep", "1000"], LIMIT)
    running.cancel()
    with pytest.raises(CancelledError):
        await running
    while process.reapProcessHandlers or any(
        isinstance(each, process.ProcessReader) for each in reactor.getReaders()
    ):
        await deferLater(reactor, 0.01)
