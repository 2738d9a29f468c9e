"""``cortexctl key``: adds, lists, rotates and revokes keys.

The text of a new key is the only line on standard output, so that a shell can take it:
``KEY=$(cortexctl key add alice)``. What people should know of it goes to standard error.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from cortexd.access.keys import Scope
from cortexd.access.requesters import Priority
from cortexd.control.contract import AddKey, ListKeys, Refused, RevokeKey, RotateKey
from cortexd.control.summaries import KeySummary
from cortexd.ctl.client import ControlClient
from cortexd.ctl.options import common_options, count
from cortexd.ctl.output import table
from cortexd.ctl.progress import Done, Tell
from cortexd.ctl.spans import MOMENTS, SPANS, moment, span, written
from cortexd.ctl.usage import days_option, usage_data, usage_of, usage_text
from cortexd.errors import OperationRefused
from cortexd.text import counted, one_line

HEADER: Final = ("NAME", "SCOPES", "MODELS", "PRIORITY", "WEIGHT", "LIMITS", "EXPIRES")
ONCE: Final = "no one can show it again, so keep it now"
MOST_MODELS: Final = 100
LIMITS: Final = (
    ("requests_per_minute", "requests per minute"),
    ("tokens_per_minute", "tokens per minute"),
    ("max_concurrency", "requests at a time"),
)


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do with keys: its options, and what it asks the daemon."""

    summary: str
    ask: Callable[[ControlClient, Namespace], Awaitable[Done]]
    add_options: Callable[[ArgumentParser], object]


def key_options(parser: ArgumentParser) -> None:
    """Add the actions, each with its options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, action in ACTIONS.items():
        found = actions.add_parser(name, help=action.summary, description=action.summary)
        action.add_options(found)
        common_options(found)


async def key(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Do what the action says."""
    return await ACTIONS[arguments.action].ask(client, arguments)


def printed(arguments: Namespace) -> Done | None:
    """Return a new key for a file that others write, which needs no daemon; else ``None``."""
    if arguments.action != "add" or not arguments.prints:
        return None
    # Only this command needs them, and they take a while to import.
    from cortexd.config.keys_text import table_text
    from cortexd.store.key_keeper import made

    try:
        text, settings = made(_values(arguments), datetime.now(UTC).replace(microsecond=0))
    except OperationRefused as error:
        raise Refused(str(error)) from None
    lines = table_text(settings)
    note = (
        f"the key of {settings.name}: {text}\n{ONCE}; put the table above into the keys file, and "
        "run 'cortexctl reload'\n"
    )
    return Done(lines, {"table": lines, "text": text}, note)


# ---------------------------------------------------------------------- the actions


async def add(client: ControlClient, arguments: Namespace) -> Done:
    """Add a key."""
    answer = await client.ask(AddKey, key=_values(arguments))
    summary: KeySummary = answer["key"]
    note = f"the key of {summary.name}: {ONCE}"
    return _new(answer, note if summary.expires is None else f"{note}; {_expiry(summary)}")


async def rotate(client: ControlClient, arguments: Namespace) -> Done:
    """Replace a key by a new one of the same name."""
    answer = await client.ask(RotateKey, name=arguments.name, keep_old=arguments.keep_old)
    summary: KeySummary = answer["key"]
    until = summary.former_until
    old = "is not valid any more" if until is None else f"is valid until {written(until)}"
    return _new(answer, f"the new key of {summary.name}: {ONCE}; the old one {old}")


def _new(answer: Mapping[str, Any], note: str) -> Done:
    data = {"key": msgspec.to_builtins(answer["key"]), "text": answer["text"]}
    return Done(f"{answer['text']}\n", data, f"{one_line(note)}\n")


async def revoke(client: ControlClient, arguments: Namespace) -> Done:
    """Remove a key."""
    await client.ask(RevokeKey, name=arguments.name)
    text = one_line(f"{arguments.name} is revoked: requests with its key are refused from now on")
    return Done(f"{text}\n", {"name": arguments.name, "revoked": True})


async def list_keys(client: ControlClient, arguments: Namespace) -> Done:
    """Fetch all keys."""
    keys: list[KeySummary] = await client.ask_all(ListKeys)
    now = datetime.now(UTC).timestamp()
    return Done(keys_text(keys, now), {"keys": msgspec.to_builtins(keys)})


async def show(client: ControlClient, arguments: Namespace) -> Done:
    """Fetch one key."""
    [summary] = (await client.ask(ListKeys, offset=0, name=arguments.name))["items"]
    now = datetime.now(UTC).timestamp()
    return Done(key_text(summary, now), {"key": msgspec.to_builtins(summary)})


async def usage(client: ControlClient, arguments: Namespace) -> Done:
    """Fetch what one key has used."""
    found = await usage_of(client, arguments.name, arguments.days)
    return Done(usage_text(found, datetime.now(UTC).timestamp()), usage_data(found))


def keys_text(keys: Sequence[KeySummary], now: float) -> str:
    """Show keys, one on each line."""
    if not keys:
        words = "so that each request is rejected; 'cortexctl key add NAME' makes one"
        return f"there are no keys, {words}\n"
    rows = [
        (
            each.name,
            ",".join(each.scopes),
            ",".join(each.models),
            each.priority,
            f"{each.weight:g}",
            ", ".join(_limits(each)) or "-",
            "-" if each.expires is None else _when(each.expires, now),
        )
        for each in keys
    ]
    return table(HEADER, rows)


