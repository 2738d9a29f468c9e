"""``cortexctl``: asks a running daemon over its control socket.

What it shows is made by pure functions of what the daemon answered. What it asks goes over one
connection, in one run of the reactor, with a limit on the whole.
"""

from __future__ import annotations

import argparse
import errno
import grp
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from twisted.internet import error as network_errors
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import globalLogBeginner
from twisted.protocols import amp
from twisted.python.failure import Failure

from cortexd import __version__, config, paths
from cortexd.commands import (
    LAST_PAGE,
    PROTOCOL,
    ControlCommand,
    LeaseSummary,
    ListLeases,
    ListNodes,
    ListReplicas,
    NodeSummary,
    Refused,
    ReplicaSummary,
    Version,
)
from cortexd.fleet import ANSWERING_STATES, NodeHealth

DONE: Final = 0
REFUSED: Final = 1
NO_DAEMON: Final = 3  # 2 is wrong usage, which argparse itself ends with

DEFAULT_TIMEOUT: Final = 10.0
LONGEST_TIMEOUT: Final = 3600.0

EPILOG: Final = """\
examples:
  cortexctl status
  cortexctl status --json | jq -r '.nodes[] | select(.health != "up") | .name'
  cortexctl --socket /tmp/demo/control.sock version

The daemon is looked for at --socket, else at CORTEX_SOCKET, else at your own
daemon's control socket, else at the system's, /run/cortex/control.sock.

exit status:
  0  done
  1  refused by the daemon, or its answer cannot be understood or written
  2  wrong usage
  3  no daemon answers
"""

HOW_TO_START: Final = "start it with 'systemctl start cortexd' or 'twistd -n cortex'"
HOW_TO_NAME: Final = "if it listens elsewhere, name its socket with --socket or CORTEX_SOCKET"


class NoDaemon(Exception):
    """Raised when no daemon answers; the words name the socket and say what to do."""


class Status(msgspec.Struct, kw_only=True, frozen=True):
    """The whole fleet; ``replicas`` are by the name of their node."""

    nodes: list[NodeSummary]
    replicas: dict[str, list[ReplicaSummary]]
    leases: list[LeaseSummary]


class DaemonVersion(msgspec.Struct, kw_only=True, frozen=True):
    """What a daemon says of itself; ``started_at`` is in unix seconds."""

    version: str
    pid: int
    started_at: float
    protocol: int


# ---------------------------------------------------------------------- what is shown


