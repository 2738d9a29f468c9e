"""Events as lines of JSON or of text, without noise.

Both forms have the same level, which ``set_level`` changes at any time, and the same lines.
"""

import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, cast

import msgspec
import structlog
from structlog.typing import EventDict
from twisted.logger import LogEvent, LogLevel, formatEvent, formatTime
from twisted.python.failure import Failure
from twisted.python.reflect import safe_repr

from cortexd.logs.bus import Fields, fields_of
from cortexd.logs.redaction import MAX_TEXT_LENGTH, encodable, shortened

LEVELS: Final = {
    "debug": LogLevel.debug,
    "info": LogLevel.info,
    "warning": LogLevel.warn,
    "error": LogLevel.error,
}
"""The values of ``[gateway] log_level``."""

Line = Callable[[LogEvent], str | None]
"""Returns the line of an event without its line break, None for an event that gets no line."""

_QUERY = re.compile(r"""(?<=\S)\?[^\s"'<>]+""")
# Twisted logs these formats at level info for each connection of treq, the control socket, a link.
_NOISE_FORMATS = frozenset(
    {
        "Starting factory {factory!r}",
        "Stopping factory {factory!r}",
        # From AMP, two for each command of cortexctl.
        "{cls} connection established (HOST:{host} PEER:{peer})",
        "{cls} connection lost (HOST:{host} PEER:{peer})",
        # Of an agent whose gateway is gone, before each attempt; our own line says why it failed.
        "Scheduling retry {attempt} to connect {endpoint} in {delay} seconds.",
    }
)
# A line of twisted.web's access log, where a server has not switched it off.
_ACCESS_LINE = re.compile(r'"\S+" - \S+ \[[^\]]*\] "[A-Z]+ ')
_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%S%z"
# The severities of syslog(3), which journald reads from the beginning of a line: sd-daemon(3).
_PRIORITIES = {
    LogLevel.debug: "<7>",
    LogLevel.info: "<6>",
    LogLevel.warn: "<4>",
    LogLevel.error: "<3>",
    LogLevel.critical: "<2>",
}


class _Threshold:
    """The level from which on events get a line. There is one for the process, as for the bus."""

    level = LogLevel.info


def set_level(name: str) -> None:
    """Show events from the level of this name on; KeyError for a name that LEVELS lacks."""
    _Threshold.level = LEVELS[name]


def json_line(event: LogEvent) -> str | None:
    """Return the JSON of an event.

    Fields: ``time`` (RFC 3339, UTC, milliseconds), ``level``, ``logger``, ``event``, then the
    event's own (a name that equals one of these four gets a trailing "_"), and ``traceback`` where
    the event has a failure. Twisted's own events have their text as ``event``, without the query of
    any URI.
    """
    level = _shown_level(event)
    failure = _failure_of(event)
    own = _fields_of(event, failure) if level is not None else None
    if level is None or own is None:
        return None
    line: EventDict = {
        "time": _rfc3339(event.get("log_time")),
        "level": "warning" if level is LogLevel.warn else level.name,
        "logger": _logger_of(event),
        "event": own["event"],
    }
    for key, value in own.items():
        if key != "event":
            line[f"{key}_" if key in line else key] = value
    if isinstance(failure, Failure):
        line["traceback"] = _traceback(failure)
    return cast(str, _render(None, line["level"], line))


def text_line(event: LogEvent) -> str | None:
    """Return the text of an event as Twisted's own observer writes it: time, logger, level, text.

    A tab precedes each line after the first. Characters that steer a terminal are escaped.
    """
    level = _shown_level(event)
    failure = _failure_of(event)
    own = _fields_of(event, failure) if level is not None else None
    if level is None or own is None:
        return None
    system = event.get("log_system") or f"{_logger_of(event)}#{level.name}"
    text = f"{formatTime(event.get('log_time'), _TIME_FORMAT)} [{system}] {own}"
    if isinstance(failure, Failure):
        text = f"{text}\n{_traceback(failure)}"
    return "\n\t".join(map(_printable, text.splitlines()))


def with_priority(line: Line) -> Line:
    """Return a form that begins each line with its severity, for journald."""

    def with_severity(event: LogEvent) -> str | None:
        text = line(event)
        if text is None:
            return None
        priority = _PRIORITIES[_level_of(event)]
        return priority + text.replace("\n", f"\n{priority}")

    return with_severity


def dropped(lines: int) -> LogEvent:
    """Return the event that stands in the place of so many dropped lines."""
    return {
        "log_level": LogLevel.warn,
        "log_namespace": "cortexd.logs",
        "log_format": "{fields}",
        "log_time": datetime.now(UTC).timestamp(),
        "fields": Fields(event="log_lines_dropped", lines=lines),
    }


def _level_of(event: LogEvent) -> LogLevel:
    level: LogLevel | None = event.get("log_level")
    return level or LogLevel.info


def _shown_level(event: LogEvent) -> LogLevel | None:
    """Return the level of an event that the threshold lets pass, None for any other."""
    level, threshold = _level_of(event), _Threshold.level
    if level < threshold:
        return None
    if event.get("log_format") in _NOISE_FORMATS and threshold is not LogLevel.debug:
        return None
    return level


def _failure_of(event: LogEvent) -> object:
    # Legacy events carry their failure under "failure".
    return event.get("log_failure") or event.get("failure")


def _fields_of(event: LogEvent, failure: object) -> Fields | None:
    """Return the fields of an event, None for one without news."""
    own = fields_of(event)
    if own is not None:
        return own
    text = _text_of(event, failure)
    if not text or (_ACCESS_LINE.match(text) and _Threshold.level is not LogLevel.debug):
        return None
    return Fields(event=text)


def _text_of(event: LogEvent, failure: object) -> str:
    """Return the text of a Twisted event, without the traceback that a legacy event includes."""
    text = formatEvent(event)
    if failure is not None:
        text = text.strip().partition("\n")[0] or "Unhandled Error"
    return shortened(encodable(_QUERY.sub("?[redacted]", text)))


def _traceback(failure: Failure) -> str:
    """Return the end of a traceback, which contains the error."""
    try:
        text = failure.getTraceback()
    except Exception as error:  # an exception whose own __str__ fails still gets its line
        text = f"no traceback: {safe_repr(error)}"
    return encodable(_QUERY.sub("?[redacted]", text.strip()))[-2 * MAX_TEXT_LENGTH :]


def _logger_of(event: LogEvent) -> str:
    namespace = event.get("log_namespace") or "twisted"
    # "log_legacy" is the namespace of all callers of twisted.python.log.
    return "twisted" if namespace == "log_legacy" else str(namespace)


def _rfc3339(seconds: float | None) -> str:
    """Return seconds since the epoch (None: now) as UTC with milliseconds."""
    when = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return f"{when.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def _to_json(line: EventDict, default: Callable[[object], object]) -> str:
    return msgspec.json.encode(line, enc_hook=default).decode()


_render = structlog.processors.JSONRenderer(serializer=_to_json)


def _printable(text: str) -> str:
    """Escape control characters, except tabs: one could move the cursor or rename a terminal."""
    if text.isprintable():
        return text
    return "".join(
        repr(each)[1:-1] if unicodedata.category(each) == "Cc" and each != "\t" else each
        for each in text
    )
