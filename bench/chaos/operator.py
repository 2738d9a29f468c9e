"""The operator of the chaos bench: restarts, reloads, wrong files, pins, and a full disk."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue

from bench.supervisors.double import SystemdDouble

FULL_SECONDS = 6.0
CTL_SECONDS = "20"
WRONG_KEY = "poling"
UNLIMITED = resource.RLIM_INFINITY


class Operator:
    """Operates the daemon that ``supervisor`` runs; ``counts`` has the actions and their outcomes.

    ``config`` makes the text of the configuration from a number; all texts are equally good.
    """

    def __init__(
        self,
        reactor: Any,
        supervisor: SystemdDouble,
        config: Callable[[int], str],
        models: list[str],
        dice: Random,
    ) -> None:
        self._reactor = reactor
        self._supervisor = supervisor
        self._config = config
        self._models = models
        self._dice = dice
        self._version = 0
        self._to_come: list[Callable[[], Deferred[Any]]] = []
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.restarts: list[float] = []

    async def act(self) -> None:
        """Take the next action: each once, in random order, then each again."""
        if not self._to_come:
            self._to_come = [
                self._reload,
                self._reload,
                self._wrong_reload,
                self._restart,
                self._wrong_restart,
                self._pin,
                self._cordon,
                self._fill_the_disk,
            ]
            self._dice.shuffle(self._to_come)
        action = self._to_come.pop()
        self.counts[action.__name__.strip("_").replace("_", " ")] += 1
        await action()

    def _expect(self, what: str, status: object, expected: object) -> None:
        if status != expected:
            self.failures.append(f"{what}: {status!r} instead of {expected!r}")

    async def _ctl(self, *arguments: str) -> int:
        """Run cortexctl; return its exit status."""
        ctl = str(Path(sys.executable).with_name("cortexctl"))
        socket = str(self._supervisor.unit.folder / "control.sock")
        _, err, status = await getProcessOutputAndValue(
            ctl, ["--socket", socket, "--timeout", CTL_SECONDS, *arguments], reactor=self._reactor
        )
        self.counts[f"cortexctl: {status}"] += 1
        if status:
            self.counts[f"cortexctl {arguments[0]}: {err.decode()[:60].strip()}"] += 1
        return int(status)

    def _write(self, *, is_wrong: bool = False) -> None:
        self._version += 1
        text = self._config(self._version)
        if is_wrong:
            text = text.replace("[polling]", f"[{WRONG_KEY}]")
        self._supervisor.unit.config.write_text(text)

    def _reload(self) -> Deferred[Any]:
        async def run() -> None:
            self._write()
            self._expect("reload", await self._ctl("reload"), 0)

        return Deferred.fromCoroutine(run())

    def _wrong_reload(self) -> Deferred[Any]:
        async def run() -> None:
            self._write(is_wrong=True)
            self._expect("wrong reload", await self._ctl("reload"), 1)
            self._write()

        return Deferred.fromCoroutine(run())

    def _restart(self) -> Deferred[Any]:
        async def run() -> None:
            self._write()
            self._expect("restart", await self._restarted(), 0)

        return Deferred.fromCoroutine(run())

    def _wrong_restart(self) -> Deferred[Any]:
        async def run() -> None:
            self._write(is_wrong=True)
            self._expect("wrong restart", await self._restarted(), 1)
            self._write()
            is_ready = await deferToThread(self._supervisor.wait_until_ready)
            self._expect("start after a wrong restart", is_ready, True)

        return Deferred.fromCoroutine(run())

    def _restarted(self) -> Deferred[int]:
        self.restarts.append(time.time())
        return deferToThread(self._supervisor.restart)

    def _pin(self) -> Deferred[Any]:
        async def run() -> None:
            model, node = self._dice.choice(self._models), "large"
            await self._ctl("pin", model, "--node", node)
            await self._ctl("unpin", model, "--node", node)

        return Deferred.fromCoroutine(run())

    def _cordon(self) -> Deferred[Any]:
        async def run() -> None:
            await self._ctl("cordon", "small")
            await self._ctl("uncordon", "small")

        return Deferred.fromCoroutine(run())

    def _fill_the_disk(self) -> Deferred[Any]:
        """Let every write to a file fail for a while, as on a full disk."""

        async def run() -> None:
            self._limit_files(0)
            over: Deferred[None] = Deferred()
            self._reactor.callLater(FULL_SECONDS, over.callback, None)
            await over
            self._limit_files(UNLIMITED)

        return Deferred.fromCoroutine(run())

    def _limit_files(self, size: int) -> None:
        for pid in self._supervisor.processes():
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, UNLIMITED))
