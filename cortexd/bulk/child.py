"""The process that translates large bodies: it does one job after the other until the daemon ends.

``cortexd.bulk.process`` starts it. It has its own memory, which goes back to the system when it
ends, and it is the first process that the kernel ends where memory is short.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from cortexd.bulk import jobs
from cortexd.bulk.frames import Channel
from cortexd.bulk.jobs import Desk
from cortexd.errors import BodyTooLarge, CortexError

COMMAND: Final = "from cortexd.bulk.child import main; main()"
RENEWED_BYTES: Final = 192 * 1024 * 1024
"""A process that has held so much memory ends after its request: not all of it would be freed."""

_LIKELY_KILLED: Final = "600"


class Answer(NamedTuple):
    """The end of a job: its ``result``, or the error it has raised, or a traceback of ours.

    With ``is_last``, the process ends once its request has left the desk.
    """

    result: Any = None
    error: CortexError | None = None
    crash: str = ""
    is_last: bool = False


def answer(desk: Desk, job: Callable[..., Any], arguments: list[Any]) -> Answer:
    """Do one job."""
    try:
        return Answer(job(desk, *arguments))
    except CortexError as error:
        return Answer(error=error)
    except MemoryError:
        desk.request = None
        return Answer(error=BodyTooLarge("the body needs too much memory to be translated"))
    except Exception:
        return Answer(crash=traceback.format_exc())


def resident_bytes() -> int:
    """Return the memory of this process; 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    return 0


def serve(channel: Channel) -> None:
    """Do jobs until the other side is gone, or until this process should be renewed."""
    desk = Desk()
    while True:
        job, arguments = channel.receive()
        done = answer(desk, job, arguments)
        if job is jobs.clear:
            gc.collect()
        del arguments
        channel.send(done._replace(is_last=resident_bytes() > RENEWED_BYTES))
        del done


def main() -> None:
    """Serve the daemon; the arguments are two descriptors of files and a limit in bytes."""
    file_in, file_out, most_bytes = map(int, sys.argv[1:])
    # The daemon alone ends this process, by closing its pipe: requests in progress need it.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_LIKELY_KILLED, encoding="ascii")
    # Values have no cycles, and scanning them takes as long as making them: see ``jobs.clear``.
    gc.disable()
    gc.freeze()
    with contextlib.suppress(EOFError, BrokenPipeError):
        serve(Channel(0, 1, file_in, file_out))
