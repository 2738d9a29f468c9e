"""Clients from npm, each in a folder of its own.

Several clients need Node.js 22. If this machine's is older, npm installs a newer one beside the
clients, from its package `node`.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from e2e.installing.kit import SCRIPTS, Installed, NotInstalledError, run_installer

NEEDED_NODE = 22
# The newest line with long support of which npm has a package.
NODE_PACKAGE = "node@24"


@dataclass(frozen=True)
class Npm:
    """Packages from npm, and a program of the first, or one of our own scripts that uses them."""

    packages: tuple[str, ...]
    program: str = ""
    script: str = ""

    def install(self, folder: Path, *, update: bool) -> Installed:
        """Install the packages in `folder`. Raises NotInstalledError."""
        node = _node(folder.parent / "node", update=update)
        _install(folder, self.packages, update=update)
        programs = folder / "node_modules" / ".bin"
        command: tuple[str, ...] = (str(programs / self.program),)
        if self.script:
            # A module finds packages only in the folders above it.
            shutil.copy(SCRIPTS / self.script, folder)
            command = ("node", str(folder / self.script))
        versions = (f"{name} {_version(folder, name)}" for name in self.packages)
        search_path = os.pathsep.join([str(programs), *node, os.environ["PATH"]])
        return Installed(", ".join(versions), command, search_path)


def _node(folder: Path, *, update: bool) -> list[str]:
    """Return the folder of a newer Node.js, or [] if this machine's is new enough."""
    folder.mkdir(parents=True, exist_ok=True)
    found = run_installer([_found("node"), "--version"], folder)
    if int(found.removeprefix("v").partition(".")[0]) >= NEEDED_NODE:
        return []
    _install(folder, [NODE_PACKAGE], update=update)
    return [str(folder / "node_modules" / ".bin")]


def _install(folder: Path, packages: tuple[str, ...] | list[str], *, update: bool) -> None:
    if (folder / "node_modules").exists() and not update:
        return
    folder.mkdir(parents=True, exist_ok=True)
    newest = [name if "@" in name[1:] else f"{name}@latest" for name in packages]
    options = ["--prefix", str(folder), "--no-audit", "--no-fund", "--no-package-lock"]
    run_installer([_found("npm"), "install", *options, *newest], folder)


def _version(folder: Path, package: str) -> str:
    described = folder / "node_modules" / package / "package.json"
    return str(json.loads(described.read_text())["version"])


def _found(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise NotInstalledError(f"{program} is missing; install Node.js, which brings it")
    return path
