"""The first steps of a child: a session of its own, its folder, then its program.

Twisted starts programs without a session of their own. ``SCRIPT`` runs in a Python of its own,
which then becomes the program, so that its number stays.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

FAILED_STATUS: Final = 127
FAILED_MARK: Final = "cortex-agent: "
"""The beginning of the last line of a child that could not become its program."""

SCRIPT: Final = f"""
import os, sys
try:
    os.setsid()
    if sys.argv[1]:
        os.chdir(sys.argv[1])
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    name = error.filename or sys.argv[2]
    os.write(2, f"{FAILED_MARK}cannot run {{name}}: {{error.strerror}}\\n".encode())
    os._exit({FAILED_STATUS})
"""


def child_of(command: Sequence[str], directory: str | None) -> tuple[str, list[str]]:
    """Return the program and its arguments that run ``command`` in a session of its own."""
    arguments = [sys.executable, "-I", "-S", "-c", SCRIPT]
    return sys.executable, [*arguments, directory or "", *command]