def visible(text: str) -> str:
    """Escape what a terminal would obey or hide instead of showing it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def duration(seconds: float) -> str:
    """Write a time span in its two largest units: ``2d3h``, ``5m10s``, ``12s``."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if parts or count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align rows of texts under a header, two spaces between the columns."""
    lines = [header, *([visible(cell) for cell in row] for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    padded = (
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines
    )
    return "".join("  ".join(line).rstrip() + "\n" for line in padded)


def status_text(status: Status, now: float) -> str:
    """Render the fleet for a person who reads it at ``now``, in unix seconds."""
    parts = [
        table(
            ("NAME", "HEALTH", "VERSION", "MEMORY", "BUDGET", "REPLICAS", "LEASES", "SINCE"),
            [_node_row(node, now) for node in status.nodes],
        )
    ]
    if unwell := [node for node in status.nodes if node.health != NodeHealth.UP.value]:
        parts.append(
            "".join(
                visible(f"{node.name} is {node.health}: {node.reason}") + "\n" for node in unwell
            )
        )
    if replicas := [
        (name, replica.model, replica.state, f"{replica.leases}/{replica.capacity}")
        for name, listed in status.replicas.items()
        for replica in listed
    ]:
        parts.append(table(("NODE", "MODEL", "STATE", "LEASES"), replicas))
    if leases := [
        (lease.request_id, lease.model, lease.node, duration(lease.age_seconds))
        for lease in status.leases
    ]:
        parts.append(table(("REQUEST", "MODEL", "NODE", "AGE"), leases))
    return "\n".join(parts)


def _node_row(node: NodeSummary, now: float) -> Sequence[str]:
    loaded = sum(node.replica_states.get(state.value, 0) for state in ANSWERING_STATES)
    memory = f"{_gibibytes(node.memory_free_mb)}/{_gibibytes(node.memory_total_mb)} GiB free"
    return (
        node.name,
        node.health,
        node.version or "-",
        "-" if node.memory_total_mb is None else memory,
        f"{_gibibytes(node.memory_budget_mb)} GiB",
        f"{loaded}/{sum(node.replica_states.values())}",
        str(node.leases),
        duration(now - node.since),
    )


def _gibibytes(mebibytes: int | None) -> str:
    return "?" if mebibytes is None else f"{mebibytes / 1024:.1f}"


def status_data(status: Status) -> Mapping[str, Any]:
    """Return what ``status --json`` prints: the nodes, each with its replicas, and the leases."""
    nodes = [
        {**msgspec.to_builtins(node), "replicas": msgspec.to_builtins(status.replicas[node.name])}
        for node in status.nodes
    ]
    return {"nodes": nodes, "leases": msgspec.to_builtins(status.leases)}


def version_text(version: DaemonVersion, now: float) -> str:
    """Render both versions for a person who reads it at ``now``, in unix seconds."""
    up = duration(now - version.started_at)
    return (
        f"cortexctl {__version__}, control protocol {PROTOCOL}\n"
        f"cortexd {visible(version.version)}, control protocol {version.protocol}, "
        f"process {version.pid}, up {up}\n"
    )


def version_data(version: DaemonVersion) -> Mapping[str, Any]:
    """Return what ``version --json`` prints: the daemon's answer and the client's own version."""
    own = {"client_version": __version__, "client_protocol": PROTOCOL}
    return {**msgspec.to_builtins(version), **own}


# ---------------------------------------------------------------------- what is asked


async def ask_version(daemon: amp.AMP) -> DaemonVersion:
    """Ask the daemon for its version."""
    return DaemonVersion(**await daemon.callRemote(Version))


async def ask_status(daemon: amp.AMP) -> Status:
    """Ask the daemon for its whole fleet; Refused if it speaks another protocol."""
    version = await ask_version(daemon)
    if version.protocol != PROTOCOL:
        raise Refused(
            f"cortexd {version.version} speaks control protocol {version.protocol}, this cortexctl "
            f"({__version__}) speaks {PROTOCOL}; use the cortexctl that came with the daemon"
        )
    nodes: list[NodeSummary] = await _all_pages(daemon, ListNodes)
    replicas: dict[str, list[ReplicaSummary]] = {}
    for node in nodes:
        replicas[node.name] = await _all_pages(daemon, ListReplicas, node=node.name)
    return Status(nodes=nodes, replicas=replicas, leases=await _all_pages(daemon, ListLeases))


async def _all_pages(
    daemon: amp.AMP, command: type[ControlCommand], **arguments: object
) -> list[Any]:
    items: list[Any] = []
    offset = 0
    while offset != LAST_PAGE:
        answer = await daemon.callRemote(command, offset=offset, **arguments)
        items += answer["items"]
        offset = answer["next"]
    return items


@dataclass(frozen=True, slots=True)
class Subcommand:
    """What ``cortexctl`` can be told to do: what it asks, and how the answer is shown."""

    summary: str
    ask: Callable[[amp.AMP], Awaitable[Any]]
    text: Callable[[Any, float], str]
    data: Callable[[Any], Mapping[str, Any]]


SUBCOMMANDS: Final[Mapping[str, Subcommand]] = {
    "status": Subcommand(
        "show nodes, the models on them, and the requests they work on",
        ask_status,
        status_text,
        status_data,
    ),
    "version": Subcommand(
        "show the version of the daemon and of this client",
        ask_version,
        version_text,
        version_data,
    ),
}


# ---------------------------------------------------------------------- how the daemon is reached


def find_socket(candidates: Sequence[Path]) -> Path:
    """Return the first of the paths where there is something; NoDaemon if there is nothing.

    A path in a directory that may not be searched counts: what is there cannot be known.
    """
    for candidate in candidates:
        try:
            candidate.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            return candidate
        return candidate
    tried = " or ".join(visible(str(candidate)) for candidate in candidates)
    raise NoDaemon(f"no daemon answers: there is no socket {tried}; {HOW_TO_START}; {HOW_TO_NAME}")


def unreachable(path: str, error_number: int | None, group: str) -> NoDaemon:
    """Return the words for a socket that cannot be connected to.

    ``error_number`` is what connect(2) failed with, ``group`` the one whose members may.
    """
    place = visible(path)
    if error_number in (errno.EACCES, errno.EPERM):
        return NoDaemon(
            f"permission denied for the control socket {place}: it is for members of the group "
            f"{group}; use sudo, or have yourself added to a group that may (see Group= in "
            "contrib/systemd/README.md) and log in again"
        )
    if error_number == errno.ECONNREFUSED:
        problem = "nobody listens there any more"
    else:
        problem = os.strerror(error_number) if error_number else "it cannot be connected to"
    return NoDaemon(f"no daemon answers at {place}: {problem}; {HOW_TO_START}; {HOW_TO_NAME}")


def group_name(number: int) -> str:
    """Return a group's name or, if it has none, its number."""
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def owning_group(path: str) -> str:
    """Return the group of a file or, where that cannot be seen, of the directory that hides it."""
    for place in (Path(path), *Path(path).parents):
        try:
            return group_name(place.stat().st_gid)
        except OSError:
            continue
    return group_name(0)


async def converse(
    reactor: Any, path: str, ask: Callable[[amp.AMP], Awaitable[Any]], timeout: float
) -> Any:
    """Connect to the daemon's socket, ask, and hang up.

    Raises NoDaemon if nobody answers, and Refused if the daemon refuses or cannot be understood.
    """
    endpoint = UNIXClientEndpoint(reactor, path, timeout)
    try:
        daemon = await endpoint.connect(Factory.forProtocol(amp.AMP))
    except network_errors.ConnectError as error:
        raise unreachable(path, error.osError, owning_group(path)) from error
    try:
        return await ask(daemon)
    except network_errors.ConnectionClosed as error:
        raise NoDaemon(
            f"the daemon at {visible(path)} closed the connection: it is stopping, or serves as "
            "many clients as it can; try again"
        ) from error
    except amp.UnhandledCommand as error:
        raise Refused("the daemon does not know this command: it is of another version") from error
    except amp.UnknownRemoteError as error:
        raise Refused("the daemon failed at this command; its log says why") from error
    except (amp.AmpError, msgspec.DecodeError, LookupError, ValueError) as error:
        raise Refused(
            f"what answers at {visible(path)} cannot be understood: it is no cortexd, or one of "
            "another version"
        ) from error
    finally:
        if daemon.transport is not None:
            daemon.transport.loseConnection()


def run(path: str, ask: Callable[[amp.AMP], Awaitable[Any]], timeout: float) -> Any:
    """Run the reactor until the daemon has answered, and return the answer.

    Raises as ``converse`` does, and NoDaemon after ``timeout`` seconds. The reactor runs once in a
    process, and so does this.
    """
    from twisted.internet import reactor as global_reactor

    reactor: Any = global_reactor
    outcomes: list[Any] = []

    def too_late(result: object, seconds: float) -> None:
        raise NoDaemon(
            f"the daemon at {visible(path)} did not answer within {seconds:g} s; "
            "its log may say what keeps it, and --timeout gives it longer"
        )

    def begin() -> None:
        asked = Deferred.fromCoroutine(converse(reactor, path, ask, timeout))
        asked.addTimeout(timeout, reactor, too_late)
        asked.addBoth(outcomes.append)
        asked.addBoth(lambda _: reactor.stop())

    # Twisted would print a traceback of its own for an answer that is no AMP.
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    reactor.callWhenRunning(begin)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # there is nothing to tidy up after Ctrl-C
    reactor.run(installSignalHandlers=False)
    if isinstance(outcomes[0], Failure):
        outcomes[0].raiseException()
    return outcomes[0]


# ---------------------------------------------------------------------- the command line


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= LONGEST_TIMEOUT:
        raise argparse.ArgumentTypeError(
            f"found {text}, expected seconds above 0 and up to {LONGEST_TIMEOUT:g}"
        )
    return seconds


def _socket(text: str) -> str:
    try:
        return config.socket_path(str(Path(text).absolute()))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; it ends the process with 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        prog="cortexctl",
        description="Ask and steer a running cortexd.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--socket", type=_socket, metavar="PATH", help="the daemon's socket")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="give up after this long (default: %(default)g)",
    )
    subparsers = parser.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")
    for name, subcommand in SUBCOMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=subcommand.summary, description=subcommand.summary
        )
        subparser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status, as EPILOG has it.

    ``argv`` is without the program's name; by default the process's own.
    """
    parser = make_parser()
    arguments = parser.parse_args(argv)
    subcommand = SUBCOMMANDS[arguments.subcommand]
    try:
        path = arguments.socket or _found_socket(parser)
        answer = run(path, subcommand.ask, arguments.timeout)
    except (Refused, NoDaemon) as error:
        print(f"cortexctl: {visible(str(error))}", file=sys.stderr)
        return NO_DAEMON if isinstance(error, NoDaemon) else REFUSED
    if arguments.json:
        # Python's own json escapes all but ASCII: right in every locale, and harmless to terminals.
        return _print(json.dumps(subcommand.data(answer)) + "\n")
    return _print(subcommand.text(answer, time.time()))


def _found_socket(parser: argparse.ArgumentParser) -> str:
    found = str(find_socket(paths.socket_candidates(os.environ, os.getuid())))
    try:
        return _socket(found)
    except argparse.ArgumentTypeError as error:
        parser.error(f"the control socket: {error}")


def _print(text: str) -> int:
    """Write to standard output and return the exit status; a reader that has gone had enough."""
    encoding = sys.stdout.encoding
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        # Python flushes once more at its end, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"cortexctl: cannot write the answer: {error.strerror}", file=sys.stderr)
            return REFUSED
    return DONE


if __name__ == "__main__":
    sys.exit(main())
