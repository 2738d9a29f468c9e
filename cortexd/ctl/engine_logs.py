"""``cortexctl logs``: the log of a node's engine, as its agent reads it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Final

from cortexd.control.agent_commands import MoreLog, ReadLog
from cortexd.ctl.client import ControlClient
from cortexd.ctl.options import count_option, node
from cortexd.ctl.output import in_lines
from cortexd.ctl.progress import Done, Tell

LINES_SHOWN: Final = 50

WAIT_SECONDS: Final = 5.0
"""How long the daemon may wait for further lines, unless --timeout is shorter than twice that."""


async def logs(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Fetch the last lines of an engine's log; with ``--follow`` also show each new one."""
    name = arguments.node
    answer = await client.ask(
        ReadLog, node=name, lines=arguments.count, follow=arguments.follow or None
    )
    lines: list[str] = answer["lines"]
    if not arguments.follow:
        return Done(in_lines(*lines), {"node": name, "lines": lines})
    wait = min(WAIT_SECONDS, arguments.timeout / 2)
    dropped = 0
    while True:
        if dropped:
            tell(in_lines(f"({dropped} lines were lost: they came too fast)"), {"lost": dropped})
        for line in lines:
            tell(in_lines(line), {"node": name, "line": line})
        answer = await client.ask(MoreLog, seconds=wait)
        lines, dropped = answer["lines"], answer["dropped"]


def logs_options(parser: ArgumentParser) -> None:
    """Add the options of ``logs``."""
    node(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="continue with new lines")
    count_option(parser, "how many of the last lines to show", LINES_SHOWN)