def key_text(key: KeySummary, now: float) -> str:
    """Show all of one key."""
    lines = [
        ("name", key.name),
        ("scopes", ", ".join(key.scopes)),
        ("models", ", ".join(key.models)),
        ("priority", key.priority),
        ("weight", f"{key.weight:g}"),
        ("limits", ", ".join(_limits(key)) or "none"),
        ("expires", "never" if key.expires is None else _when(key.expires, now)),
    ]
    if key.former_until is not None and key.former_until > now:
        lines.append(("old key", f"valid until {written(key.former_until)}"))
    return "".join(f"{name + ':':<10}{one_line(words)}\n" for name, words in lines)


def _limits(key: KeySummary) -> list[str]:
    found = [
        counted(value, words)
        for field, words in LIMITS
        if (value := getattr(key, field)) is not None
    ]
    if key.token_budget is not None:
        period = "a day" if key.budget_hours is None else f"in {key.budget_hours:g} h"
        found.append(counted(key.token_budget, f"tokens {period}"))
    return found


def _when(expires: float, now: float) -> str:
    return f"{written(expires)}{' (expired)' if expires <= now else ''}"


def _expiry(key: KeySummary) -> str:
    return f"it expires at {written(key.expires or 0.0)}"


# ---------------------------------------------------------------------- the options


def _values(arguments: Namespace) -> dict[str, object]:
    """Return the options of a new key as the values of its table, without those left out."""
    values = {
        "name": arguments.name,
        "scopes": arguments.scope,
        "models": arguments.model,
        "priority": arguments.priority,
        "weight": arguments.weight,
        "expires": arguments.expires,
        "requests_per_minute": arguments.requests_per_minute,
        "tokens_per_minute": arguments.tokens_per_minute,
        "max_concurrency": arguments.max_concurrency,
        "token_budget": arguments.token_budget,
        "budget_hours": arguments.budget_hours,
    }
    return {key: value for key, value in values.items() if value is not None}


def _scopes(text: str) -> list[str]:
    scopes = text.split(",")
    known = [scope.value for scope in Scope]
    if not set(scopes) <= set(known):
        raise ArgumentTypeError(f"found {text}, expected one or more of {','.join(known)}")
    return scopes


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise ArgumentTypeError(f"found {text}, expected a number above 0")
    return number


def _name(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the key's name")


def _no_options(parser: ArgumentParser) -> None:
    """Add nothing."""


def _add_options(parser: ArgumentParser) -> None:
    _name(parser)
    add_argument = parser.add_argument
    add_argument(
        "--scope",
        type=_scopes,
        metavar="SCOPES",
        help="what it may do: infer, read, control, or several with commas (default: infer,read)",
    )
    add_argument(
        "--model",
        action="append",
        metavar="GLOB",
        help="a model that it may use, such as 'Qwen/*'; more than once (default: all)",
    )
    classes = [priority.name.lower() for priority in Priority]
    add_argument("--priority", choices=classes, help="its class in the queue (default: default)")
    add_argument("--weight", type=_number, metavar="W", help="its share in its class (default: 1)")
    add_argument("--expires", type=moment, metavar="WHEN", help=f"when it ends: {MOMENTS}")
    for field, words in LIMITS:
        option = f"--{field.replace('_', '-')}"
        add_argument(option, type=count, metavar="N", help=f"{words} (default: no limit)")
    add_argument("--token-budget", type=count, metavar="N", help="tokens a day (default: no limit)")
    add_argument(
        "--budget-hours",
        type=_number,
        metavar="H",
        help="the budget is for so many hours before each request instead of a day",
    )
    add_argument(
        "--print",
        dest="prints",
        action="store_true",
        help="change nothing: print the table for a keys file that another program writes",
    )


def _rotate_options(parser: ArgumentParser) -> None:
    _name(parser)
    parser.add_argument(
        "--keep-old",
        type=span,
        metavar="SPAN",
        help=f"keep the old key valid so long: {SPANS} (default: not at all)",
    )


def _usage_options(parser: ArgumentParser) -> None:
    _name(parser)
    days_option(parser)


ACTIONS: Final[Mapping[str, Action]] = {
    "add": Action("add a key, and print it this one time", add, _add_options),
    "list": Action("show all keys", list_keys, _no_options),
    "show": Action("show one key", show, _name),
    "rotate": Action("replace a key by a new one, and print it", rotate, _rotate_options),
    "revoke": Action("remove a key", revoke, _name),
    "usage": Action("show what a key has used", usage, _usage_options),
}


def key_problem(arguments: Namespace) -> str | None:
    """Return what is wrong with options that are valid each, ``None`` if nothing is."""
    if arguments.action == "add":
        if len(arguments.model or ()) > MOST_MODELS:
            return f"at most {MOST_MODELS} times --model; write more into the keys file"
        if arguments.budget_hours is not None and arguments.token_budget is None:
            return "--budget-hours needs --token-budget"
        if arguments.expires is not None and arguments.expires <= datetime.now(UTC).timestamp():
            return f"--expires {written(arguments.expires)} is in the past"
    return None
