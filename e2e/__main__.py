"""`python -m e2e`: install real clients, run each against the daemon, and check that it works."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from e2e import claude_code, codex, opencode, qwen_code, sdks
from e2e.installing.kit import Installed, NotInstalledError
from e2e.libraries import LIBRARIES
from e2e.real_server import talk_to_real_server
from e2e.scenes import Client, Scene
from e2e.stage import TEMPLATES, CheckFailed, stage
from e2e.waiting import Part, play_together

CLIENTS = (
    claude_code.CLIENT,
    codex.CLIENT,
    opencode.CLIENT,
    qwen_code.CLIENT,
    sdks.CLIENT,
    *LIBRARIES,
)
FOLDER = Path(".clients")


def say(words: str) -> None:
    """Print a line and flush it."""
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


class Evening:
    """All scenes of one run, one after the other, from a thread of its own."""

    def __init__(self, reactor: Any, options: argparse.Namespace, temporary: Path) -> None:
        self._reactor = reactor
        self._options = options
        self._temporary = temporary
        self._waiting: list[Part] = []
        self.held = 0
        self.failed = 0
        self.not_run = 0

    def play(self, client: Client) -> None:
        """Install a client and play its scenes."""
        folder = self._options.folder.resolve() / client.name
        try:
            installed = client.kit.install(folder, update=not self._options.no_update)
        except NotInstalledError as failure:
            self.not_run += 1
            say(f"not run {client.name}: {failure}")
            return
        say(f"{client.name}: {installed.versions}")
        if self._options.server is not None:
            self._play_real(client, installed)
            return
        for scene in client.scenes:
            if self._options.long or not scene.is_long:
                self._play(client, installed, scene)
        self._waiting += [(client.name, installed, scene) for scene in client.waiting]

    def _play_real(self, client: Client, installed: Installed) -> None:
        """Play the scenes that a real server can have, one after the other before one server."""
        server = self._options.server.resolve()
        for number, scene in enumerate(client.scenes):
            if scene.real is None:
                continue
            title, started_at = f"{client.name}, {scene.name}, real server", time.monotonic()
            folder = self._temporary / f"real-{client.name}-{number}"
            result: str | CheckFailed
            try:
                result = talk_to_real_server(self._reactor, folder, server, scene.real, installed)
            except CheckFailed as failure:
                result = failure
            self._report(title, result, started_at)

    def play_waiting(self) -> None:
        """Play the scene in which all clients wait for a model."""
        if not self._waiting:
            return
        started_at = time.monotonic()
        try:
            seen = play_together(self._reactor, self._temporary / "waiting", self._waiting)
        except Exception as failure:  # As above.
            seen = {"all clients": failure}
        for title, result in seen.items():
            self._report(f"{title}, while the model loads", result, started_at)

    def _play(self, client: Client, installed: Installed, scene: Scene) -> None:
        title = f"{client.name}, {scene.name}"
        folder = self._temporary / title.replace(", ", "-").replace(" ", "-")
        started_at = time.monotonic()
        every_template = scene.every_template and not self._options.quick
        templates = {path.stem: path.read_text() for path in sorted(TEMPLATES.glob("*.jinja"))}
        try:
            with stage(
                self._reactor,
                folder,
                scene.silence,
                messages_only=scene.messages_only,
                node_lines=scene.node,
                is_strict=scene.is_strict,
                templates=templates if every_template else {},
                has_keys=scene.has_keys,
            ) as set_up:
                if every_template:
                    set_up.wait_for_abilities()
                seen = scene.play(set_up, installed)
                if not scene.asks_the_world:
                    set_up.check_kept_to_itself()
        except Exception as failure:  # A fault of one scene must not end the others.
            self._report(title, failure, started_at)
        else:
            self._report(title, seen, started_at)

    def _report(self, title: str, result: str | Exception, started_at: float) -> None:
        if isinstance(result, Exception):
            self.failed += 1
            kind = "" if isinstance(result, CheckFailed) else f"{type(result).__name__}: "
            say(f"FAILED  {title}: {kind}{result}")
        else:
            self.held += 1
            say(f"ok      {title}: {result}; {time.monotonic() - started_at:.1f} s")


def play_all(reactor: Any, options: argparse.Namespace) -> bool:
    """Play every scene of the chosen clients, and return whether no scene failed."""
    with ExitStack() as stack:
        name = tempfile.TemporaryDirectory(prefix="cortexd-e2e-")
        evening = Evening(reactor, options, Path(stack.enter_context(name)))
        for client in CLIENTS:
            if not options.names or client.name in options.names:
                evening.play(client)
        evening.play_waiting()
    say(f"{evening.held} scenes held, {evening.failed} failed, {evening.not_run} clients not run")
    return not evening.failed


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Play every scene; exit with status 1 if one failed."""
    if not await deferToThread(play_all, reactor, options):
        raise SystemExit(1)


def main() -> None:
    """Read the command line and play."""
    parser = argparse.ArgumentParser(prog="python -m e2e", description=__doc__)
    names = [client.name for client in CLIENTS]
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"play only these clients: {', '.join(names)}"
    )
    parser.add_argument(
        "--long", action="store_true", help="also what takes minutes: 330 s of a silent node"
    )
    parser.add_argument(
        "--quick", action="store_true", help="each client only with one chat template"
    )
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="where the installed clients stay (.clients)"
    )
    parser.add_argument(
        "--no-update", action="store_true", help="use installed clients as they are"
    )
    parser.add_argument(
        "--server",
        type=Path,
        metavar="PATH",
        help="play before this mistralrs binary, not before the simulated node",
    )
    options = parser.parse_args()
    unknown = set(options.names) - set(names)
    if unknown:
        parser.error(f"no such client: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    react(lambda reactor: Deferred.fromCoroutine(run(reactor, options)))


if __name__ == "__main__":
    main()
