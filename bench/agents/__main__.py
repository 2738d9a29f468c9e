"""Measures what agents cost: `python -m bench.agents --agent` or `--gateway`, `[--seconds N]`.

It ends with status 1 if an agent takes more than it may.
"""

from __future__ import annotations

import argparse
import sys

from bench.agents import idle
from bench.report import circumstances, plain


def main() -> int:
    """Read the command line, measure, and return the status."""
    parser = argparse.ArgumentParser(prog="python -m bench.agents", description=__doc__)
    parser.add_argument("--agent", action="store_true", help="one agent beside a simulated node")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--gateway", action="store_true", help="one gateway with many agents")
    parser.add_argument("--agents", type=int, default=1000, help="how many (default: 1000)")
    options = parser.parse_args()
    if options.gateway:
        from bench.agents import many  # it installs the reactor

        rows = many.measure(options.agents, options.seconds)
        print(*circumstances(), "", plain(rows), sep="\n")
        return 0 if rows else 1
    if not options.agent:
        parser.error("nothing to measure: see --agent and --gateway")
    cost = idle.measure(options.seconds)
    print(cost)
    return 0 if cost.is_small else 1


if __name__ == "__main__":
    sys.exit(main())
