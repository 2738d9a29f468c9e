"""`python -m e2e`: install real clients, run each against the daemon, and check that it works."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from e2e import claude_code, codex
from e2e.npm import install, version_of
from e2e.stage import NO_SILENCE, CheckFailed, Silence, Stage, stage


@dataclass(frozen=True)
class Scene:
    """One client's test; it returns a summary of its observations, or raises CheckFailed."""

    program: str
    play: Callable[[Stage, Path], str]
    silence: Silence = NO_SILENCE
    messages_only: bool = False


PACKAGES = (claude_code.PACKAGE, codex.PACKAGE)
SCENES = (
    Scene(claude_code.PROGRAM, claude_code.talk_with_tools),
    Scene(claude_code.PROGRAM, claude_code.show_a_picture_to_a_messages_node, messages_only=True),
    Scene(claude_code.PROGRAM, claude_code.read_a_pdf),
    Scene(codex.PROGRAM, codex.talk_with_tools),
    Scene(codex.PROGRAM, codex.talk_to_an_older_node),
    Scene(codex.PROGRAM, codex.wait_out_a_silence, codex.SILENCE),
)
LONG_SCENES = (Scene(claude_code.PROGRAM, claude_code.wait_out_a_silence, claude_code.SILENCE),)


def say(words: str) -> None:
    """Print a line and flush it."""
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def play_all(reactor: Any, options: argparse.Namespace) -> int:
    """Play every scene, from a thread of its own; return how many failed."""
    failures = 0
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cortexd-e2e-")))
        programs = install(options.clients or temporary / "clients", PACKAGES)
        for number, scene in enumerate(SCENES + (LONG_SCENES if options.long else ())):
            what = f"{scene.program} {version_of(programs / scene.program)}: {scene.play.__name__}"
            started_at = time.monotonic()
            folder = temporary / str(number)
            try:
                with stage(
                    reactor, folder, scene.silence, messages_only=scene.messages_only
                ) as set_up:
                    seen = scene.play(set_up, programs)
                    set_up.check_kept_to_itself()
            except CheckFailed as failure:
                failures += 1
                say(f"FAILED {what}: {failure}")
            else:
                say(f"ok     {what}: {seen}; {time.monotonic() - started_at:.1f} s")
    return failures


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Play every scene; exit with status 1 if one failed."""
    try:
        failures = await deferToThread(play_all, reactor, options)
    except CheckFailed as failure:
        raise SystemExit(f"e2e: {failure}") from failure
    if failures:
        raise SystemExit(1)


def main() -> None:
    """Read the command line and play."""
    parser = argparse.ArgumentParser(prog="python -m e2e", description=__doc__)
    parser.add_argument(
        "--long", action="store_true", help="also what takes minutes: 330 s of a silent node"
    )
    parser.add_argument(
        "--clients", type=Path, metavar="DIR", help="keep the installed clients in this folder"
    )
    options = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(run(reactor, options)))


if __name__ == "__main__":
    main()
