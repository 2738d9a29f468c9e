"""The frame of every installer: a kit of packages in a folder becomes an installed client."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

INSTALL_SECONDS = 900.0
SCRIPTS = Path(__file__).parents[1] / "scripts"


class NotInstalledError(Exception):
    """A client cannot be installed or run on this machine; the message gives the reason."""


@dataclass(frozen=True)
class Installed:
    """A client that is ready to run.

    `versions` has the name and version of each package, `command` begins the client's command line,
    and `search_path` is the PATH that it needs.
    """

    versions: str
    command: tuple[str, ...]
    search_path: str


class Kit(Protocol):
    """The packages of one client."""

    def install(self, folder: Path, *, update: bool) -> Installed:
        """Install the newest versions in `folder`, or use what is there if not `update`.

        Raises NotInstalledError.
        """
        ...


def run_installer(command: Sequence[str], folder: Path, names: Mapping[str, str] = {}) -> str:
    """Run an installer in a folder and return its output; it also gets the variables `names`.

    Raises NotInstalledError with the end of its messages if it fails or takes too long.
    """
    try:
        done = subprocess.run(  # noqa: S603 - an installer, and packages that this code names
            command,
            cwd=folder,
            env={**os.environ, **names},
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise NotInstalledError(f"{Path(command[0]).name}: {failure}") from failure
    if done.returncode != 0:
        words = done.stderr.strip()[-1000:]
        raise NotInstalledError(f"{' '.join(command[:2])} ended with {done.returncode}: {words}")
    return done.stdout.strip()
