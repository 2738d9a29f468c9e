"""One simulated mistral.rs server: what tests, the demo and the benchmarks hold in their hands."""

from collections.abc import Collection, Sequence
from typing import Any, cast
from weakref import WeakSet

from twisted.internet.address import IPv4Address
from twisted.internet.defer import maybeDeferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import (
    IAddress,
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
from cortexd.testing.process import Process

# A task.Clock starts at 0, which is no date; a node's must look like one.
FIRST_UNIX_TIME = 1_790_000_000


class SimulatedNode:
    """A server that answers as mistral.rs does, its traps included, without any model.

    `memory_mb` is its GPU's; a load that does not fit fails as CUDA does, or, without
    `out_of_memory`, succeeds and is journalled as overfilled. An answer takes `prompt_seconds`
    to its first token and `token_seconds` for each further one; a model has `max_sequences` seats.
    `version` is that of the mistral.rs it imitates. `starts_loaded` has the ids that start loaded;
    without it each model says so itself. It may be set anew for the next start. Time is `clock`'s
    alone.

    Raises ValueError, here and at every start, where the models that start loaded do not fit: the
    real server does not start then.

    Serve `resource()` in memory, or `listen` on a port. `faults` are its knobs, `journal` what it
    saw and did.
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
        self._prompt_seconds = prompt_seconds
        self._token_seconds = token_seconds
        self._max_sequences = max_sequences
        self._out_of_memory = out_of_memory
        self._starts = 0
        self._created = 0
        self._site: _NodeSite | None = None
        self._port: IListeningPort | None = None
        self._front = FrontDoor(self, self._routes())
        self._boot()

    @property
    def running_process(self) -> Process:
        """The process that answers; an AssertionError after `close`."""
        assert self.process is not None, f"{self.name} is closed"  # noqa: S101 - a caller's mistake
        return self.process

    @property
    def resident_mb(self) -> int:
        """MiB taken now: models loaded and loading, memory not yet given back, and leaks."""
        if self.process is None:
            return 0
        return self.process.models.resident_mb(self.clock.seconds())

    @property
    def loaded_models(self) -> tuple[str, ...]:
        """The ids of the models loaded now, sorted."""
        return () if self.process is None else self.process.models.loaded

    @property
    def open_streams(self) -> int:
        """How many event streams are open now."""
        return len(self.streams)

    def _routes(self) -> Resource:
        """Give what answers the requests that no fault keeps."""
        return Routes(self).resource()

    def unix_time(self) -> int:
        """Give the clock's time in unix seconds, from FIRST_UNIX_TIME on where it is no date."""
        seconds = int(self.clock.seconds())
        return seconds if seconds >= FIRST_UNIX_TIME else FIRST_UNIX_TIME + seconds

    def resource(self) -> IResource:
        """Give the server as a resource, for StubTreq or a Site of one's own."""
        return self._front

    async def listen(
        self, reactor: IReactorTCP, port: int = 0, interface: str = "127.0.0.1"
    ) -> int:
        """Serve on a TCP port and give its number; 0 lets the system choose.

        After `close` this starts a new process. Raises CannotListenError if the port is taken.
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
        """Kill the process: refuse connections, abort the open ones, cancel every timer."""
        port, self._port = self._port, None
        stopped = maybeDeferred(port.stopListening) if port is not None else succeed(None)
        self.journal.record(self.clock.seconds(), "closed", cut=self._kill())
        await stopped

    async def vanish(self, reactor: IReactorTCP, seconds: float) -> None:
        """Close, and after so many seconds listen anew at the same address, in a new process."""
        assert self._port is not None, f"{self.name} does not listen"  # noqa: S101 - a caller's mistake
        address = cast(IPv4Address, self._port.getHost())
        await self.close()
        await deferLater(self.clock, seconds)
        await self.listen(reactor, address.port, address.host)

    def restart(self) -> None:
        """Kill the process and start it anew at once, on the same port.

        Every connection is aborted, the models that start loaded are, ids and counters begin anew,
        stuck ids are healed, leaks are gone, and `created` is another.
        """
        cut = self._kill()
        self._boot()
        self.journal.record(self.clock.seconds(), "restarted", cut=cut)

    def _boot(self) -> None:
        self._starts += 1
        # Two starts within one second must differ all the same.
        self._created = max(self.unix_time(), self._created + 1)
        self.process = Process(
            self.clock,
            models=self._models,
            memory_mb=self.memory_mb,
            prompt_seconds=self._prompt_seconds,
            token_seconds=self._token_seconds,
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
        # Connections first: what the streams still write while they are cut must not go out.
        self._front.abort_all()
        if self._site is not None:
            self._site.abort_all()
        return 0 if process is None else process.kill()


class _NodeSite(Site):
    """A Site without access log and idle timeout that can abort every connection it has."""

    # Twisted's own, which may become HTTP/2, hides the connection.
    protocol = HTTPChannel  # type: ignore[assignment] # as declared, it is a function

    def __init__(self, resource: Resource, clock: IReactorTime) -> None:
        super().__init__(resource, reactor=clock, timeout=None, parsePOSTFormSubmission=False)
        self.displayTracebacks = False
        self._channels: WeakSet[Protocol] = WeakSet()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Give the channel of a new connection, and remember it as long as it lives."""
        channel = super().buildProtocol(addr)
        self._channels.add(channel)
        return channel

    def log(self, request: object) -> None:
        """Write no access log: formatting it would be a quarter of a request's cost."""

    def abort_all(self) -> None:
        """Abort every connection, idle ones included."""
        for channel in list(self._channels):
            if channel.transport is not None:
                cast(ITCPTransport, channel.transport).abortConnection()
