"""The report: the table of figures by target, the bars, the machine and the versions."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path

from bench.figures import Results, bars
from bench.processes import parse_cpu_model
from bench.targets import TargetMissingError, nginx_program

BUSY = ("target", "upstream", "load", "others")
# Above this, in percent of a core, other programs are at work and the figures suffer from it.
QUIET_PERCENT = 10

Rows = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table: its figures, joined by " / ", with `decimals` decimals."""

    label: str
    figures: tuple[str, ...]
    decimals: int


def _paced_lines(streams: int) -> tuple[Line, ...]:
    measure = f"streams_{streams}"
    ttft = (f"{measure}.ttft_p50_ms", f"{measure}.ttft_p99_ms")
    return (
        Line(f"{streams} streams, 10 ms gaps: CPU us/chunk", (f"{measure}.cpu_us_per_chunk",), 1),
        Line("  over nginx's", (f"{measure}.cpu_us_per_chunk_over_nginx",), 2),
        Line("  TTFT ms, p50 / p99", ttft, 2),
        Line("  added TTFT ms, p50 / p99", tuple(f"{name}_added" for name in ttft), 2),
        Line("  chunks/s", (f"{measure}.chunks_per_second",), 0),
        Line(
            "  busy % of a core: target / upstream / load / others",
            tuple(f"{measure}.{who}_busy_percent" for who in BUSY),
            0,
        ),
    )


LINES = (
    *_paced_lines(50),
    *_paced_lines(200),
    Line("JSON, 32 connections: CPU us/request", ("json.cpu_us_per_request",), 0),
    Line("  requests/s", ("json.requests_per_second",), 0),
    Line("  latency ms, p50", ("json.latency_p50_ms",), 2),
    Line("4 streams, no gaps: chunks/s", ("saturated.chunks_per_second",), 0),
    Line("  CPU us/chunk", ("saturated.cpu_us_per_chunk",), 1),
    Line("RSS MB, started / idle", ("memory.fresh_mib", "memory.idle_mib"), 1),
    Line("  per 1000 open streams", ("memory.per_1000_streams_mib",), 1),
    Line("  streams left after they closed", ("memory.streams_left",), 0),
    Line(
        "client gone ms, before headers: p50 / max",
        ("gone.before_headers_p50_ms", "gone.before_headers_max_ms"),
        2,
    ),
    Line(
        "  before the first token: p50 / max",
        ("gone.before_first_token_p50_ms", "gone.before_first_token_max_ms"),
        2,
    ),
    Line("  mid-stream: p50 / max", ("gone.mid_stream_p50_ms", "gone.mid_stream_max_ms"), 2),
    Line("stopped reader: RSS growth MB", ("stalled.grown_mib",), 2),
    Line("  MB sent by the upstream", ("stalled.sent_mib",), 1),
)


def shown(value: float | None, decimals: int) -> str:
    """Format a figure; "-" for a missing figure, "never" for an infinite one."""
    if value is None:
        return "-"
    return "never" if value == inf else f"{value:.{decimals}f}"


def table_rows(results: Results) -> list[list[str]]:
    """Lay out the figures: one row per line of the table, one column per target, the names of the
    targets on top.
    """
    rows = [["", *results]]
    for line in LINES:
        cells = [
            " / ".join(shown(figures.get(name), line.decimals) for name in line.figures)
            for figures in results.values()
        ]
        rows.append([line.label, *("-" if set(cell) <= set("- /") else cell for cell in cells)])
    return rows


def bar_rows(results: Results) -> list[list[str]]:
    """Lay out the bars: the figure's name, the measured value, the limit, the verdict."""
    return [
        ["bar", "measured", "at most", "verdict"],
        *(
            [
                bar.label,
                shown(bar.measured(results), 2),
                f"{bar.limit:g} {bar.unit}",
                bar.verdict(results),
            ]
            for bar in bars(results)
        ),
    ]


def disturbance(results: Results) -> str:
    """Warn when other programs were busy during the paced streams; "" for a quiet machine."""
    seen = [
        value
        for figures in results.values()
        for name, value in figures.items()
        if name.endswith("others_busy_percent")
    ]
    others = max(seen, default=0)
    if others <= QUIET_PERCENT:
        return ""
    return (
        f"The machine was not quiet: other programs took up to {others:.0f} % of a core, "
        "so times are longer than on an idle one.\n"
    )


def plain(rows: Rows) -> str:
    """Render rows as text in columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(rows: Rows) -> str:
    """Render rows as a Markdown table whose first row is the head; the indent of a label becomes a
    dash.
    """
    head, *body = ([re.sub("^  ", "- ", cell) for cell in row] for row in rows)
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _nginx_version() -> str:
    try:
        program = nginx_program()
    except TargetMissingError:
        return "not installed"
    printed = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    return printed.strip().rpartition("/")[2]


def circumstances() -> list[str]:
    """Return the machine and the versions, one line each."""
    cpu = parse_cpu_model(Path("/proc/cpuinfo").read_text())
    packages = ", ".join(f"{name} {_package(name)}" for name in ("twisted", "treq", "klein"))
    return [
        f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        f"Python {platform.python_version()}, {packages}, nginx {_nginx_version()}",
    ]
