"""What the commands of ``cortexctl`` share: progress, results, and the pace of polls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

POLL_SECONDS: Final = 1.0
"""Time between two polls while a command waits."""


class Tell(Protocol):
    """Shows progress before the answer is complete: ``text`` to people, ``data`` to programs."""

    def __call__(self, text: str, data: Mapping[str, Any] | None = None) -> None:
        """Show it now. With --json, progress without data is not shown."""


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a change, for people and for programs.

    ``note`` is what people should know besides; it goes to standard error, and not with --json.
    """

    text: str
    data: Mapping[str, Any]
    note: str = ""
