"""The log: one bus for every line, and observers that print it as JSON or as text."""

from cortexd.logs.bus import Fields, fields_of, get_logger
from cortexd.logs.context import FlatContextTracker
from cortexd.logs.lines import LEVELS, set_level
from cortexd.logs.observers import file_observer, json_observer, text_observer
from cortexd.logs.outputs import dropped_lines, retry
from cortexd.logs.redaction import MAX_TEXT_LENGTH, REDACTED, redacted

__all__ = [
    "LEVELS",
    "MAX_TEXT_LENGTH",
    "REDACTED",
    "Fields",
    "FlatContextTracker",
    "dropped_lines",
    "fields_of",
    "file_observer",
    "get_logger",
    "json_observer",
    "redacted",
    "retry",
    "set_level",
    "text_observer",
]
