"""One bus for every log line: Twisted's global log publisher.

Our own modules log an event name and fields through ``get_logger``; structlog binds and redacts
the fields. Twisted, treq and klein use the same publisher.
"""

import logging
import re
import sys
from typing import Any, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger
from twisted.logger import LogEvent, Logger
from twisted.python.failure import Failure

from cortexd.logs.redaction import redacted

_FIELDS_KEY = "fields"
_BARE_VALUE = re.compile(r"""[^\s"'=]+""")


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


def _value_text(value: object) -> str:
    if isinstance(value, str) and _BARE_VALUE.fullmatch(value) and value.isprintable():
        return value
    return repr(value)
