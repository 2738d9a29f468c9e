"""One bus for every log line: Twisted's global log publisher.

Our own modules log an event name and fields through ``get_logger``; structlog binds and redacts
the fields. Twisted, treq and klein use the same publisher. The observer decides how a line looks:
plain ``twistd -n cortex`` prints text, ``--logger cortexd.logs.json_observer`` prints one JSON
object per line.
"""

import dataclasses
import io
import logging
import re
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, TextIO, cast

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent
from twisted.python.context import ContextTracker
from twisted.python.failure import Failure
from twisted.python.reflect import safe_repr
from twisted.web.http_headers import Headers
from zope.interface import implementer

REDACTED: Final = "[redacted]"

# We compare in lower case with "_" for "-". No log may contain a client's text or credentials.
REDACTED_KEYS: Final = frozenset(
    {
        "api_key",
        "apikey",
        "authorization",
        "body",
        "content",
        "cookie",
        "input",
        "messages",
        "password",
        "prompt",
        "proxy_authorization",
        "secret",
        "set_cookie",
        "x_api_key",
    }
)

# journald splits a line above 48 KiB in two, and neither half is JSON.
MAX_TEXT_LENGTH: Final = 8192
MAX_DEPTH: Final = 8

_FIELDS_KEY = "fields"
_BARE_VALUE = re.compile(r"""[^\s"'=]+""")
_QUERY = re.compile(r"""(?<=\S)\?[^\s"'<>]+""")
# Twisted logs these formats at level info for each connection of treq and of the control socket.
_NOISE_FORMATS = frozenset(
    {
        "Starting factory {factory!r}",
        "Stopping factory {factory!r}",
        # From AMP, two for each command of cortexctl.
        "{cls} connection established (HOST:{host} PEER:{peer})",
        "{cls} connection lost (HOST:{host} PEER:{peer})",
    }
)
# A line of twisted.web's access log, where a server has not switched it off.
_ACCESS_LINE = re.compile(r'"\S+" - \S+ \[[^\]]*\] "[A-Z]+ ')


class Fields(dict[str, Any]):
    """The content of one of our events: its name as ``event``, then its fields, redacted and plain.

    As text it reads ``node_down node=gpu-large reason='connection refused'``, always on one line.
    """

    def __str__(self) -> str:
        words = [" ".join(str(self["event"]).splitlines())]
        words += [f"{key}={_value_text(value)}" for key, value in self.items() if key != "event"]
        return " ".join(words)


def get_logger(name: str) -> FilteringBoundLogger:
    """Return a structlog logger whose events go to Twisted's global log publisher.

    ``name`` is the dotted module name; it becomes the namespace of the event.
    ``log.info("node_down", node="gpu-large")`` logs at once; ``log.bind(request_id=...)`` returns
    a logger that adds fields to each of its events. ``failure=`` (a Failure or an exception) and
    ``exc_info=`` become the event's ``log_failure``: a ``traceback`` in JSON, and under trial an
    error that the test has to flush. In twisted.logger's event the fields stand as a ``Fields``
    under the key ``fields``, with the values of keys in ``REDACTED_KEYS`` removed.
    """
    logger = structlog.wrap_logger(
        _TwistedLogger(namespace=name),
        processors=[_extract_failure, _redact, _to_twisted],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        context_class=dict,
    )
    return cast(FilteringBoundLogger, logger.bind())


def fields_of(event: LogEvent) -> Fields | None:
    """Return the fields of an event from ``get_logger``, None for an event of Twisted's own."""
    fields = event.get(_FIELDS_KEY)
    return fields if isinstance(fields, Fields) else None


def redacted(value: object) -> Any:
    """Copy a value as plain data: safe to serialise, without the values of ``REDACTED_KEYS``.

    Mappings, header collections, dataclasses and msgspec Structs become dicts, and each of their
    values under a key of these becomes "[redacted]", as does the value of a (name, value) pair;
    sequences and sets become lists; text is cut at ``MAX_TEXT_LENGTH`` characters; any other value
    that is not JSON becomes its repr.
    """
    return _redacted(value, MAX_DEPTH)


def json_observer(stream: TextIO | None = None) -> ILogObserver:
    """Make the observer for ``twistd --logger cortexd.logs.json_observer``.

    The lines go to ``stream``, by default to standard output. This function reads ``sys.stdout``
    now, because twistd replaces it by its own log right afterwards.
    """
    stream = sys.stdout if stream is None else stream
    if isinstance(stream, io.TextIOWrapper):
        # JSON is UTF-8 under any locale.
        stream.reconfigure(encoding="utf-8")
    return JSONLineObserver(stream)


@implementer(ILogObserver)
class JSONLineObserver:
    """Writes each event as one JSON object on one line to ``stream``.

    Fields: ``time`` (RFC 3339, UTC, milliseconds), ``level``, ``logger``, ``event``, then the
    event's own (a name that equals one of these four gets a trailing "_"), and ``traceback`` where
    the event has a failure. Twisted's own events have their text as ``event``, without the query of
    any URI. The observer omits level debug, the start and stop of factories, and access log lines.
    If a write fails, the line is lost without a report, because there is no other place to write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._render = structlog.processors.JSONRenderer(serializer=_to_json)

    def __call__(self, event: LogEvent) -> None:
        """Write the event, unless it is noise."""
        line = _line_of(event)
        if line is None:
            return
        try:
            text = cast(str, self._render(None, line["level"], line))
            self._stream.write(text + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            # The reader is gone or the stream is closed. A report of that would fail here as well.
            return


class FlatContextTracker(threading.local, ContextTracker):
    """Tracks the log context of each thread like Twisted's own tracker, in a third of the calls.

    Pass an instance to ``twisted.python.context.installContextTracker``. Twisted enters a context
    for every event of a connection, and each time its own tracker looks up the thread's context
    twice, through two more functions.
    """

    def currentContext(self) -> "FlatContextTracker":  # noqa: N802 - Twisted calls it by this name
        """Return this tracker, which is thread-local itself; Twisted's thread pool calls this."""
        return self


