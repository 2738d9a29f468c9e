"""Certificates exchanged under 50 streams over TLS: key, chain and issuer change at each reload.

TLS itself begins with a reload, too. Every client checks the certificate against the authorities of
the scene, and each exchange has a broken one before it, which must be refused. Short requests
arrive all the time, on new connections.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import ssl
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.daemons import Daemon, running_daemon
from bench.processes import Address, get
from bench.reliability.reload_under_load import FIRST_MODELS, MODEL, Node
from bench.reliability.scene import Figure
from tests.doubles.authorities import HOST, Authority

STREAMS = 50
EXCHANGES = 5
EXCHANGE_SECONDS = 1.5
ARRIVALS_PER_SECOND = 10
ANSWER_SECONDS = 40.0
RELOAD_SECONDS = 20.0


class Files:
    """The files of the gateway's certificate and key, and what clients trust."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        roots = [Authority(name) for name in ("first", "second")]
        self._roots = roots
        self._issuers = [Authority("between", under=root) for root in roots]
        self._exchanges = 0
        self.certificate, self.key = self.exchange()

    def exchange(self) -> tuple[str, str]:
        """Write another certificate: with another key each time, and another issuer."""
        issuer = self._issuers[self._exchanges % 2]
        self._exchanges += 1
        return issuer.issue(HOST).write(self._folder, "gateway")

    def spoil(self) -> None:
        """Write the certificate of another key."""
        Path(self.certificate).write_bytes(self._issuers[0].issue(HOST).chain_pem)

    def trust(self) -> ssl.SSLContext:
        """Return a client's side of TLS, which checks chain and address."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for root in self._roots:
            context.load_verify_locations(cadata=root.pem.decode())
        return context


class Clients:
    """The clients: how their requests have ended, and which certificates they were shown."""

    def __init__(self, address: Address, trust: ssl.SSLContext) -> None:
        self._address = address
        self._trust = trust
        self.failed: Counter[str] = Counter()
        self.cut = 0
        self.whole: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.shown: set[bytes] = set()

    async def ask(self, name: str) -> None:
        """Ask for a streamed chat on a connection of its own."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        message = {"role": "user", "content": name}
        body = json.dumps({"model": MODEL, "stream": True, "messages": [message]}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        kind = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        try:
            reader, writer = await asyncio.open_connection(*self._address, ssl=self._trust)
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            self.shown.add(shown)
            writer.write(head + kind + body)
            status = (await reader.readline()).split(b" ")[1:2]
            if status != [b"200"]:
                self.failed[b"".join(status).decode()] += 1
            else:
                answer = await asyncio.wait_for(reader.read(), ANSWER_SECONDS)
                is_whole = b"data: [DONE]" in answer and answer.endswith(b"0\r\n\r\n")
                self.cut += not is_whole
                self.whole[name.partition("-")[0]] += is_whole
                self.seconds.append(loop.time() - began)
            writer.close()
        except (OSError, TimeoutError) as error:
            self.failed[type(error).__name__] += 1


class Play:
    """One run: the streams go on while the certificates are exchanged."""

    def __init__(self, daemon: Daemon, files: Files) -> None:
        self._daemon = daemon
        self._files = files
        self.clients = Clients(daemon.address, files.trust())
        self.under_streams: list[int] = []

    async def run(self) -> None:
        """Play the scene."""
        ending = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            streams = [
                group.create_task(self.clients.ask(f"stream-{number}")) for number in range(STREAMS)
            ]
            group.create_task(self._arrivals(group, ending))
            for _ in range(EXCHANGES):
                await asyncio.sleep(EXCHANGE_SECONDS)
                self._files.spoil()
                await self.reload("refused")
                self._files.exchange()
                await self.reload("ok")
                self.under_streams.append(sum(not each.done() for each in streams))
            group.create_task(self.clients.ask("arrival-last"))
            ending.set()

    async def _arrivals(self, group: asyncio.TaskGroup, ending: asyncio.Event) -> None:
        number = 0
        while not ending.is_set():
            group.create_task(self.clients.ask(f"arrival-{number}"))
            number += 1
            await asyncio.sleep(1 / ARRIVALS_PER_SECOND)

    async def reload(self, result: str) -> None:
        """Reload, and wait until the daemon has counted it."""
        before = await self.reloads(result)
        os.kill(self._daemon.child.pid, signal.SIGHUP)
        async with asyncio.timeout(RELOAD_SECONDS):
            while await self.reloads(result) == before:
                await asyncio.sleep(0.05)

    async def reloads(self, result: str) -> float:
        """Return how many reloads have ended so."""
        text = (await asyncio.to_thread(get, self._daemon.metrics, "/metrics"))[1].decode()
        series = f'cortex_config_reloads_total{{result="{result}"}} '
        return float(text.partition(series)[2].partition("\n")[0] or 0)


async def scene() -> list[Figure]:
    """Play the scene once."""
    requests: Counter[str] = Counter()
    endpoint = await Node("node", requests).listen()
    with TemporaryDirectory() as folder:
        path = Path(folder)
        files = Files(path)
        keys = f'tls_certificate = "{files.certificate}"\ntls_key = "{files.key}"'
        running = running_daemon(path, {"node": endpoint}, FIRST_MODELS, "/ready")
        daemon = await asyncio.to_thread(running.__enter__)
        config = path / "cortex.toml"
        config.write_text(config.read_text().replace("[gateway]", f"[gateway]\n{keys}"))
        try:
            play = Play(daemon, files)
            await play.reload("ok")
            await play.run()
            done, refused = await play.reloads("ok"), await play.reloads("refused")
            log = daemon.child.output()
        finally:
            await asyncio.to_thread(running.__exit__, None, None, None)
    clients = play.clients
    seconds = sorted(clients.seconds)
    return [
        Figure("streams that were whole", clients.whole["stream"], ""),
        Figure("arrivals that were whole", clients.whole["arrival"], ""),
        Figure("streams that ended before an exchange", STREAMS - min(play.under_streams), "", 0),
        Figure("exchanges that did not happen", EXCHANGES + 1 - done, "", 0),
        Figure("broken certificates that were not refused", EXCHANGES - refused, "", 0),
        Figure("certificates that no client saw", EXCHANGES + 1 - len(clients.shown), "", 0),
        Figure("cut", clients.cut, "", 0),
        Figure("refused or without TLS", clients.failed.total(), "", 0),
        Figure("sent twice to nodes", sum(count > 1 for count in requests.values()), "", 0),
        Figure("faults in the log", log.count('"traceback"'), "", 0),
        Figure("slowest of all", seconds[-1], "s"),
    ]


def run(options: argparse.Namespace) -> list[Figure]:
    """Play the scene."""
    return asyncio.run(scene())
