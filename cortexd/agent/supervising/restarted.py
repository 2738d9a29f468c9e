"""Whether an engine has been restarted: pure, over what was seen before and now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cortexd.agent.engine_control import Health
from cortexd.agent.supervising.kernel import ProcessId

SLACK_SECONDS: Final = 2.0
"""How much earlier than its process an engine may seem to have started: clocks count in seconds."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The main process with the start of it in unix seconds, where they are known, and its health.

    ``sees_process`` is false where nothing tells which process is the engine.
    """

    sees_process: bool
    process: ProcessId | None
    started_at: float | None
    health: Health


def lack(before: Seen, now: Seen) -> str | None:
    """Return what is missing for a restart, ``None`` if there is another process, and it is well.

    An engine tells the start of its process (nodes.md 1.2), which tells processes apart that the
    agent cannot see, and a process of an earlier engine that answers in place of the new one.
    """
    created, earlier = now.health.created, before.health.created
    if now.sees_process:
        if now.process is None:
            return "the engine has no process"
        if now.process == before.process:
            return f"the engine's process is still the old one, {now.process.pid}"
    if not now.health.is_well:
        return now.health.reason or "the engine does not answer"
    if now.sees_process:
        started = now.started_at
        if created is None or created != earlier or started is None:
            return None
        if created >= started - SLACK_SECONDS:
            return None
        return "a process of an earlier engine answers in place of the new one"
    if not before.health.is_well:
        return None
    if created is None or earlier is None:
        return "nothing tells whether the engine's process is another one: set unit or pid_file"
    return "the engine that answers has not been restarted" if created == earlier else None
