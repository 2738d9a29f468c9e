"""The observers of the bus: each writes a line for an event.

Plain ``twistd -n cortex`` prints text, ``--logger cortexd.logs.json_observer`` prints one JSON
object per line. If standard output goes to journald, each line begins with its severity, which
journald takes off.
"""

import io
import os
import sys
from collections.abc import Callable
from typing import TextIO

from twisted.logger import ILogObserver, LogEvent
from zope.interface import implementer

from cortexd.logs.lines import Line, dropped, json_line, text_line, with_priority
from cortexd.logs.outputs import FileOutput, Output, is_journal, output_to


@implementer(ILogObserver)
class LineObserver:
    """Writes the line that ``line`` returns for an event to ``output``."""

    def __init__(self, line: Line, output: Output) -> None:
        self._line = line
        self._output = output

    def __call__(self, event: LogEvent) -> None:
        """Write the event, unless it gets no line."""
        text = self._line(event)
        if text is not None:
            self._output.write(f"{text}\n".encode())


def json_observer(stream: TextIO | None = None) -> ILogObserver:
    """Make the observer for ``twistd --logger cortexd.logs.json_observer``.

    The lines go to ``stream``, by default to standard output. This function reads ``sys.stdout``
    now, because twistd replaces it by its own log right afterwards.
    """
    return _observer(json_line, sys.stdout if stream is None else stream)


def text_observer(stream: TextIO | None = None) -> ILogObserver:
    """Make the observer that prints text; arguments as those of ``json_observer``."""
    return _observer(text_line, sys.stdout if stream is None else stream)


def file_observer(path: str) -> tuple[ILogObserver, FileOutput]:
    """Make the observer that writes text to a file of twistd's ``--logfile``, and its output.

    Raises OSError if the file cannot be opened.
    """
    output = FileOutput(path, _notice(text_line))
    return LineObserver(text_line, output), output


def _observer(line: Line, stream: TextIO | None) -> ILogObserver:
    if isinstance(stream, io.TextIOWrapper):
        # Lines are UTF-8 under any locale.
        stream.reconfigure(encoding="utf-8")
    if is_journal(stream, os.environ):
        line = with_priority(line)
    return LineObserver(line, output_to(stream, _notice(line)))


def _notice(line: Line) -> Callable[[int], bytes]:
    def notice(lines: int) -> bytes:
        text = line(dropped(lines))
        return b"" if text is None else f"{text}\n".encode()

    return notice
