"""When the gateway refuses new requests because it falls behind with those in progress.

The measure is the delay of the reactor: how late a timer fires that is due every ``BEAT_SECONDS``.
One late beat means little, because one large body or one pause of the process can cause it. As in
CoDel (RFC 8289), only a delay that stays above a target for an interval means that more work comes
in than gets done.
"""

from __future__ import annotations

from math import inf
from typing import Final

BEAT_SECONDS: Final = 0.1
"""How often the delay is measured."""

INTERVAL_SECONDS: Final = 2.0
"""How long every beat must be late before requests are refused."""

LATE_BEATS: Final = 3
"""How many beats in a row must be late besides: two may be the ends of two pauses."""

CALM_SECONDS: Final = 2.0
"""How long every beat must be early enough before requests are served again."""

CALM_SHARE: Final = 0.5
"""A beat is early enough below this share of the target, so that the two states do not alternate
around it."""

RETRY_SECONDS: Final = 2.0
"""After which time a client that was refused should try again."""


class Shedder:
    """Decides whether new requests are refused: ``is_shedding``.

    ``target`` is the delay in seconds that is too long, 0 for none.
    """

    def __init__(self, target: float) -> None:
        self.is_shedding = False
        self.retarget(target)
        self._late_beats = 0
        self._late_since = 0.0
        self._calm_since: float | None = None

    def retarget(self, target: float) -> None:
        """Take another target from the next beat on."""
        self._target = target or inf

    def note(self, now: float, delay: float) -> bool:
        """Note the delay of a beat, in seconds; return whether ``is_shedding`` has changed."""
        before = self.is_shedding
        if delay <= self._target:
            self._late_beats = 0
        else:
            self._late_beats += 1
            if self._late_beats == 1:
                self._late_since = now
            if self._late_beats >= LATE_BEATS and now - self._late_since >= INTERVAL_SECONDS:
                self.is_shedding = True
        if delay > self._target * CALM_SHARE:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        elif now - self._calm_since >= CALM_SECONDS:
            self.is_shedding = False
        return self.is_shedding is not before


def is_sheddable(method: bytes, path: bytes) -> bool:
    """Return whether a request makes work: health, lists and an operator's orders make none."""
    return method in (b"POST", b"PUT") and path.startswith(b"/v1/")
