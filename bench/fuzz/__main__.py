"""`python -m bench.fuzz`: good, wrong and broken bodies for the routes of both dialects.

Each body passes through the translation alone, for upstreams of several profiles. A fraction also
passes through the whole gateway in memory, before one node that answers at once, and wrongly in a
fifth of the cases. Every response must use the envelope of its route. Only the node may cause a
5xx. The gateway must not crash or log an error, every stream must end properly, and every good body
must get an answer.

Besides, requests with right, wrong and broken keys go through a gateway that requires keys. Only a
key that stands in the right place opens it, none may cause a 5xx, and no key may get into an answer
or a log.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

from twisted.logger import globalLogBeginner

from bench.fuzz.cases import Cases
from bench.fuzz.keyed import KeyTally, run_keys
from bench.fuzz.report import findings, rows
from bench.fuzz.trials import GATEWAY, Tally, run
from bench.report import circumstances, markdown, plain

BODIES = 1_000_000
KEYS = 100_000
SEED = 20_261_123
EVERY = 5
BATCH = 10_000
PROGRESS_SECONDS = 30.0


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz", description=__doc__)
    parser.add_argument("--bodies", type=int, default=BODIES, help=f"default: {BODIES}")
    parser.add_argument(
        "--keys", type=int, default=KEYS, help=f"how many requests with keys (default: {KEYS})"
    )
    parser.add_argument("--seed", type=int, default=SEED, help=f"default: {SEED}")
    parser.add_argument(
        "--every",
        type=int,
        default=EVERY,
        metavar="N",
        help=f"one body in N goes through the whole gateway too (default: {EVERY})",
    )
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="default: one for each core"
    )
    parser.add_argument("--show", type=int, metavar="NUMBER", help="print one body and stop")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return parser.parse_args(arguments)


def main() -> int:
    """Run the fuzz; return the exit status, 1 if there are findings."""
    options = parse_arguments(sys.argv[1:])
    if options.show is not None:
        sys.stdout.buffer.write(Cases(options.seed)[options.show].body)
        return 0
    began = time.monotonic()
    try:
        tally, keyed = _run_all(options, began)
    except KeyboardInterrupt:
        progress("fuzz: interrupted")
        return 130
    render = markdown if options.markdown else plain
    print(*circumstances(), sep="\n")
    print(f"seed {options.seed}\n\n{render(rows(tally))}\n")
    print(f"{render(keyed.rows())}\n")
    found = sum(tally.wrongs.values()) + sum(keyed.wrongs.values())
    print(f"findings: {found}", *findings(tally), *keyed.findings(), sep="\n")
    progress(f"took {time.monotonic() - began:.0f} s")
    return 1 if found else 0


def _run_all(options: argparse.Namespace, began: float) -> tuple[Tally, KeyTally]:
    total, keyed = Tally(), KeyTally()
    done, told_at = 0, began
    with ProcessPoolExecutor(options.processes, initializer=_begin_logging) as pool:
        batches = {
            pool.submit(
                run, options.seed, first, min(first + BATCH, options.bodies), options.every
            ): min(BATCH, options.bodies - first)
            for first in range(0, options.bodies, BATCH)
        }
        with_keys = [
            pool.submit(run_keys, options.seed, first, min(first + BATCH, options.keys))
            for first in range(0, options.keys, BATCH)
        ]
        for batch in as_completed(batches):
            total.add(batch.result())
            done += batches[batch]
            if time.monotonic() - told_at > PROGRESS_SECONDS:
                told_at = time.monotonic()
                through = sum(n for key, n in total.outcomes.items() if key[0] == GATEWAY)
                found = sum(total.wrongs.values())
                progress(
                    f"{told_at - began:5.0f} s: {done} bodies, {through} of them through the "
                    f"gateway, {found} findings"
                )
        for with_key in with_keys:
            keyed.add(with_key.result())
    return total, keyed


def _begin_logging() -> None:
    """Print no log lines; each run observes the log itself."""
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)


def progress(words: str) -> None:
    """Report progress on standard error, apart from the table."""
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
