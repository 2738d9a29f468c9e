"""What the soak and the chaos bench share: their command lines, their requests, their end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from treq.client import HTTPClient
from twisted.internet.task import react
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogBeginner

HTTP_SECONDS = 10.0


async def get(http: HTTPClient, url: str) -> tuple[int, str]:
    """GET a URL; return status and body."""
    response = await http.get(url, timeout=HTTP_SECONDS)
    return response.code, await response.text()


def progress(text: str) -> None:
    """Report progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def parse_arguments(
    arguments: list[str], name: str, doc: str | None, *, minutes: float, clients: int
) -> argparse.Namespace:
    """Read the command line of ``python -m name``, with these defaults."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=doc)
    words = f"(default: {minutes:g})"
    parser.add_argument("--minutes", type=float, default=minutes, metavar="M", help=words)
    words = f"(default: {clients})"
    parser.add_argument("--clients", type=int, default=clients, metavar="N", help=words)
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of all that is random")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep the daemon's log there")
    parser.add_argument("--markdown", action="store_true", help="print Markdown, for the docs")
    options = parser.parse_args(arguments)
    if not (0 < options.minutes < 1e4 and options.clients > 0):
        parser.error("--minutes and --clients take numbers above 0")
    return options


def run(main: Callable[[Any], Any], faults: list[str]) -> None:
    """Run ``main`` until it ends; the errors of this process go to ``faults``, and are shown."""

    def take_event(event: LogEvent) -> None:
        if event["log_level"] >= LogLevel.error:
            failure = event.get("log_failure")
            faults.append(formatEvent(event) if failure is None else failure.getTraceback())

    observer = cast("ILogObserver", take_event)
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    try:
        react(main)
    except SystemExit:
        for fault in faults:
            progress(fault)
