"""``cortexctl``: queries and controls a running daemon over its control socket.

It opens one connection in one run of the reactor, with a time limit for each answer.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import globalLogBeginner
from twisted.python.failure import Failure

from cortexd.config import paths
from cortexd.control.contract import Refused
from cortexd.ctl.client import ControlClient, NoDaemon, converse, find_socket
from cortexd.ctl.commands import SUBCOMMANDS, carry_out
from cortexd.ctl.options import DEFAULT_TIMEOUT, common_options, socket_option
from cortexd.ctl.progress import Done
from cortexd.text import one_line

DONE: Final = 0
REFUSED: Final = 1
NO_DAEMON: Final = 3  # argparse itself ends with 2 on wrong usage

EPILOG: Final = """\
examples:
  cortexctl status
  cortexctl status --json | jq -r '.nodes[] | select(.health != "up") | .name'
  cortexctl plan load Qwen/Qwen3-8B
  cortexctl load Qwen/Qwen3-8B --node gpu-1 --wait
  cortexctl why Qwen/Qwen3-8B
  cortexctl plan reload && cortexctl reload
  cortexctl drain gpu-1 && ssh gpu-1 systemctl restart mistralrs
  cortexctl events -f
  KEY=$(cortexctl key add alice --model 'Qwen/*' --expires 90d)
  cortexctl --socket /tmp/demo/control.sock version

cortexctl connects to --socket, or else to CORTEX_SOCKET, or else to the control
socket of your own daemon, or else to the system's, /run/cortex/control.sock.

exit status:
  0  done
  1  the daemon rejected the command, or its answer cannot be read or written
  2  wrong usage
  3  no daemon answers
"""


class OutputEnded(Exception):
    """Raised when the output cannot be written; ``status`` is the exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def run(
    path: str,
    ask: Callable[[ControlClient], Awaitable[Any]],
    timeout: float,
    *,
    until_interrupted: bool = False,
) -> Any:
    """Run the reactor until the daemon has answered, and return the answer.

    Raises the errors of ``converse``. With ``until_interrupted``, Ctrl-C ends the command normally
    and the answer is ``None``. The reactor runs only once per process, and so does this function.
    """
    from twisted.internet import reactor as global_reactor

    reactor: Any = global_reactor
    outcomes: list[Any] = []
    asked: Deferred[Any] = Deferred.fromCoroutine(converse(reactor, path, ask, timeout))

    def begin() -> None:
        asked.addBoth(outcomes.append)
        asked.addBoth(lambda _: reactor.stop())

    def interrupt(number: int, frame: object) -> None:
        reactor.callFromThread(asked.cancel)

    # Twisted would print a traceback for an answer that is not AMP.
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    reactor.callWhenRunning(begin)
    # Without until_interrupted, Ctrl-C simply kills the process: nothing needs to be cleaned up.
    signal.signal(signal.SIGINT, interrupt if until_interrupted else signal.SIG_DFL)
    reactor.run(installSignalHandlers=False)
    outcome = outcomes[0]
    if isinstance(outcome, Failure):
        if until_interrupted and outcome.check(CancelledError):
            return None
        outcome.raiseException()
    return outcome


# ---------------------------------------------------------------------- the command line


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; it exits with 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        prog="cortexctl",
        description="Query and control a running cortexd.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common_options(parser)
    parser.set_defaults(socket=None, timeout=DEFAULT_TIMEOUT, json=False)
    subparsers = parser.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")
    for name, subcommand in SUBCOMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=subcommand.summary, description=subcommand.summary
        )
        subcommand.add_options(subparser)
        common_options(subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Execute the command line and return the exit status, which EPILOG lists.

    ``argv`` does not include the program's name; the default is that of the process.
    """
    parser = make_parser()
    arguments = parser.parse_args(argv)
    subcommand = SUBCOMMANDS[arguments.subcommand]
    if (problem := subcommand.problem(arguments)) is not None:
        parser.error(problem)
    follows = getattr(arguments, "follow", False)

    def tell(text: str, data: Mapping[str, Any] | None = None) -> None:
        if not arguments.json:
            _write(text)
        elif data is not None:
            _write_json(data)

    def ask(client: ControlClient) -> Awaitable[Any]:
        return carry_out(subcommand, client, arguments, tell)

    try:
        answer = subcommand.alone(arguments)
        if answer is None:
            path = arguments.socket or _found_socket(parser)
            answer = run(path, ask, arguments.timeout, until_interrupted=follows)
        if not follows:
            tell(
                "" if arguments.json else subcommand.text(answer, time.time()),
                subcommand.data(answer),
            )
            if isinstance(answer, Done) and not arguments.json:
                print(answer.note, end="", file=sys.stderr)
    except (Refused, NoDaemon) as error:
        print(f"cortexctl: {one_line(str(error))}", file=sys.stderr)
        return NO_DAEMON if isinstance(error, NoDaemon) else REFUSED
    except OutputEnded as ended:
        return ended.status
    return DONE


def _found_socket(parser: argparse.ArgumentParser) -> str:
    found = str(find_socket(paths.socket_candidates(os.environ, os.getuid())))
    try:
        return socket_option(found)
    except argparse.ArgumentTypeError as error:
        parser.error(f"the control socket: {error}")


def _write_json(data: Mapping[str, Any]) -> None:
    # Python's json module escapes everything but ASCII: safe in every locale and every terminal.
    _write(json.dumps(data) + "\n")


def _write(text: str) -> None:
    """Write to standard output; OutputEnded on failure. A closed pipe is a normal end."""
    encoding = sys.stdout.encoding
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        # Python flushes again at exit, and would report the error a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise OutputEnded(DONE) from error
        print(f"cortexctl: cannot write the answer: {error.strerror}", file=sys.stderr)
        raise OutputEnded(REFUSED) from error


if __name__ == "__main__":
    sys.exit(main())
