"""Clients that are Go modules: one of our own scripts is compiled with the newest version."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from e2e.installing.kit import SCRIPTS, Installed, NotInstalledError, run_installer

USUAL_FOLDER = "/usr/local/go/bin"


@dataclass(frozen=True)
class GoModule:
    """A Go module, and one of our own scripts that uses it."""

    module: str
    script: str

    def install(self, folder: Path, *, update: bool) -> Installed:
        """Compile the script in `folder`, at first for minutes. Raises NotInstalledError."""
        go = shutil.which("go", path=os.pathsep.join([os.environ["PATH"], USUAL_FOLDER]))
        if go is None:
            raise NotInstalledError("go is missing; install Go")
        # Everything that Go stores stays in the folder, and can be deleted with it.
        names = {
            "GOPATH": str(folder / "path"),
            "GOCACHE": str(folder / "cache"),
            "GOFLAGS": "-modcacherw -mod=mod",
            "GOTELEMETRY": "off",
        }
        source = folder / "talk"
        if update or not source.exists():
            source.mkdir(parents=True, exist_ok=True)
            if not (source / "go.mod").exists():
                run_installer([go, "mod", "init", "talk"], source, names)
            run_installer([go, "get", f"{self.module}@latest"], source, names)
        shutil.copy(SCRIPTS / self.script, source / "main.go")
        run_installer([go, "build", "-o", "talk", "."], source, names)
        version = run_installer([go, "list", "-m", self.module], source, names)
        return Installed(version, (str(source / "talk"),), os.environ["PATH"])
