"""One simulated mistral.rs server, the interface for tests, the demo and the benchmarks."""

from collections.abc import Collection, Sequence
from typing import Any, cast
from weakref import WeakSet

from twisted.internet.address import IPv4Address
from twisted.internet.defer import maybeDeferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    IReactorTCP,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource, Resource
from twisted.web.server import Site

from cortexd.testing.answering.streams import EventStream
from cortexd.testing.app import Routes
from cortexd.testing.faults import Faults
from cortexd.testing.front import FrontDoor
from cortexd.testing.journal import Journal
from cortexd.testing.model import SimulatedModel
from cortexd.testing.process import Process, Speed

# A task.Clock starts at 0, but a node's time must look like a date.
FIRST_UNIX_TIME = 1_790_000_000


class SimulatedNode:
    """A server that answers like mistral.rs, including its traps, but has no real models.

    `memory_mb` is the memory of its GPU. A load that does not fit fails with CUDA's error or,
    without `out_of_memory`, succeeds and is recorded as overfilled. An answer takes
    `prompt_seconds` until its first token, with `prompt_token_seconds` more for each token of the
    prompt that is not cached, and `token_seconds` for each further token. A model runs
    `max_sequences` sequences at a time. `version` is the version of mistral.rs that it imitates.
    `starts_loaded` has the ids that start loaded; if it is None, each model's `loaded` applies. It
    may be changed for the next start. All time comes from `clock`.

    Raises ValueError, here and at every start, if the models that start loaded do not fit: the real
    server does not start either.

    Serve `resource()` in memory, or `listen` on a port. `faults` are its settings, and `journal`
    has its events.
    """

    def __init__(
        self,
        clock: IReactorTime,
        *,
        name: str = "node",
        memory_mb: int = 24_576,
        models: Sequence[SimulatedModel],
        token_seconds: float = 0.0,
        prompt_seconds: float = 0.0,
        prompt_token_seconds: float = 0.0,
        keepalive_seconds: float = 10.0,
        max_sequences: int = 32,
        version: str = "0.9.2",
        out_of_memory: bool = True,
        starts_loaded: Collection[str] | None = None,
    ) -> None:
        self.name = name
        self.clock = clock
        self.memory_mb = memory_mb
        self.keepalive_seconds = keepalive_seconds
        self.version = tuple(int(part) for part in version.split("."))
        self.starts_loaded = starts_loaded
        self.faults = Faults()
        self.journal = Journal()
        self.streams: set[EventStream] = set()
        self.process: Process | None = None
        self._models = tuple(models)
        self._speed = Speed(prompt_seconds, prompt_token_seconds, token_seconds)
        self._max_sequences = max_sequences
        self._out_of_memory = out_of_memory
        self._starts = 0
        self._created = 0
        self._site: _NodeSite | None = None
        self._port: IListeningPort | None = None
        self._front = FrontDoor(self, self._routes())
        self._revival: IDelayedCall | None = None
        self._boot()

    @property
    def running_process(self) -> Process:
        """The process that answers; an AssertionError after `close`."""
        assert self.process is not None, f"{self.name} is closed"  # noqa: S101 - a caller's mistake
        return self.process

    @property
    def resident_mb(self) -> int:
        """The MiB in use now: loaded and loading models, memory not yet freed, and leaks."""
        if self.process is None:
            return 0
        return self.process.models.resident_mb(self.clock.seconds())

    @property
    def loaded_models(self) -> tuple[str, ...]:
        """The ids of the loaded models, sorted."""
        return () if self.process is None else self.process.models.loaded

    @property
    def open_streams(self) -> int:
        """The number of open event streams."""
        return len(self.streams)

    def _routes(self) -> Resource:
        """Return the resource that answers the requests that no fault stops."""
        return Routes(self).resource()

    def unix_time(self) -> int:
        """Return the clock's time in unix seconds; FIRST_UNIX_TIME is added if it is not a date."""
        seconds = int(self.clock.seconds())
        return seconds if seconds >= FIRST_UNIX_TIME else FIRST_UNIX_TIME + seconds

    def resource(self) -> IResource:
        """Return the server as a resource, for StubTreq or another Site."""
        return self._front

    async def listen(
        self, reactor: IReactorTCP, port: int = 0, interface: str = "127.0.0.1"
    ) -> int:
        """Serve on a TCP port and return its number; with 0 the system chooses one.

        After `close` this starts a new process. Raises CannotListenError if the port is in use.
        """
        assert self._port is None, f"{self.name} listens already"  # noqa: S101 - a caller's mistake
        if self.process is None:
            self._boot()
            self.journal.record(self.clock.seconds(), "restarted", cut=0)
        site = _NodeSite(self._front, self.clock)
        endpoint = TCP4ServerEndpoint(reactor, port, interface=interface)
        self._port = await endpoint.listen(site)
        self._site = site
        return cast(IPv4Address, self._port.getHost()).port

    async def close(self) -> None:
        """Kill the process: reject new connections, abort open ones, cancel every timer."""
        port, self._port = self._port, None
        self._forget_revival()
        stopped = maybeDeferred(port.stopListening) if port is not None else succeed(None)
        self.journal.record(self.clock.seconds(), "closed", cut=self._kill())
        await stopped

    async def vanish(self, reactor: IReactorTCP, seconds: float) -> None:
        """Close, and listen again after so many seconds, at the same address in a new process."""
        assert self._port is not None, f"{self.name} does not listen"  # noqa: S101 - a caller's mistake
        address = cast(IPv4Address, self._port.getHost())
        await self.close()
        await deferLater(self.clock, seconds)
        await self.listen(reactor, address.port, address.host)

    def die(self) -> None:
        """Kill the process; a new one starts after `faults.fatal_down_seconds` on the same port."""
        self._forget_revival()
        self.journal.record(self.clock.seconds(), "died", cut=self._kill())
        self._revival = self.clock.callLater(self.faults.fatal_down_seconds, self._revive)

    def _forget_revival(self) -> None:
        if self._revival is not None:
            self._revival.cancel()
            self._revival = None

    def _revive(self) -> None:
        self._revival = None
        self._boot()
        self.journal.record(self.clock.seconds(), "restarted", cut=0)

    def restart(self) -> None:
        """Kill the process and start a new one at once, on the same port.

        Every connection is aborted, the models that start loaded are loaded, ids and counters start
        again, stuck ids recover, leaks are freed, and `created` has a new value.
        """
        self._forget_revival()
        cut = self._kill()
        self._boot()
        self.journal.record(self.clock.seconds(), "restarted", cut=cut)

    def _boot(self) -> None:
        self._starts += 1
        # Two starts within one second must have different values.
        self._created = max(self.unix_time(), self._created + 1)
        self.process = Process(
            self.clock,
            models=self._models,
            memory_mb=self.memory_mb,
            speed=self._speed,
            seats=self._max_sequences,
            out_of_memory=self._out_of_memory,
            version=self.version,
            starts_loaded=self.starts_loaded,
            faults=self.faults,
            journal=self.journal,
            number=self._starts,
            created=self._created,
        )

    def _kill(self) -> int:
        process, self.process = self.process, None
        # Abort connections first, so that the streams' last data is not sent.
        self._front.abort_all()
        if self._site is not None:
            self._site.abort_all()
        return 0 if process is None else process.kill()


class _NodeSite(Site):
    """A Site without access log and idle timeout that can abort every connection it has."""

    # Twisted's default may switch to HTTP/2, and hides the connection.
    protocol = HTTPChannel  # type: ignore[assignment] # as declared, it is a function

    def __init__(self, resource: Resource, clock: IReactorTime) -> None:
        super().__init__(resource, reactor=clock, timeout=None, parsePOSTFormSubmission=False)
        self.displayTracebacks = False
        self._channels: WeakSet[Protocol] = WeakSet()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the channel of a new connection, and track it until it closes."""
        channel = super().buildProtocol(addr)
        self._channels.add(channel)
        return channel

    def log(self, request: object) -> None:
        """Write no access log, whose formatting would be a quarter of a request's cost."""

    def abort_all(self) -> None:
        """Abort every connection, idle ones included."""
        for channel in list(self._channels):
            # TLS that has ended cannot be aborted.
            if channel.transport is not None and getattr(channel.transport, "connected", True):
                cast(ITCPTransport, channel.transport).abortConnection()
