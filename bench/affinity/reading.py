"""What the turns of agents come to: tokens that were read again, and waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from bench.figures import percentile
from bench.report import Rows
from tests.live.affinity.agents import Turn, read_again

MOST_READ_AGAIN: Final = 0.1
"""Which share of the tokens that are read again without affinity may be read again with it."""

SLACK_MS: Final = 50
"""How much longer a queue may be on a machine that has other work."""


def table(without: Sequence[Turn], with_it: Sequence[Turn]) -> Rows:
    """Return the figures of both runs side by side, with a header."""
    columns = zip(_column(without), _column(with_it), strict=True)
    rows = [[what, before, after] for (what, before), (_, after) in columns]
    return [["", "without affinity", "with affinity"], *rows]


def _column(turns: Sequence[Turn]) -> list[tuple[str, str]]:
    later = [turn for turn in turns if turn.number]
    sent_before = sum(turn.before for turn in later)
    queued = [float(turn.queued_ms) for turn in turns]
    seconds = [turn.seconds for turn in later]
    nodes = Counter(turn.node for turn in turns)
    return [
        ("tokens of prompts", f"{sum(turn.prompt for turn in turns):,}"),
        ("of these sent before", f"{sent_before:,}"),
        ("of these read again", f"{read_again(later):,}"),
        ("requests by copy", " / ".join(str(count) for _, count in sorted(nodes.items()))),
        ("queue ms, p50 / p95 / sum", _queue(queued)),
        (
            "answer s from the second turn on, p50 / p95",
            f"{percentile(seconds, 0.5):.2f} / {percentile(seconds, 0.95):.2f}",
        ),
    ]


def _queue(queued: Sequence[float]) -> str:
    p50, p95 = percentile(queued, 0.5), percentile(queued, 0.95)
    return f"{p50:.0f} / {p95:.0f} / {sum(queued):.0f}"


def missed(without: Sequence[Turn], with_it: Sequence[Turn]) -> list[str]:
    """Return what is not as it must be, in words; nothing if all is."""
    found = []
    again, before = read_again(with_it), read_again(without)
    if not before:
        found.append("without affinity nothing is read again, so that nothing is compared")
    elif again > MOST_READ_AGAIN * before:
        found.append(f"{again / before:.0%} is read again, of what is without affinity")
    waits = [
        percentile([float(turn.queued_ms) for turn in each], 0.95) for each in (without, with_it)
    ]
    if waits[1] > waits[0] + SLACK_MS:
        found.append(f"the queue has grown from {waits[0]:.0f} to {waits[1]:.0f} ms (p95)")
    return found
