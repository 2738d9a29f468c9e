"""One key with two clients, alone and beside 50 clients of another key; then beside 50 of bulk.

The keys come from a keys file. The node has two slots, and each answer takes 0.2 to 0.6 s. A wait
is what the gateway reports in X-Cortex-Queue-Ms. Alone, a key hardly waits; beside a flood it waits
for one running answer at most, because a slot in use cannot be taken away.
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

from bench.figures import percentile
from bench.processes import Address
from bench.reliability.daemons import daemon
from bench.reliability.scene import Figure
from bench.wire import MODEL
from cortexd.access.secret import hashed, id_of, new_key
from cortexd.config.keys_file import KeySettings
from cortexd.config.keys_text import table_text

SLOTS = 2
ANSWER_MS = (200, 600)
CLIENTS = 2
THINK_SECONDS = (0.2, 0.8)
FLOOD = 50
ALONE_SECONDS = 8.0
BESIDE_SECONDS = 12.0
GIVE_UP_SECONDS = 60.0
MOST_TIMES = 1.5
SLACK_MS = 250.0
"""How much later than a slot comes free a loaded machine may begin the next answer."""

KEYS: Final[dict[str, Literal["interactive", "default", "bulk"]]] = {
    "ann": "default",
    "bob": "default",
    "eve": "interactive",
    "cyd": "bulk",
}


@dataclass
class Clients:
    """The clients of one key, each in a thread; ``waits_ms`` are those of answered requests."""

    address: Address
    key: str
    number: int
    think_seconds: tuple[float, float]
    chance: random.Random
    waits_ms: list[float] = field(default_factory=list)
    failed: int = 0
    is_over: bool = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the clients send requests until the block is left."""
        threads = [threading.Thread(target=self._play, daemon=True) for _ in range(self.number)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.is_over = True
            for thread in threads:
                thread.join(GIVE_UP_SECONDS)

    def _play(self) -> None:
        connection = HTTPConnection(*self.address, timeout=GIVE_UP_SECONDS)
        while not self.is_over:
            time.sleep(self.chance.uniform(*self.think_seconds))
            body = {
                "model": MODEL,
                "messages": [{"role": "user", "content": "hi"}],
                "bench": {"first_ms": self.chance.uniform(*ANSWER_MS)},
            }
            try:
                headers = {"Authorization": f"Bearer {self.key}"}
                connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
                response = connection.getresponse()
                response.read()
            except (OSError, HTTPException):
                self.failed += 1
                connection.close()
                continue
            if response.status == 200:
                self.waits_ms.append(float(response.headers["X-Cortex-Queue-Ms"]))
            else:
                self.failed += 1
        connection.close()


def run(options: argparse.Namespace) -> list[Figure]:
    """Play the scene."""
    chance = random.Random(options.seed)  # noqa: S311 -- makes load, not secrets
    with TemporaryDirectory(prefix="cortex-keys-") as folder:
        path = Path(folder, "keys.toml")
        keys = _write_keys(path)
        auth = f'\n[auth]\nkeys_file = "{path}"\n'
        with daemon(gateway=auth, max_concurrency=SLOTS) as played:

            def clients(name: str, number: int, think: tuple[float, float]) -> Clients:
                return Clients(played.address, keys[name], number, think, chance)

            figures: list[Figure] = []
            for victim, flooding in (("ann", "bob"), ("eve", "cyd")):
                few = clients(victim, CLIENTS, THINK_SECONDS)
                many = clients(flooding, FLOOD, (0.0, 0.0))
                with few.running():
                    time.sleep(ALONE_SECONDS)
                alone = few
                few = clients(victim, CLIENTS, THINK_SECONDS)
                with many.running(), few.running():
                    time.sleep(BESIDE_SECONDS)
                figures += _figures(victim, flooding, alone, few, many)
    return figures


def _write_keys(path: Path) -> dict[str, str]:
    """Write a keys file, and return each key by its name."""
    keys = {name: new_key() for name in KEYS}
    path.touch(mode=0o600)
    path.write_text(
        "".join(
            table_text(
                KeySettings(name=name, id=id_of(key) or "", hash=hashed(key), priority=KEYS[name])
            )
            for name, key in keys.items()
        )
    )
    return keys


def _figures(
    victim: str, flooding: str, alone: Clients, beside: Clients, many: Clients
) -> list[Figure]:
    pair = f"{victim} ({KEYS[victim]}) beside {FLOOD} clients of {flooding} ({KEYS[flooding]})"
    alone_ms, beside_ms = (percentile(each.waits_ms, 0.95) for each in (alone, beside))
    allowed = max(MOST_TIMES * alone_ms, alone_ms + ANSWER_MS[1]) + SLACK_MS
    failed = alone.failed + beside.failed + many.failed
    return [
        Figure(f"{victim} alone: answers", len(alone.waits_ms), ""),
        Figure(f"{victim} alone: p95 of the waits", alone_ms, "ms"),
        Figure(f"{pair}: answers", len(beside.waits_ms), ""),
        Figure(f"{pair}: p95 of the waits", beside_ms, "ms", allowed),
        Figure(f"{pair}: the longest wait", max(beside.waits_ms), "ms"),
        Figure(f"{flooding}: p95 of the waits", percentile(many.waits_ms, 0.95), "ms"),
        Figure(f"{flooding}: answers", len(many.waits_ms), ""),
        Figure(f"{pair}: requests without an answer", failed, "", 0),
    ]
