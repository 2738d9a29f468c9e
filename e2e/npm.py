"""Clients that come from npm, in a folder of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from e2e.stage import CheckFailed

INSTALL_SECONDS = 600.0


def install(folder: Path, packages: Sequence[str]) -> Path:
    """Install packages under ``folder`` and return the folder of their programs.

    Updates packages that are already installed. Raises CheckFailed with npm's message on failure.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise CheckFailed("npm is not installed; install Node.js 18 or later, which brings it")
    command = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", *packages]
    done = subprocess.run(  # noqa: S603 - npm, and packages that this code names
        command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    if done.returncode != 0:
        raise CheckFailed(f"npm install ended with {done.returncode}: {done.stderr.strip()}")
    return folder / "node_modules" / ".bin"


def version_of(program: Path) -> str:
    """Return a program's own version text; the program runs without any configuration."""
    done = subprocess.run(  # noqa: S603 - a client that this run has installed
        [str(program), "--version"],
        env={"PATH": os.environ["PATH"], "HOME": str(program.parent)},
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    return done.stdout.strip() or f"of no version: {done.stderr.strip()}"
