"""`python -m bench.lifecycle`: loads and waits under cortexd's scheduler and its peers' rules, on
generated or recorded traces, in virtual time.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

from bench.report import Rows, markdown, plain
from bench.simulator import (
    bars,
    decision_cost,
    fairness,
    likeness,
    outcomes,
    report,
    windows,
)
from bench.simulator.bars import Bar
from bench.simulator.cortex import SWEEP_SECONDS, CortexPolicy, evicting_by
from bench.simulator.fleets import LISTED_ON, FleetSpec
from bench.simulator.image_platform import platform
from bench.simulator.outcomes import Outcome
from bench.simulator.peers import PEERS
from bench.simulator.traces import TRACES as SIMPLE_TRACES
from bench.simulator.traces import (
    Size,
    Timetable,
    TraceError,
    calls_of_file,
    trace_of,
    write_calls,
)
from bench.simulator.world import Call, Policy, Run, Trace, play

Render = Callable[[Rows], str]
TRACES: dict[str, Callable[[Size], Trace]] = {**SIMPLE_TRACES, "platform": platform}
WindowsPlayed = tuple[list[list[str]], dict[str, Outcome]]

OURS, STRATEGY_LRU, PLAIN_LRU = "cortexd heat", "cortexd lru", "LRU, first come"
POLICIES: dict[str, Callable[[FleetSpec], Policy]] = {
    OURS: CortexPolicy,
    STRATEGY_LRU: evicting_by("lru"),
    **PEERS,
}
CHECKED = (OURS, STRATEGY_LRU, PLAIN_LRU)


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
    parser.add_argument(
        "--policy",
        action="append",
        choices=list(POLICIES),
        metavar="NAME",
        help=f"a policy to run, again for more (default: all): {', '.join(POLICIES)}",
    )
    parser.add_argument(
        "--csv",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="run the trace of a CSV file, again for more",
    )
    parser.add_argument("--from-day", type=_day, metavar="D", help="of the file from day D on")
    parser.add_argument("--days", type=_count, metavar="N", help="of the file so many days")
    parser.add_argument(
        "--windows",
        choices=list(windows.WINDOW_DAYS),
        help="run every day or week of the file, and sum up",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="hold cortexd to its bars on the traces and the files; 1 is the status of a miss",
    )
    parser.add_argument(
        "--summary",
        action="store_true",
        help="print one table of the traces and of the windows of the files",
    )
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
    parser.add_argument(
        "--likeness",
        action="store_true",
        help="show how like the files the made trace of a platform is, instead of the traces",
    )
    parser.add_argument("--markdown", action="store_true", help="print Markdown, for the docs")
    options = parser.parse_args(arguments)
    takes_both = options.check or options.summary
    if options.csv and (options.models or (options.trace and not takes_both)):
        parser.error("--csv brings its own trace and models: leave out --trace and --models")
    if not options.csv and (options.from_day is not None or options.days or options.windows):
        parser.error("--from-day, --days and --windows take days out of a file: name it with --csv")
    if (options.from_day is not None or options.days) and (options.windows or options.check):
        parser.error("--windows and --check take their own days: leave out --from-day and --days")
    if options.write is not None and len(options.trace or ()) != 1:
        parser.error("--write takes the calls of one trace: name it with --trace")
    return options


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {value}, expected 1 or more")
    return value


def _day(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"found {value}, expected 0 or more")
    return value


def _hours(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number of hours above 0")
    return value


def run_all(trace: Trace, policies: Iterable[str]) -> dict[str, Run]:
    """Run a trace under the policies of these names. The daemon sweeps its fleet at all times, so
    that time passes for its scheduler while no request waits, too.
    """
    runs = {}
    for name in policies:
        progress(f"{trace.name}: {name}")
        policy = POLICIES[name](trace.fleet)
        idle = SWEEP_SECONDS if isinstance(policy, CortexPolicy) else inf
        runs[name] = play(trace, policy, idle_tick_seconds=idle)
        gc.collect()
    return runs


def progress(text: str) -> None:
    """Report progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def print_trace(trace: Trace, policies: Sequence[str], render: Render) -> dict[str, Outcome]:
    """Run a trace and print its table and bounds; return the outcome of each policy."""
    runs = run_all(trace, policies)
    found = {name: outcomes.outcome_of(run, trace.fleet) for name, run in runs.items()}
    print(f"{report.title(trace, runs)}\n\n{render(report.table_rows(runs, trace.fleet))}\n")
    first = policies[0]
    for line in report.bound_lines(first, runs[first], trace.fleet):
        print(f"- {line}")
    print()
    return found


def run_windows(traces: Sequence[Trace], policies: Sequence[str]) -> WindowsPlayed:
    """Run the windows of a file: return the table of all of them, with the loads of the policies
    that bars are of, and what each policy did on all of them together.
    """
    shown = [name for name in policies if name in CHECKED] or policies
    rows = [report.window_head(shown)]
    found: dict[str, list[Outcome]] = {name: [] for name in policies}
    for trace in traces:
        runs = run_all(trace, policies)
        for name, run in runs.items():
            found[name].append(outcomes.outcome_of(run, trace.fleet))
        rows.append(report.window_row(trace, {name: runs[name] for name in shown}))
    return rows, {name: outcomes.summed(each) for name, each in found.items()}


