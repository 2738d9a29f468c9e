"""`twistd cortex --demo`: the daemon with simulated nodes, and commands to try."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from cortexd.config import reading
from cortexd.service.daemon import Daemon, daemon
from cortexd.service.heartbeat import SteadyClock
from cortexd.service.stages import Ending, ListeningService, Stages, address_text
from cortexd.testing.demo import demo_fleet
from cortexd.testing.node import SimulatedNode

ANY_PORT = "127.0.0.1:0"


def demo_service(
    overrides: Mapping[str, str],
    reactor: Any,
    environ: Mapping[str, str],
    unix_time: Callable[[], float],
    clock: SteadyClock | None = None,
) -> Stages:
    """Return the demo as one service; its nodes already listen, on ports that the system chose.

    Raises ConfigError for an invalid override.
    """
    # The folder is removed at the end of the process at the latest, even if the start fails.
    temporary = tempfile.TemporaryDirectory(prefix="cortex-demo-", ignore_cleanup_errors=True)
    folder = Path(temporary.name)
    nodes = demo_fleet(reactor)
    endpoints = [_listen(node, reactor) for node in nodes]
    given = {
        "listen": ANY_PORT,
        "metrics_listen": ANY_PORT,
        "control_socket": str(folder / "control.sock"),
        "state_dir": str(folder),
        **overrides,
    }
    settings = reading.parse(_fleet_toml(nodes, endpoints), "demo", given)
    assembled = daemon(settings, reactor, environ, unix_time, clock)

    async def clean_up() -> None:
        for node in nodes:
            await node.close()
        temporary.cleanup()

    # Stages stop in reverse order, so the cleanup must be the first stage.
    ending = Ending(clean_up)
    ending.setServiceParent(assembled.service)
    assembled.service.services.insert(0, assembled.service.services.pop())
    assembled.service.stage(
        _Banner(assembled, settings.gateway.control_socket or "", folder, reactor)
    )
    return assembled.service


def _listen(node: SimulatedNode, reactor: Any) -> str:
    ports: list[int] = []
    Deferred.fromCoroutine(node.listen(reactor)).addCallback(ports.append)
    return f"http://127.0.0.1:{ports[0]}"


def _fleet_toml(nodes: Sequence[SimulatedNode], endpoints: Sequence[str]) -> str:
    tables = [
        f'[[nodes]]\nname = "{node.name}"\nendpoint = "{endpoint}"\nvram_mb = {node.memory_mb}\n'
        for node, endpoint in zip(nodes, endpoints, strict=True)
    ]
    return "[polling]\ninterval = 1\n" + "".join(tables)


class _Banner(Service):
    """Prints commands to try, once clients can connect."""

    def __init__(self, assembled: Daemon, control_socket: str, folder: Path, reactor: Any) -> None:
        self._assembled = assembled
        self._control_socket = control_socket
        self._folder = folder
        self._reactor = reactor

    def startService(self) -> None:
        """Print when the reactor runs: the ports are known by then."""
        super().startService()
        self._reactor.callWhenRunning(self._print)

    def _print(self) -> None:
        address = _address(self._assembled.listener)
        metrics = _address(self._assembled.metrics_listener)
        text = f"""
cortexd serves three simulated nodes at http://{address}. Try in another terminal:

  curl http://{address}/v1/models
  curl -N http://{address}/v1/chat/completions -d '{{"model":"acme/chat-8b","stream":true,\
"messages":[{{"role":"user","content":"hi"}}]}}'
  curl http://{metrics}/metrics
  CORTEX_SOCKET={self._control_socket} {Path(sys.executable).with_name("cortexctl")} status

Its files are in {self._folder}. Ctrl-C stops it.

"""
        # twistd redirects sys.stdout to the log, which would add a date to each line.
        stream = sys.__stdout__
        if stream is not None:
            stream.write(text)
            stream.flush()


def _address(listener: ListeningService) -> str:
    return address_text(listener.port) if listener.port is not None else ""
