"""`python -m bench.lifecycle`: loads and waits under cortexd's scheduler and its peers' rules, on
generated or recorded traces, in virtual time.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.report import Rows, markdown, plain
from bench.simulator import decision_cost, fairness, report
from bench.simulator.cortex import CortexPolicy
from bench.simulator.fleets import LISTED_ON, FleetSpec
from bench.simulator.peers import PEERS
from bench.simulator.traces import TRACES, Size, Timetable, TraceError, from_file, write_calls
from bench.simulator.world import Policy, Run, Trace, play

Render = Callable[[Rows], str]

OURS = "cortexd"
POLICIES: dict[str, Callable[[FleetSpec], Policy]] = {OURS: CortexPolicy, **PEERS}


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.lifecycle", description=__doc__)
    parser.add_argument(
        "--trace",
        action="append",
        choices=list(TRACES),
        metavar="NAME",
        help=f"a trace to run, again for more (default: all): {', '.join(TRACES)}",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="run the trace of a CSV file")
    parser.add_argument("--nodes", type=_count, metavar="N", help="of so many nodes")
    parser.add_argument("--models", type=_count, metavar="M", help="of so many models")
    parser.add_argument("--hours", type=_hours, metavar="H", help="of so many hours")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of another making")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="write the calls of one trace, run nothing"
    )
    parser.add_argument(
        "--listed-on",
        type=_count,
        default=LISTED_ON,
        metavar="K",
        help=f"list each model on K nodes, or on all if there are no more (default: {LISTED_ON})",
    )
    parser.add_argument(
        "--decision-cost",
        action="store_true",
        help="measure what a decision costs with 3 nodes and with 1000, instead of the traces",
    )
    parser.add_argument(
        "--fair",
        action="store_true",
        help="measure how long one key waits beside another that floods, instead of the traces",
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown, for the docs")
    options = parser.parse_args(arguments)
    if options.csv is not None and (options.trace or options.models):
        parser.error("--csv brings its own trace and models: leave out --trace and --models")
    if options.write is not None and len(options.trace or ()) != 1:
        parser.error("--write takes the calls of one trace: name it with --trace")
    return options


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {value}, expected 1 or more")
    return value


def _hours(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number of hours above 0")
    return value


def run_all(trace: Trace) -> dict[str, Run]:
    """Run a trace under every policy."""
    runs = {}
    for name, make in POLICIES.items():
        progress(f"{trace.name}: {name}")
        runs[name] = play(trace, make(trace.fleet))
        gc.collect()
    return runs


def progress(text: str) -> None:
    """Report progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def print_trace(trace: Trace, render: Render) -> None:
    """Run a trace and print its table and bounds."""
    runs = run_all(trace)
    print(f"{report.title(trace, runs)}\n\n{render(report.table_rows(runs, trace.fleet))}\n")
    for line in report.bound_lines(OURS, runs[OURS], trace.fleet):
        print(f"- {line}")
    print()


def print_decision_costs(size: Size, render: Render) -> int:
    """Measure the cost of decisions and print it beside the budgets; return the exit status."""
    print(f"{decision_cost.EXPLANATION}\n")
    has_missed = False
    for budget in decision_cost.BUDGETS:
        progress(f"decisions with {budget.nodes} nodes")
        trace = budget.make_trace(size)
        run = decision_cost.measure(trace, decision_cost.RUNS)
        print(f"{report.title(trace, {OURS: run})}\n\n{render(decision_cost.cost_rows(run))}\n")
        print(f"- {decision_cost.verdict(budget, run)}")
        print(f"- {decision_cost.strict_verdict(budget, run)}")
        print(f"- the yardstick took {decision_cost.yardstick_us():.0f} us\n")
        has_missed = has_missed or bool(decision_cost.misses(budget, run))
    return int(has_missed)


def print_fairness(size: Size, render: Render) -> int:
    """Measure the waits beside a flood and print them; return the exit status."""
    outcomes = []
    for case in fairness.CASES:
        progress(f"{case.fleet_words}: {case.keys_words}")
        outcomes.append(fairness.measure(case, size.hours or fairness.HOURS, size.seed))
    print(f"{fairness.EXPLANATION}\n\n{render(fairness.table_rows(outcomes))}")
    return 0 if all(outcome.passes for outcome in outcomes) else 1


def write_trace(trace: Trace, path: Path) -> int:
    """Write the calls of an open-loop trace; return the exit status."""
    workload = trace.start()
    if not isinstance(workload, Timetable):
        progress(
            f"bench: the calls of {trace.name} depend on when they are answered, so they cannot be "
            "written beforehand: choose a trace that comes by the clock, such as zipf"
        )
        return 2
    write_calls(workload.calls, path)
    return 0


def main() -> int:
    """Run the simulator; return the exit status."""
    options = parse_arguments(sys.argv[1:])
    size = Size(options.nodes, options.models, options.hours, options.seed, options.listed_on)
    render = markdown if options.markdown else plain
    began = time.monotonic()
    if options.decision_cost:
        return print_decision_costs(size, render)
    if options.fair:
        return print_fairness(size, render)
    try:
        if options.csv is not None:
            traces = [from_file(options.csv, size)]
        else:
            traces = [TRACES[name](size) for name in options.trace or TRACES]
    except TraceError as error:
        progress(f"bench: {error}")
        return 2
    if options.write is not None:
        return write_trace(traces[0], options.write)
    print(f"{report.EXPLANATION}\n")
    for trace in traces:
        print_trace(trace, render)
    progress(f"took {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
