"""`python -m bench`: measure cortexd, nginx and a direct connection in one run, print the table."""

from __future__ import annotations

import argparse
import gc
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from bench import keyed, measures, memory, report
from bench.figures import Figures, bars, compared, medians, over_before
from bench.harness import QUICK, Harness, Plan
from bench.loop import Loop
from bench.processes import ChildError, raise_open_files_limit
from bench.targets import (
    STARTERS,
    Starter,
    Target,
    TargetMissingError,
    cortexd_starter,
    nginx_program,
    start_upstream,
    vllm_router_starter,
)

# What the bench and each target hold open beside the streams: logs, listeners, idle connections.
SPARE_FILES = 400
EXPLANATION = """\
Each figure is the median over {rounds} rounds of interleaved measures; memory is measured once, on
processes started for it. CPU is that of the target's own processes, all threads; per chunk, it
holds the set-up of one request per 100 chunks. For non-streaming requests cortexd asks the upstream
to stream and puts the answer together itself. Requests/s and chunks/s without gaps are bounded by
the bench's own Python upstream and clients too: compare CPU."""


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, about 40 s")
    parser.add_argument("--rounds", type=int, help="how often the measures are repeated")
    parser.add_argument(
        "--targets",
        type=lambda names: names.split(","),
        default=list(STARTERS),
        metavar="NAMES",
        help=f"which of {','.join(STARTERS)}, separated by commas (default: all)",
    )
    parser.add_argument(
        "--vllm-router", type=Path, metavar="PATH", help="measure this vllm-router program too"
    )
    parser.add_argument(
        "--before",
        type=Path,
        metavar="TWISTD",
        help="measure an earlier cortexd too, by the twistd of its environment",
    )
    parser.add_argument(
        "--keys",
        type=int,
        metavar="COUNT",
        help="only compare cortexd with so many keys on file with cortexd without any",
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown, for the docs")
    parser.add_argument(
        "--check", action="store_true", help="exit with status 1 when a bar is missed"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.targets if name not in STARTERS]
    if unknown:
        parser.error(f"unknown target {unknown[0]!r}: choose from {', '.join(STARTERS)}")
    return options


def chosen_starters(options: argparse.Namespace) -> dict[str, Starter]:
    """Return the starter of each chosen target; report and omit a target that is not installed."""
    starters = {name: STARTERS[name] for name in options.targets}
    try:
        if "nginx" in starters:
            nginx_program()
    except TargetMissingError as missing:
        progress(f"without nginx: {missing}")
        del starters["nginx"]
    if options.vllm_router is not None:
        starters["vllm-router"] = vllm_router_starter(options.vllm_router.absolute())
    if options.before is not None:
        starters["before"] = cortexd_starter("before", options.before.absolute())
    return starters


def progress(text: str) -> None:
    """Report progress on standard error."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def running(
    starters: dict[str, Starter], upstream: Target, directory: Path
) -> Iterator[list[Target]]:
    """Start every target in its own folder under a new `directory`, and stop all at the end."""
    directory.mkdir()
    with ExitStack() as stack:
        targets = []
        for name, starter in starters.items():
            target = starter(directory / name, upstream.address)
            stack.callback(target.stop)
            targets.append(target)
        yield targets


def run(
    starters: dict[str, Starter], plan: Plan, directory: Path
) -> tuple[dict[str, Figures], list[str]]:
    """Run all measures; return the figures of each target and the failures."""
    rounds: dict[str, list[Figures]] = {name: [] for name in starters}
    with ExitStack() as stack:
        upstream = start_upstream(directory)
        stack.callback(upstream.stop)
        loop = Loop()
        stack.callback(loop.close)
        harness = Harness(loop, upstream, plan)

        with running(starters, upstream, directory / "memory") as targets:
            progress(f"memory, idle and with {plan.open_streams} streams")
            for target in filter(lambda each: each.pids, targets):
                rounds[target.name].append(memory.idle(harness, target))
                rounds[target.name].append(memory.open_streams(harness, target))
                harness.wait_until_idle()
        with running(starters, upstream, directory / "stalled") as targets:
            progress("memory, with a reader that stops")
            for target in targets:
                harness.warm_up(target)
            for name, figures in memory.stalled_readers(harness, targets).items():
                rounds[name].append(figures)
            harness.wait_until_idle()
        with running(starters, upstream, directory / "rounds") as targets:
            for target in targets:
                harness.warm_up(target)
            for number in range(plan.rounds):
                progress(f"round {number + 1} of {plan.rounds}")
                for name, figures in one_round(harness, rotated(targets, number)).items():
                    rounds[name].append(figures)
    results = {name: medians(each) for name, each in rounds.items()}
    if "before" in results and "cortexd" in results:
        # Memory is measured once; the rounds have the ratios of the rest.
        cortexd, before = results["cortexd"], results["before"]
        results["cortexd"] = over_before(cortexd, before) | cortexd
    return results, harness.failures


def rotated(targets: list[Target], by: int) -> list[Target]:
    """Rotate the targets, so that a different target goes first in each round."""
    start = by % len(targets)
    return targets[start:] + targets[:start]


def one_round(harness: Harness, targets: list[Target]) -> dict[str, Figures]:
    """Run every repeated measure on every target, measure by measure."""
    measured: dict[str, Figures] = {target.name: {} for target in targets}
    for streams, seconds in (
        (50, harness.plan.few_streams_seconds),
        (200, harness.plan.many_streams_seconds),
    ):
        for target in targets:
            measured[target.name] |= measures.paced_streams(harness, target, streams, seconds)
    for measure in (measures.json_requests, measures.saturated, measures.client_gone):
        for target in targets:
            measured[target.name] |= measure(harness, target)
    direct, nginx = measured.get("direct", {}), measured.get("nginx", {})
    for name, figures in measured.items():
        if name != "direct":
            figures |= compared(figures, direct, nginx)
    if "before" in measured and "cortexd" in measured:
        measured["cortexd"] |= over_before(measured["cortexd"], measured["before"])
    return measured


def compare_keys(options: argparse.Namespace) -> int:
    """Compare the costs with and without keys; return the exit status."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        rounds = options.rounds or (3 if options.quick else keyed.ROUNDS)
        try:
            found, failures = keyed.measure(options.keys, rounds, Path(directory))
        except ChildError as error:
            progress(f"bench: {error}")
            return 1
    print(*report.circumstances(), sep="\n")
    print(f"{options.keys} keys on file, {rounds} rounds, at most {keyed.MOST_RATIO} times:")
    print(*found, sep="\n")
    for failure in sorted(set(failures)):
        print(f"went wrong {failures.count(failure)} times: {failure}")
    missed = failures or any(each.verdict != "pass" for each in found)
    return 1 if options.check and missed else 0


def main() -> int:
    """Run the bench; return the exit status."""
    options = parse_arguments(sys.argv[1:])
    plan = QUICK if options.quick else Plan()
    if options.rounds:
        plan = replace(plan, rounds=options.rounds)
    streams = min(plan.open_streams, (raise_open_files_limit() - SPARE_FILES) // 2)
    plan = replace(plan, open_streams=streams)
    # A garbage collection within a window would show as latency; the clients create little garbage
    # in minutes.
    gc.disable()
    # On SIGTERM the bench still stops its children and removes its folders.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    if options.keys:
        return compare_keys(options)
    try:
        starters = chosen_starters(options)
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            results, failures = run(starters, plan, Path(directory))
    except (TargetMissingError, ChildError) as error:
        progress(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        progress("bench: interrupted")
        return 130
    render = report.markdown if options.markdown else report.plain
    print(*report.circumstances(), sep="\n")
    print(EXPLANATION.format(rounds=plan.rounds))
    print(report.disturbance(results))
    print(f"{render(report.table_rows(results))}\n\n{render(report.bar_rows(results))}")
    for failure in sorted(set(failures)):
        print(f"went wrong {failures.count(failure)} times: {failure}")
    progress(f"took {time.monotonic() - began:.0f} s")
    missed = any(bar.verdict(results) == "miss" for bar in bars(results))
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
