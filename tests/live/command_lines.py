"""Command lines of this environment's Python, run as people run them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import NamedTuple

END_SECONDS = 30.0


class Finished(NamedTuple):
    """How a process has ended."""

    status: int
    output: str
    errors: str


def launch(
    *arguments: str, environ: Mapping[str, str] | None = None, stdout: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """Start this environment's Python."""
    return subprocess.Popen(  # noqa: S603 - this very Python, with arguments of our own
        [sys.executable, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environ or {})},
    )


def next_line(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints, "" at its end; kill it if none comes."""
    assert process.stdout is not None
    impatience = threading.Timer(END_SECONDS, process.kill)
    impatience.start()
    try:
        return process.stdout.readline()
    finally:
        impatience.cancel()


def finish(process: subprocess.Popen[str]) -> Finished:
    """Wait for the end of a process; kill it if that takes too long."""
    try:
        output, errors = process.communicate(timeout=END_SECONDS)
    finally:
        process.kill()
    return Finished(process.returncode, output or "", errors)


def cortexctl(*arguments: str, environ: Mapping[str, str] | None = None) -> Finished:
    """Run cortexctl to its end."""
    return finish(launch("-m", "cortexd.ctl.main", *arguments, environ=environ))