def print_summary(rows: Rows, render: Render) -> None:
    """Print what the policies did on several traces, as one table."""
    print(f"{outcomes.EXPLANATION}\n\n{render([outcomes.HEAD, *rows])}\n")


def check(made: Sequence[Trace], files: Mapping[str, Sequence[Call]], size: Size) -> list[Bar]:
    """Run what the bars are of, print each window, and return the bars."""
    found: list[Bar] = []
    for trace in made:
        runs = run_all(trace, CHECKED[:2])
        ours, strategy_lru = (outcomes.outcome_of(run, trace.fleet) for run in runs.values())
        found += bars.bars_of_made(trace.name, ours, strategy_lru)
    for name, calls in files.items():
        for words, limit, traces in windows.checked_windows(calls, name, size):
            rows, together = run_windows(traces, CHECKED)
            print(f"{plain(rows)}\n")
            ours, strategy_lru, plain_lru = (together[each] for each in CHECKED)
            found += bars.bars_of_recorded(words, limit, ours, strategy_lru, plain_lru)
    return found


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


def print_likeness(files: Mapping[str, Sequence[Call]], size: Size, render: Render) -> int:
    """Print the files' figures beside those of three made traces; return the exit status."""
    policies = {name: POLICIES[name] for name in (PLAIN_LRU, STRATEGY_LRU)}
    traces = dict(files)
    for seed in range(size.seed, size.seed + 3):
        made = platform(replace(size, seed=seed))
        traces[f"platform, seed {seed}"] = tuple(made.start().opening())
    rows = [likeness.head(list(policies))]
    for name, calls in traces.items():
        progress(name)
        rows += likeness.rows_of(name, calls, policies)
    print(f"{likeness.EXPLANATION}\n\n{render(rows)}\n")
    return 0


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


def print_check(found: Sequence[Bar], render: Render) -> int:
    """Print the bars, the missed ones again at the end; return the exit status."""
    print(render(bars.table_rows(found)))
    missed = [bar for bar in found if not bar.passes]
    if missed:
        print(f"\n{len(missed)} of {len(found)} bars are missed:\n")
        print(render(bars.table_rows(missed)))
    return 1 if missed else 0


def run_traces(
    options: argparse.Namespace,
    made: Sequence[Trace],
    files: Mapping[str, Sequence[Call]],
    size: Size,
    render: Render,
) -> int:
    """Run the traces or the windows of the files, and print their tables; return the status."""
    policies = options.policy or list(POLICIES)
    rows: list[list[str]] = []
    if options.windows:
        for name, calls in files.items():
            days = windows.WINDOW_DAYS[options.windows]
            each, together = run_windows(windows.windows_of(calls, days, name, size), policies)
            print(f"{render(each)}\n")
            rows += outcomes.rows_of(f"{name}, every {options.windows}", together, PLAIN_LRU)
        print_summary(rows, render)
        return 0
    if options.summary:
        print_tables(made, files, size, policies, render)
        return 0
    if files:
        made = [file_trace(options, calls, name, size) for name, calls in files.items()]
    print(f"{report.EXPLANATION}\n")
    for trace in made:
        rows += outcomes.rows_of(trace.name, print_trace(trace, policies, render), PLAIN_LRU)
    print_summary(rows, render)
    return 0


def print_tables(
    made: Sequence[Trace],
    files: Mapping[str, Sequence[Call]],
    size: Size,
    policies: Sequence[str],
    render: Render,
) -> None:
    """Print one table of made traces and of the windows of files, and one of each window."""
    rows: list[list[str]] = []
    window_tables = []
    for trace in made:
        runs = run_all(trace, policies)
        found = {name: outcomes.outcome_of(run, trace.fleet) for name, run in runs.items()}
        rows += outcomes.rows_of(trace.name, found, PLAIN_LRU)
    for name, calls in files.items():
        for words, _, traces in windows.checked_windows(calls, name, size):
            each, together = run_windows(traces, policies)
            window_tables.append(render(each))
            rows += outcomes.rows_of(words, together, PLAIN_LRU)
    print_summary(rows, render)
    for table in window_tables:
        print(f"{table}\n")


def file_trace(options: argparse.Namespace, calls: Sequence[Call], name: str, size: Size) -> Trace:
    """Make the trace of a file, or of the days of it that the command line asks for."""
    if options.from_day is None and not options.days:
        return trace_of(calls, name, size)
    window = windows.Window(options.from_day or 0, options.days or windows.days_of(calls))
    return windows.window_of(calls, window, name, size)


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
        files = {path.stem: calls_of_file(path, size) for path in options.csv}
        made = [TRACES[name](size) for name in options.trace or TRACES]
        if options.likeness:
            status = print_likeness(files, size, render)
        elif options.check:
            status = print_check(check(made, files, size), render)
        elif options.write is not None:
            status = write_trace(made[0], options.write)
        else:
            status = run_traces(options, made, files, size, render)
    except TraceError as error:
        progress(f"bench: {error}")
        return 2
    progress(f"took {time.monotonic() - began:.0f} s")
    return status


if __name__ == "__main__":
    sys.exit(main())
