"""Clients from PyPI, each in a virtual environment of its own."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from e2e.installing.kit import SCRIPTS, Installed, run_installer

PRINT_VERSIONS = """
import re, sys
from importlib.metadata import version
names = [re.match(r"[\\w.-]+", name)[0] for name in sys.argv[1:]]
print(", ".join(f"{name} {version(name)}" for name in names))
"""


@dataclass(frozen=True)
class Pip:
    """Packages from PyPI, and one of our own scripts that uses them."""

    packages: tuple[str, ...]
    script: str

    def install(self, folder: Path, *, update: bool) -> Installed:
        """Install the packages in `folder`. Raises NotInstalledError."""
        python = str(folder / "bin" / "python")
        if update or not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            run_installer([sys.executable, "-m", "venv", str(folder)], folder)
            options = ["--quiet", "--upgrade", "--disable-pip-version-check"]
            run_installer([python, "-m", "pip", "install", *options, *self.packages], folder)
        versions = run_installer([python, "-c", PRINT_VERSIONS, *self.packages], folder)
        command = (python, str(SCRIPTS / self.script))
        return Installed(versions, command, os.environ["PATH"])
