"""The interface of a node for its routes and its front door."""

from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from cortexd.testing.answering.streams import EventStream
from cortexd.testing.answering.wire import Version
from cortexd.testing.faults import Faults
from cortexd.testing.journal import Journal
from cortexd.testing.process import Process


class Server(Protocol):
    """A node as its resources see it; `process` is None while the server is down."""

    name: str
    clock: IReactorTime
    faults: Faults
    journal: Journal
    version: Version
    memory_mb: int
    keepalive_seconds: float
    streams: set[EventStream]
    process: Process | None

    @property
    def running_process(self) -> Process:
        """The process that answers; it exists while requests are routed."""

    def die(self) -> None:
        """End the process as a crash does; a new one starts after a while."""

    def unix_time(self) -> int:
        """Return the time in unix seconds."""
