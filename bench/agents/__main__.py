"""Measures what agents cost: `python -m bench.agents --agent [--seconds N]`.

It ends with status 1 if an agent takes more than it may.
"""

from __future__ import annotations

import argparse
import sys

from bench.agents import idle


def main() -> int:
    """Read the command line, measure, and return the status."""
    parser = argparse.ArgumentParser(prog="python -m bench.agents", description=__doc__)
    parser.add_argument("--agent", action="store_true", help="one agent beside a simulated node")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default: 60)")
    options = parser.parse_args()
    if not options.agent:
        parser.error("nothing to measure: see --agent")
    cost = idle.measure(options.seconds)
    print(cost)
    return 0 if cost.is_small else 1


if __name__ == "__main__":
    sys.exit(main())
