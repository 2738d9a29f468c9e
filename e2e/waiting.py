"""One scene for all clients at once: the model that they ask for must load for a minute first."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from e2e.installing.kit import Installed
from e2e.scenes import Scene
from e2e.stage import MODEL, Silence, Stage, check_equal, stage

SILENCE = Silence(load_seconds=60.0)
# A client, as it is named and installed, and one of its scenes.
Part = tuple[str, Installed, Scene]


def play_together(reactor: Any, folder: Path, parts: Sequence[Part]) -> dict[str, str | Exception]:
    """Play the scenes at the same time, before one node; return what each saw, by its title.

    Raises CheckFailed if the model was loaded more than once, or if a request failed.
    """
    with stage(reactor, folder, SILENCE) as shared:

        def play(part: Part) -> tuple[str, str | Exception]:
            name, installed, scene = part
            title = f"{name}, {scene.name}"
            own = shared.for_client(title.replace(", ", "-").replace(" ", "-"))
            try:
                return title, scene.play(own, installed)
            except Exception as failure:  # A fault of one client must not end the others.
                return title, failure

        with ThreadPoolExecutor(len(parts)) as threads:
            seen = dict(threads.map(play, parts))
        _check_served(shared)
    return seen


def _check_served(shared: Stage) -> None:
    loads = shared.in_reactor(lambda: shared.node.journal.report().loads[MODEL])
    check_equal(1, loads, "loads of the model")
    ends = [line["outcome"] for line in shared.daemon.lines("request")]
    check_equal(["200"] * len(ends), ends, "the ends of all requests")
    check_equal([], shared.daemon.alarms(), "warnings of the daemon")
