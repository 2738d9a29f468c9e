"""A disk on which no file can grow: the state, the stored responses and the log itself.

The daemon runs under a limit for the size of its files (``ulimit -f``). A longer file meets it
as it would meet a full disk. At commit 467c9f0 the start ended with status 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from bench.processes import Address, ChildError
from bench.reliability.daemons import daemon
from bench.reliability.scene import Figure
from bench.wire import MODEL

REQUESTS = 500
ANSWER_SECONDS = 5.0
FILE_BLOCKS = 4
"""Of 512 or 1,024 bytes, as the shell counts them."""


def run(options: argparse.Namespace) -> list[Figure]:
    """Play the scene."""
    try:
        with daemon(file_blocks=FILE_BLOCKS) as played:
            failed = sum(not _is_answered(played.address) for _ in range(REQUESTS))
            stored = played.metric("cortex_store_available")
            cortexctl = Path(sys.executable).with_name("cortexctl")
            socket = played.directory / "control.sock"
            said = subprocess.run(
                [str(cortexctl), "--socket", str(socket), "cordon", "node-0"],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            ).stdout
            log_bytes = (played.directory / "cortexd.log").stat().st_size
    except ChildError:
        return [Figure("starts that failed", 1, "", 0)]
    return [
        Figure("starts that failed", 0, "", 0),
        Figure(f"failed of {REQUESTS} requests", failed, "", 0),
        Figure("claims that the state is on the disk", stored, "", 0),
        Figure("cordons that do not say so", 0 if "but not stored" in said else 1, "", 0),
        Figure("bytes of the log", log_bytes, "B", FILE_BLOCKS * 1024),
    ]


def _is_answered(address: Address) -> bool:
    connection = HTTPConnection(*address, timeout=ANSWER_SECONDS)
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]})
    try:
        connection.request("POST", "/v1/chat/completions", body)
        response = connection.getresponse()
        response.read()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    return response.status == 200
