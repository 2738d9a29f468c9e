"""The options of the commands of ``cortexctl``."""

from __future__ import annotations

import functools
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import Final

from cortexd.config import addresses

DEFAULT_TIMEOUT: Final = 10.0
LONGEST_TIMEOUT: Final = 3600.0

EVENTS_SHOWN: Final = 50
DECISIONS_SHOWN: Final = 10


def no_options(parser: ArgumentParser) -> None:
    """Add no options."""


def count(text: str) -> int:
    """Read an integer of 1 or more."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ArgumentTypeError(f"found {text}, expected an integer of 1 or more")
    return number


def model(parser: ArgumentParser) -> None:
    """Add the model."""
    parser.add_argument("model", metavar="MODEL", help="the model's id or an alias")


def node(parser: ArgumentParser) -> None:
    """Add the node."""
    parser.add_argument("node", metavar="NODE", help="the node's name")


def model_and_maybe_node(parser: ArgumentParser) -> None:
    """Add the model, and a node that may be left out."""
    model(parser)
    parser.add_argument("--node", metavar="NODE", help="only on this node (default: the best node)")


def load_options(parser: ArgumentParser) -> None:
    """Add the options of ``load``."""
    model_and_maybe_node(parser)
    parser.add_argument("--wait", action="store_true", help="wait until it is loaded")


def unload_options(parser: ArgumentParser) -> None:
    """Add the options of ``unload``."""
    model(parser)
    parser.add_argument("--node", metavar="NODE", help="only on this node (default: on all nodes)")
    parser.add_argument("--now", action="store_true", help="abort the requests that run on it")


def pin_options(parser: ArgumentParser) -> None:
    """Add the options of ``pin``."""
    model(parser)
    parser.add_argument("--node", metavar="NODE", required=True, help="the node's name")


def drain_options(parser: ArgumentParser) -> None:
    """Add the options of ``drain``."""
    node(parser)
    parser.add_argument(
        "--no-wait", dest="wait", action="store_false", help="only show how many requests are left"
    )


def probe_options(parser: ArgumentParser) -> None:
    """Add the options of ``probe``."""
    model(parser)
    parser.add_argument(
        "--node", metavar="NODE", help="only on this node (default: wherever it is loaded)"
    )
    parser.add_argument(
        "--no-wait", dest="wait", action="store_false", help="do not wait for the end of the probe"
    )


def why_options(parser: ArgumentParser) -> None:
    """Add the options of ``why``."""
    parser.add_argument(
        "what",
        metavar="MODEL|REQUEST-ID|NODE",
        help="the id of a model or a request, or the name of a node",
    )
    count_option(parser, "how many decisions to show", DECISIONS_SHOWN)


def events_options(parser: ArgumentParser) -> None:
    """Add the options of ``events``."""
    parser.add_argument("-f", "--follow", action="store_true", help="continue with new entries")
    parser.add_argument("--model", metavar="MODEL", help="only entries of this model")
    count_option(parser, "how many of the latest entries to show", EVENTS_SHOWN)


def count_option(parser: ArgumentParser, words: str, default: int) -> None:
    """Add how many entries to show."""
    parser.add_argument(
        "-n",
        "--count",
        type=count,
        default=default,
        metavar="COUNT",
        help=f"{words} (default: %(default)d)",
    )


def seconds(text: str) -> float:
    """Read a time limit."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= LONGEST_TIMEOUT:
        raise ArgumentTypeError(
            f"found {text}, expected seconds above 0 and at most {LONGEST_TIMEOUT:g}"
        )
    return found


def socket_option(text: str) -> str:
    """Read the path of a socket, which may be relative to the working directory."""
    try:
        return addresses.socket_path(str(Path(text).absolute()))
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def common_options(parser: ArgumentParser) -> None:
    """Add the options of every command, without defaults: main and subparser both have them."""
    add_argument = functools.partial(parser.add_argument, default=SUPPRESS)
    add_argument("--socket", type=socket_option, metavar="PATH", help="the daemon's socket")
    add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help=f"fail if an answer takes longer than this (default: {DEFAULT_TIMEOUT:g})",
    )
    add_argument("--json", action="store_true", help="print JSON")
