"""``cortexctl agent``: enrols agents, lists their enrolments and revokes them.

What an agent needs goes into a file that only its owner may read. The file is made before the
daemon is asked: an enrolment that cannot be kept would replace the one before for nothing.
"""

from __future__ import annotations

import os
import secrets
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from cortexd.control.contract import Refused
from cortexd.control.enrolment_commands import (
    EnrolAgent,
    EnrolmentSummary,
    ListEnrolments,
    RevokeAgent,
)
from cortexd.ctl.client import ControlClient
from cortexd.ctl.options import common_options, count, node
from cortexd.ctl.output import table
from cortexd.ctl.progress import Done, Tell
from cortexd.ctl.spans import written
from cortexd.text import one_line

HEADER: Final = ("NODE", "KIND", "CREATED", "EXPIRES", "CONNECTED", "NOTES")
STDOUT: Final = "-"
FILE_MODE: Final = 0o600


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do with agents: its options, and what it asks the daemon."""

    summary: str
    ask: Callable[[ControlClient, Namespace], Awaitable[Done]]
    add_options: Callable[[ArgumentParser], object]


def agent_options(parser: ArgumentParser) -> None:
    """Add the actions, each with its options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, action in ACTIONS.items():
        found = actions.add_parser(name, help=action.summary, description=action.summary)
        action.add_options(found)
        common_options(found)


async def agent(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Do what the action says."""
    return await ACTIONS[arguments.action].ask(client, arguments)


# ---------------------------------------------------------------------- the actions


async def enroll(client: ControlClient, arguments: Namespace) -> Done:
    """Enrol the agent of a node, and keep what it needs in a file."""
    output = arguments.output or f"{arguments.node}.enrolment"
    if output == STDOUT:
        answer = await _enrolled(client, arguments)
        return Done(answer["enrolment"], _data(answer) | {"enrolment": answer["enrolment"]})
    file = _Draft(Path(output), may_replace=arguments.force)
    try:
        answer = await _enrolled(client, arguments)
        file.keep(answer["enrolment"])
    except OSError as error:
        raise Refused(
            f"{one_line(output)} cannot be written ({one_line(error.strerror or str(error))}), so "
            "that the new enrolment is lost and the one before is replaced: enroll again"
        ) from None
    finally:
        file.drop()
    summary: EnrolmentSummary = answer["agent"]
    text = f"{output} has what the agent of {summary.node} needs, until {_when(summary.expires)}"
    note = (
        "bring it to the agent's machine, name it in enrolment of [agent] in agent.toml, and "
        "remove it here: whoever has it can speak for the node\n"
    )
    return Done(f"{one_line(text)}\n", _data(answer) | {"file": output}, note)


async def _enrolled(client: ControlClient, arguments: Namespace) -> Mapping[str, Any]:
    return await client.ask(
        EnrolAgent,
        node=arguments.node,
        by_token=arguments.token or None,
        days=arguments.days,
        gateway=arguments.gateway,
    )


def _data(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {"agent": msgspec.to_builtins(answer["agent"])}


async def list_agents(client: ControlClient, arguments: Namespace) -> Done:
    """Fetch all enrolments."""
    found: list[EnrolmentSummary] = await client.ask_all(ListEnrolments)
    now = datetime.now(UTC).timestamp()
    return Done(enrolments_text(found, now), {"agents": msgspec.to_builtins(found)})


async def revoke(client: ControlClient, arguments: Namespace) -> Done:
    """Take an agent's right to speak for a node away."""
    answer = await client.ask(RevokeAgent, node=arguments.node)
    ended = "; its link has ended" if answer["was_connected"] else ""
    text = one_line(
        f"{arguments.node} is revoked: what was made for its agent admits nobody{ended}"
    )
    data = {"node": arguments.node, "revoked": True, "was_connected": answer["was_connected"]}
    return Done(f"{text}\n", data)


def enrolments_text(enrolments: Sequence[EnrolmentSummary], now: float) -> str:
    """Show enrolments, one on each line."""
    if not enrolments:
        return "no agent is enrolled; 'cortexctl agent enroll NODE' makes what one needs\n"
    rows = [
        (
            each.node,
            each.kind or "-",
            _when(each.created),
            _when(each.expires),
            "yes" if each.connected else "no",
            ", ".join(_notes(each, now)) or "-",
        )
        for each in enrolments
    ]
    return table(HEADER, rows)


def _notes(enrolment: EnrolmentSummary, now: float) -> list[str]:
    found = []
    if enrolment.expires is not None and enrolment.expires <= now:
        found.append("expired")
    is_newer = enrolment.created is not None and enrolment.created > (enrolment.revoked or 0.0)
    if enrolment.revoked is not None and not is_newer:
        found.append(f"revoked {written(enrolment.revoked)}")
    if not enrolment.is_configured:
        found.append("not in the configuration")
    return found


def _when(at: float | None) -> str:
    return "-" if at is None else written(at)


class _Draft:
    """A file beside ``path``, for its owner only, that becomes it at once or not at all.

    Raises Refused if there is a file already and it may not be replaced, or none can be made.
    """

    def __init__(self, path: Path, *, may_replace: bool) -> None:
        self._path = path
        self._may_replace = may_replace
        self._draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        if not may_replace and os.path.lexists(path):
            raise self._exists()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self._draft, flags, FILE_MODE)
        except OSError as error:
            raise Refused(
                f"{one_line(str(path))} cannot be made ({one_line(error.strerror or '')}); nothing "
                "was changed"
            ) from None

    def keep(self, text: str) -> None:
        """Make it the file. Raises OSError, and Refused if there is one meanwhile."""
        with os.fdopen(self._descriptor, "w", encoding="utf-8") as file:
            self._descriptor = -1
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if self._may_replace:
            self._draft.replace(self._path)
            return
        try:
            os.link(self._draft, self._path)
        except FileExistsError:
            raise self._exists() from None

    def drop(self) -> None:
        """Remove the draft, if it is still there."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        with suppress(OSError):
            self._draft.unlink()

    def _exists(self) -> Refused:
        return Refused(
            f"{one_line(str(self._path))} exists: choose another file with --output, or let it be "
            "replaced with --force"
        )


# ---------------------------------------------------------------------- the options


def _enroll_options(parser: ArgumentParser) -> None:
    node(parser)
    add_argument = parser.add_argument
    add_argument(
        "--token",
        action="store_true",
        help="admit the agent by a token instead of a certificate of its own",
    )
    add_argument(
        "--days", type=count, metavar="N", help="how long it is admitted (default: two years)"
    )
    add_argument(
        "--gateway",
        metavar="HOST:PORT",
        help="where the agent connects (default: the first of names in [agents], or the address "
        "that it listens at)",
    )
    add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="the file for the agent, - for standard output (default: NODE.enrolment)",
    )
    add_argument("--force", action="store_true", help="replace the file if there is one")


def _no_options(parser: ArgumentParser) -> None:
    """Add nothing."""


ACTIONS: Final[Mapping[str, Action]] = {
    "enroll": Action("make what the agent of a node needs, in one file", enroll, _enroll_options),
    "list": Action("show what agents are admitted by", list_agents, _no_options),
    "revoke": Action("take an agent's right to speak for its node away", revoke, node),
}