class _TwistedLogger(Logger):
    """A twisted.logger.Logger that also has structlog's name for the level ``warn``."""

    warning = Logger.warn


def _extract_failure(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Replace ``failure`` and ``exc_info``, in any form of either library, by a Failure."""
    exc_info = event.pop("exc_info", None)
    failure = _as_failure(event.get("failure"))
    if failure is not None:
        del event["failure"]
    failure = failure or _as_failure(exc_info)
    if failure is not None:
        event["log_failure"] = failure
    return event


def _as_failure(given: object) -> Failure | None:
    if given is True:
        given = sys.exc_info()
    if isinstance(given, tuple) and len(given) == 3:
        given = given[1]
    if isinstance(given, BaseException):
        given = Failure(given)
    return given if isinstance(given, Failure) else None


def _redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Make every field plain, and redact the values that no log may contain."""
    failure = event.pop("log_failure", None)
    plain: EventDict = {"event": redacted(str(event.pop("event"))), **redacted(event)}
    return plain if failure is None else {**plain, "log_failure": failure}


def _to_twisted(
    _logger: object, _method: str, event: EventDict
) -> tuple[tuple[str], dict[str, Any]]:
    """Turn the event into the arguments of a twisted.logger method."""
    failure = event.pop("log_failure", None)
    arguments: dict[str, Any] = {_FIELDS_KEY: Fields(event)}
    if failure is not None:
        arguments["log_failure"] = failure
    return (f"{{{_FIELDS_KEY}}}",), arguments


def _redacted(value: object, depth: int) -> Any:
    """Redact down to ``depth`` levels; the limit also stops at a structure that contains itself."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, str):
        return _shortened(_encodable(value))
    # msgspec rejects integers of more than 64 bits.
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return int(value)
    if depth == 0:
        return "[too deep]"
    items = _items_of(value)
    if items is not None:
        return _redacted_fields(items, depth)
    if isinstance(value, list | tuple | set | frozenset):
        if len(value) == 2 and isinstance(value, list | tuple) and _is_secret(value[0]):
            return [_redacted(value[0], depth - 1), REDACTED]
        return [_redacted(item, depth - 1) for item in value]
    return _shortened(_encodable(safe_repr(value)))


def _redacted_fields(fields: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    """Redact named values; a value that is already plain costs no further call."""
    plain: dict[str, Any] = {}
    for key, value in fields.items():
        name, is_secret = _name_of(key if isinstance(key, str) else _text(key))
        if is_secret:
            plain[name] = REDACTED
        elif value is None or (
            type(value) is str and len(value) <= MAX_TEXT_LENGTH and value.isascii()
        ):
            plain[name] = value
        else:
            plain[name] = _redacted(value, depth - 1)
    return plain


# All log lines together use about a hundred names.
@lru_cache(maxsize=1024)
def _name_of(key: str) -> tuple[str, bool]:
    """Return a field's name in encodable form, and whether we must redact its value."""
    return _encodable(key), _is_secret(key)


def _items_of(value: object) -> Mapping[Any, Any] | None:
    """Return the named parts of a value, None where it has no names."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, Headers):
        return dict(value.getAllRawHeaders())
    if isinstance(value, msgspec.Struct):
        return {name: getattr(value, name, None) for name in value.__struct_fields__}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value))
        return {name: getattr(value, name, None) for name in names}
    return None


def _is_secret(key: object) -> bool:
    return _text(key).lower().replace("-", "_") in REDACTED_KEYS


def _text(key: object) -> str:
    if isinstance(key, bytes):
        return key.decode("latin-1")
    return key if isinstance(key, str) else safe_repr(key)


def _encodable(text: str) -> str:
    """Escape lone surrogates, which UTF-8 cannot encode; a client can send them in JSON."""
    if type(text) is str and text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _shortened(text: str) -> str:
    if len(text) <= MAX_TEXT_LENGTH:
        return text
    return f"{text[:MAX_TEXT_LENGTH]}... [{len(text)} characters]"


def _value_text(value: object) -> str:
    if isinstance(value, str) and _BARE_VALUE.fullmatch(value) and value.isprintable():
        return value
    return repr(value)


def _line_of(event: LogEvent) -> EventDict | None:
    """Return the fields of the event's line in order, None for noise."""
    level = event.get("log_level") or LogLevel.info
    if level is LogLevel.debug or event.get("log_format") in _NOISE_FORMATS:
        return None
    # Legacy events carry their failure under "failure".
    failure = event.get("log_failure") or event.get("failure")
    own = fields_of(event)
    if own is None:
        own = Fields(event=_text_of(event, failure))
        if not own["event"] or _ACCESS_LINE.match(own["event"]):
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
    return line


def _text_of(event: LogEvent, failure: object) -> str:
    """Return the text of a Twisted event, without the traceback that a legacy event includes."""
    text = formatEvent(event)
    if failure is not None:
        text = text.strip().partition("\n")[0] or "Unhandled Error"
    return _shortened(_encodable(_QUERY.sub("?[redacted]", text)))


def _traceback(failure: Failure) -> str:
    """Return the end of a traceback, which contains the error."""
    try:
        text = failure.getTraceback()
    except Exception as error:  # an exception whose own __str__ fails still gets its line
        text = f"no traceback: {safe_repr(error)}"
    return _encodable(_QUERY.sub("?[redacted]", text.strip()))[-2 * MAX_TEXT_LENGTH :]


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
