"""`python -m bench.affinity`: what agents read again before two copies, without and with affinity.

Coding agents talk at once, each in a conversation that grows, to the real daemon before two
simulated nodes. These read a prompt as fast as a GPU of some size, except for what they have read
before. The exit status is 1 if, with affinity, more than a tenth is read again of what is without,
or if requests wait longer in the queue for it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.affinity.reading import missed, table
from bench.report import markdown, plain
from tests.engine.processes import simulated_node
from tests.live.affinity.agents import TURNS, Turn, talk
from tests.live.daemons import running_daemon

MODEL: Final = "acme/chat"
AGENTS: Final = 8
TELLS_CACHED: Final = "0.9.5"
"""The first version of the server that tells how much of a prompt it had cached."""

EXTRA: Final = """\
[scheduling]
affinity = {affinity}
[[models]]
id = "acme/chat"
max_concurrency = {slots}
"""


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.affinity", description=__doc__)
    parser.add_argument("--agents", type=int, default=AGENTS, metavar="N")
    parser.add_argument("--turns", type=int, default=TURNS, metavar="N", help="of each agent")
    parser.add_argument(
        "--slots", type=int, default=AGENTS, metavar="N", help="of each copy: with few, agents wait"
    )
    parser.add_argument(
        "--prompt-token-ms",
        type=float,
        default=0.25,
        metavar="MS",
        help="how long a node reads each token of a prompt",
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown, for the docs")
    return parser.parse_args(arguments)


def played(options: argparse.Namespace, *, affinity: bool) -> list[Turn]:
    """Let the agents talk before two fresh copies, and return their turns."""
    extra = EXTRA.format(affinity=str(affinity).lower(), slots=options.slots)
    with (
        TemporaryDirectory() as folder,
        simulated_node(
            fast=True, version=TELLS_CACHED, prompt_token_ms=options.prompt_token_ms
        ) as ada,
        simulated_node(
            fast=True, version=TELLS_CACHED, prompt_token_ms=options.prompt_token_ms
        ) as bob,
        running_daemon(
            Path(folder), {"ada": ada.base_url, "bob": bob.base_url}, extra=extra
        ) as daemon,
    ):
        return talk(daemon.base_url, MODEL, options.agents, options.turns)


def main(arguments: list[str]) -> int:
    """Play both, print the table, and return the exit status."""
    options = parse_arguments(arguments)
    without = played(options, affinity=False)
    with_it = played(options, affinity=True)
    print((markdown if options.markdown else plain)(table(without, with_it)))
    faults = missed(without, with_it)
    for fault in faults:
        print(f"missed: {fault}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
