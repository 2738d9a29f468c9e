"""When a certificate expires, and when the operator hears of it: pure.

All times are in unix seconds.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

DAY: Final = 86_400.0
HOUR: Final = 3_600.0
WARNING_SECONDS: Final = 14 * DAY
"""How long before the end of a certificate the warnings begin. They come once a day."""

AGENTS_WARNING_SECONDS: Final = 30 * DAY
"""The same for an agent's enrolment: somebody must bring a new one to the agent's machine."""


class Advice(NamedTuple):
    """What follows, and what to do, if a certificate is ``early``, ``ending`` or ``expired``.

    Its warnings begin ``ahead`` seconds before its end.
    """

    early: str
    ending: str
    expired: str
    ahead: float = WARNING_SECONDS


OURS: Final = Advice(
    early="clients refuse it until then; check the clock",
    ending="renew it and reload",
    expired="clients refuse it; renew it and reload",
)
"""For a certificate that we show to clients."""

OF_A_NODE: Final = Advice(
    early="no request reaches the node until then; check the clock",
    ending="renew it on the node, which is down for us after that",
    expired="no new connection to the node succeeds; renew it on the node",
)
"""For a certificate that a node shows us."""


OF_THE_LINK: Final = Advice(
    early="agents refuse the gateway until then; check the clock",
    ending="renew it and reload",
    expired="agents refuse the gateway; renew it and reload",
    ahead=AGENTS_WARNING_SECONDS,
)
"""For the certificate that we show to agents."""

OF_AN_AGENT: Final = Advice(
    early="its agent is not admitted until then; check the clock",
    ending="its agent is not admitted after that; make a new one, and bring it to the agent",
    expired="its agent is not admitted; make a new one, and bring it to the agent",
    ahead=AGENTS_WARNING_SECONDS,
)
"""For what an agent proves itself with."""


class Validity(NamedTuple):
    """From when on and until when a certificate is valid."""

    not_before: float
    not_after: float

    def words(self, now: float) -> str:
        """Return the validity for a person who checks a configuration."""
        if now < self.not_before:
            return f"not valid before {moment(self.not_before)}"
        if now >= self.not_after:
            return f"expired {span(now - self.not_after)} ago, on {moment(self.not_after)}"
        return f"valid until {moment(self.not_after)} ({span(self.not_after - now)})"

    def warning(self, now: float, advice: Advice = OURS) -> str | None:
        """Return what is wrong, or will be soon, ``None`` if nothing is."""
        match self.stage(now, advice.ahead):
            case "early":
                return f"is {self.words(now)}: {advice.early}"
            case "expired":
                return f"has {self.words(now)}: {advice.expired}"
            case "ending":
                left = span(self.not_after - now)
                return f"expires in {left}, on {moment(self.not_after)}; {advice.ending}"
        return None

    def stage(self, now: float, ahead: float = WARNING_SECONDS) -> str:
        """Return which of its warnings holds, by a word that stays the same from day to day."""
        if now < self.not_before:
            return "early"
        if now >= self.not_after:
            return "expired"
        return "ending" if now >= self.not_after - ahead else "valid"


class Shown(NamedTuple):
    """A certificate that expires, with its owner's name in warnings, and what to do about it."""

    whose: str
    validity: Validity
    advice: Advice


class Reminders:
    """Says when the warning about a certificate is due: at first, and once a day.

    A renewed certificate, and the end of an old one, count as new.
    """

    def __init__(self) -> None:
        self._told: dict[str, tuple[Validity, str, float]] = {}

    def due(self, whose: str, validity: Validity, now: float, advice: Advice = OURS) -> str | None:
        """Return the warning if it is due now; the next one is due a day later.

        ``whose`` is the listener or the node that shows the certificate.
        """
        warning, stage = validity.warning(now, advice), validity.stage(now, advice.ahead)
        told = self._told.get(whose)
        if warning is None:
            self._told.pop(whose, None)
            return None
        if told is not None and told[:2] == (validity, stage) and 0 <= now - told[2] < DAY:
            return None
        self._told[whose] = (validity, stage, now)
        return warning


def moment(at: float) -> str:
    """Write a time to the minute, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def span(seconds: float) -> str:
    """Write a time span in days, or in hours if it is short."""
    days, hours = int(seconds // DAY), int(seconds // HOUR)
    if days >= 2:
        return f"{days} days"
    return f"{hours} hours" if hours != 1 else "1 hour"
