"""``cortexctl usage``: what each key has used, as a table and as data."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cortexd.control.contract import ListUsage
from cortexd.control.summaries import UsageSummary
from cortexd.ctl import options
from cortexd.ctl.client import ControlClient
from cortexd.ctl.output import table
from cortexd.ctl.progress import Tell

_COLUMNS = (
    "KEY", "SINCE", "REQUESTS", "TOKENS IN", "TOKENS OUT", "ESTIMATED", "GPU SECONDS", "LOADS",
)  # fmt: skip


async def ask_usage(
    client: ControlClient, arguments: Namespace, tell: Tell
) -> Sequence[UsageSummary]:
    """Fetch what all keys have used, or the key that was named."""
    return await usage_of(client, arguments.key, arguments.days)


async def usage_of(
    client: ControlClient, key: str | None, days: int | None
) -> Sequence[UsageSummary]:
    """Fetch what a key has used, ``None`` for all keys; in so many days, or in the usual ones."""
    found: list[UsageSummary] = await client.ask_all(ListUsage, key=key, days=days)
    return found


def usage_text(found: Sequence[UsageSummary], now: float) -> str:
    """Show one line for each key and period."""
    if not found:
        return "no key has used anything\n"
    rows = [
        (
            each.key,
            "today" if each.days == 1 else f"{each.days} days",
            str(each.requests),
            str(each.prompt_tokens),
            str(each.completion_tokens),
            str(each.uncounted_tokens),
            f"{each.gpu_seconds + each.load_seconds:.1f}",
            f"{each.loads:.2f}".rstrip("0").rstrip("."),
        )
        for each in found
    ]
    return table(_COLUMNS, rows)


def usage_data(found: Sequence[UsageSummary]) -> Mapping[str, Any]:
    """Return the same as data."""
    return {"usage": msgspec.to_builtins(found)}


def usage_options(parser: ArgumentParser) -> None:
    """Add the options of ``usage``."""
    parser.add_argument("--key", metavar="NAME", help="only this key")
    days_option(parser)


def days_option(parser: ArgumentParser) -> None:
    """Add the number of days."""
    parser.add_argument(
        "--days",
        metavar="N",
        type=options.count,
        help="the last N days, today included (default: today, 7 and 30 days; UTC)",
    )
