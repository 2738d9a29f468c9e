"""`python -m bench.estimates`: how near told waits come to real ones, on traces in virtual time.

A told time is near if it is within 20 % of the real one. With `--check` the exit status is 1 if
fewer than nine loads of ten were near, or nine of ten waits that began while something brought the
model. All other waits depend on what others do meanwhile: the table says how many were near.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from bench.estimates.telling import Record, Told, share_near, tell
from bench.report import Rows, markdown, plain
from bench.simulator.traces import TRACES, Size

BAR: Final = 0.9
HEADER: Final = (
    "trace",
    "loads",
    "warm",
    "loads near",
    "waits near, begun",
    "waits near, not begun",
)
CHOSEN: Final = ("agents-8", "zipf", "mixed-sizes", "day-and-night", "rare")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.estimates", description=__doc__)
    parser.add_argument("--trace", action="append", choices=list(TRACES), metavar="NAME")
    parser.add_argument("--hours", type=float, metavar="H", help="of so many hours")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of another making")
    parser.add_argument("--check", action="store_true", help="exit with 1 below the bar")
    parser.add_argument("--markdown", action="store_true", help="print Markdown, for the docs")
    return parser.parse_args(arguments)


def row(name: str, record: Record, warm: int) -> list[str]:
    """Return what a trace has shown."""
    begun = [each for each in record.waits if each.is_begun]
    others = [each for each in record.waits if not each.is_begun]
    loads = len(record.loads)
    return [
        name,
        str(loads),
        f"{warm / max(1, loads):.0%}",
        _shown(record.loads),
        f"{_shown(begun)} of {len(begun)}",
        f"{_shown(others)} of {len(others)}",
    ]


def _shown(told: Sequence[Told]) -> str:
    return f"{share_near(told):.1%}" if told else "none"


def main(arguments: list[str]) -> int:
    """Run the traces, print the table, and return the exit status."""
    options = parse_arguments(arguments)
    rows: Rows = [list(HEADER)]
    every, warm = Record(), 0
    for name in options.trace or CHOSEN:
        trace = TRACES[name](Size(hours=options.hours, seed=options.seed))
        record, world = tell(trace, options.seed)
        rows = [*rows, row(name, record, world.warm)]
        every.loads += record.loads
        every.waits += record.waits
        warm += world.warm
    rows = [*rows, row("all", every, warm)]
    print((markdown if options.markdown else plain)(rows))
    begun = [each for each in every.waits if each.is_begun]
    shares = share_near(every.loads), share_near(begun)
    return int(options.check and min(shares) < BAR)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
