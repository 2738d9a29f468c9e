"""How the agent finds the process of an engine that another program runs: pure, over texts.

A unit's main process and control group are what ``systemctl show`` says; a pid file has the number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cortexd.agent.supervising.words import how_ended

PROPERTIES: Final = (
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "MainPID",
    "ExecMainCode",
    "ExecMainStatus",
    "ControlGroup",
)
"""What ``systemctl show`` is asked, one ``-p`` for each."""

EXITED: Final = "1"
"""``ExecMainCode`` of a process that has exited, CLD_EXITED of waitid(2)."""

START_LIMIT: Final = "start-limit-hit"


@dataclass(frozen=True, slots=True)
class UnitState:
    """What systemd says of a unit; ``main_pid`` is 0 while no process runs.

    ``ending`` says in words how the last process ended, and what systemd does about it.
    """

    main_pid: int = 0
    control_group: str = ""
    ending: str = ""
    is_given_up: bool = False
    is_known: bool = True


def show_command(systemctl: list[str], unit: str) -> list[str]:
    """Return the command that asks systemd for a unit."""
    asked = [word for name in PROPERTIES for word in ("-p", name)]
    return [*systemctl, "show", *asked, "--", unit]


def read_unit(text: str, unit: str) -> UnitState:
    """Read the answer of ``systemctl show``; lines that are missing count as empty."""
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if values.get("LoadState") in (None, "not-found", "masked", "bad-setting", "error"):
        state = values.get("LoadState") or "unknown"
        return UnitState(ending=f"systemd says of {unit}: {state}", is_known=False)
    main = _number(values.get("MainPID"))
    if main:
        return UnitState(main, values.get("ControlGroup", ""))
    status = _number(values.get("ExecMainStatus"))
    active, result = values.get("ActiveState", ""), values.get("Result", "")
    if values.get("ExecMainCode") == EXITED:
        how = how_ended(status, None)
    else:
        how = how_ended(None, status or None)
    given_up = active == "failed" and result == START_LIMIT
    ending = f"{unit}: the process {how}; the unit is {active or 'unknown'}"
    if result not in ("", "success", "exit-code", "signal"):
        ending += f" ({result})"
    if given_up:
        ending += (
            "; systemd starts it again only by hand: `cortexctl restart NODE`, or "
            f"`systemctl reset-failed {unit}` first if that is refused"
        )
    return UnitState(0, "", ending, given_up)


def read_pid(text: str) -> int | None:
    """Return the number in a pid file's text, ``None`` without one."""
    words = text.split(maxsplit=1)
    return _number(words[0]) or None if words else None


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 10 else 0
