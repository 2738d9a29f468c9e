"""How long a request waits, and for what: pure functions of a state, with ``now`` an argument.

=====================================================  ===============================  ===========
since                                                  the request has waited for       verdict
=====================================================  ===============================  ===========
the client stopped reading                             ``upstream``                     READER_GONE
the node stated why its answer ended                   ``LEFTOVER_SECONDS``             ANSWER_OVER
the node's last byte                                   ``upstream``                     NODE_SILENT
the request came, while nothing has gone out           ``hold``                         SIGN_DUE
the last byte that went out                            ``keepalive``                    SIGN_DUE
=====================================================  ===============================  ===========

While the client does not read, only the first row counts. Where several limits have passed, the
first one in the table decides. Signs of life go only to a client that takes a stream, and a request
in the queue has no node that could be silent.

Each request has one timer. Its owner arms it for ``due`` and asks for the ``verdict`` when it
fires. Bytes only move the times in the state: to reset the timer with each chunk would cost more
than to wake in vain now and then. That is sound because bytes put ``due`` off. Three things bring
it nearer, and after those the owner arms the timer anew: the first byte that goes out (the
keepalive may be shorter than the hold), the end that the node states, and a client that reads
again.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from math import inf
from typing import Final

LEFTOVER_SECONDS: Final = 3.0
"""How long a node may take to send its token counts and ``[DONE]`` after it has stated why its
answer ended, and then to end its body before the connection is closed."""


@dataclass(frozen=True, slots=True)
class Patience:
    """The limits of every request, in seconds; the table above shows what each is counted from."""

    hold: float
    keepalive: float
    upstream: float


class Verdict(enum.Enum):
    """What a wait has come to."""

    NOTHING = "nothing"
    READER_GONE = "reader_gone"
    ANSWER_OVER = "answer_over"
    NODE_SILENT = "node_silent"
    SIGN_DUE = "sign_due"


@dataclass(slots=True)
class Wait:
    """The wait of one request, with its times in seconds of one clock.

    ``began_at``     when the request came
    ``takes_signs``  whether the client gets keep-alives
    ``wrote_at``     when a byte last went out, ``None`` before the first
    ``heard_at``     when the node was asked or last sent a byte, ``None`` while no node is asked
    ``paused_at``    when the client stopped reading, ``None`` while it reads
    ``resumed_at``   when the client last began to read again, ``None`` before
    ``finished_at``  when the node stated why its answer ended, ``None`` before
    """

    patience: Patience
    began_at: float
    takes_signs: bool
    wrote_at: float | None = None
    heard_at: float | None = None
    paused_at: float | None = None
    finished_at: float | None = None
    resumed_at: float | None = None

    def pause(self, now: float) -> None:
        """Note that the client does not read; of several times the first counts."""
        if self.paused_at is None:
            self.paused_at = now

    def resume(self, now: float) -> None:
        """Note that the client reads again; what was held up meanwhile counts from now."""
        self.paused_at = None
        self.heard_at = self.resumed_at = now
        if self.wrote_at is not None:
            self.wrote_at = now
        if self.finished_at is not None:
            self.finished_at = now


def has_heard(wait: Wait, since: float, asked_at: float) -> bool:
    """Return whether the node that was asked at ``asked_at`` has sent a byte after ``since``."""
    heard_at = wait.heard_at
    return heard_at is not None and heard_at > since and heard_at not in (asked_at, wait.resumed_at)


def due(wait: Wait) -> float:
    """Return when the verdict ceases to be NOTHING if nothing happens before, ``inf`` for never."""
    upstream = wait.patience.upstream
    if wait.paused_at is not None:
        return wait.paused_at + upstream
    first = _sign_due(wait)
    if wait.heard_at is not None:
        first = min(first, wait.heard_at + upstream)
    if wait.finished_at is not None:
        first = min(first, wait.finished_at + LEFTOVER_SECONDS)
    return first


def verdict(wait: Wait, now: float) -> Verdict:
    """Return what the wait has come to at ``now``."""
    upstream = wait.patience.upstream
    if wait.paused_at is not None:
        return Verdict.READER_GONE if now >= wait.paused_at + upstream else Verdict.NOTHING
    if wait.finished_at is not None and now >= wait.finished_at + LEFTOVER_SECONDS:
        return Verdict.ANSWER_OVER
    if wait.heard_at is not None and now >= wait.heard_at + upstream:
        return Verdict.NODE_SILENT
    return Verdict.SIGN_DUE if now >= _sign_due(wait) else Verdict.NOTHING


def _sign_due(wait: Wait) -> float:
    if not wait.takes_signs:
        return inf
    if wait.wrote_at is None:
        return wait.began_at + wait.patience.hold
    return wait.wrote_at + wait.patience.keepalive
