"""`twistd cortex`: its options, and the service that they start."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NoReturn

from cryptography import x509
from twisted.application.service import IService
from twisted.internet.interfaces import IReactorTime
from twisted.python import context, usage

from cortexd import __version__, terms
from cortexd.config import paths, reading
from cortexd.config.expiry import OF_THE_LINK, Validity
from cortexd.config.keys_file import lack_of_keys
from cortexd.config.node_tls import agents_tls, tls_of
from cortexd.config.reading import ConfigError
from cortexd.config.settings import Config
from cortexd.logs import FlatContextTracker
from cortexd.service.accepting import raise_open_files
from cortexd.service.daemon import daemon
from cortexd.service.heartbeat import SteadyClock
from cortexd.service.launch import Launch, LaunchError, remove_stale_pidfile
from cortexd.service.watching import findings
from cortexd.text import counted

YOUNG_OBJECTS = 3_000
"""The number of new objects after which the garbage collector runs: those of about 30 requests.
Python's default of 700 objects is about seven requests, most of which were still in use."""

FLEET_SECONDS = 60.0
"""When the first polls of every fleet have ended, and what it lists stays in use."""

NEVER = 1_000_000
"""More collections of younger objects than a minute has."""

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
"""The numbers of glibc's ``mallopt`` (malloc.h)."""

MAPPED_BYTES = 512 * 1024
"""The size from which a text has memory of its own. By default this size grows up to 32 MiB with
each text that is freed, and the rest of the heap then keeps the memory."""


class Options(usage.Options):
    """The command line. An error in it, or in the file, prints one line and exits."""

    synopsis = "[--config FILE | --demo] [options]"
    longdesc = "One address in front of a fleet of mistral.rs nodes."
    optParameters: ClassVar[list[list[str | None]]] = [
        ["config", "c", None, "The configuration file."],
        ["listen", None, None, "The address for clients, instead of gateway.listen."],
        [
            "metrics-listen",
            None,
            None,
            "The one for Prometheus, instead of gateway.metrics_listen.",
        ],
        ["control-socket", None, None, "The one for cortexctl, instead of gateway.control_socket."],
    ]
    optFlags: ClassVar[list[list[str | None]]] = [
        ["demo", None, "Run with three simulated nodes, in a temporary folder."],
        ["check", None, "Check the configuration and exit."],
    ]

    config: Config | None = None
    path = ""

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the options; the file's spelling of a key works too (``--metrics_listen``)."""
        given = sys.argv[1:] if options is None else options
        try:
            super().parseOptions([_dashed(option) for option in given])
        except usage.UsageError as error:  # twistd before Twisted 26.10 would end with status 0
            _give_up(f"twistd cortex: {error} (see --help)")

    def opt_version(self) -> NoReturn:
        """Print cortexd's version and exit."""
        print(f"cortexd {__version__}")  # noqa: T201 - the purpose of the option
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Read the configuration, and apply the options to it."""
        twistd = getattr(self, "parent", None)
        if twistd is not None and twistd.get("pidfile"):
            remove_stale_pidfile(Path(twistd["pidfile"]))
        if self["demo"]:
            if self["config"] is not None or self["check"]:
                _give_up("--demo has its own configuration: leave out --config and --check")
            return
        path = self["config"] or _first_existing(paths.config_candidates(os.environ, os.getuid()))
        self.path = str(Path(path).absolute())  # twistd changes its directory
        try:
            self.config = reading.load(path, self.overrides)
        except ConfigError as error:
            given = ", ".join(f"--{key.replace('_', '-')}" for key in self.overrides)
            _give_up(f"{error} (the command line gives {given})" if given else str(error))
        if self["check"]:
            self._check(path, self.config)

    def _check(self, path: str, config: Config) -> NoReturn:
        """Print what the configuration comes to, and exit."""
        try:
            now = time.time()
            found = [*findings(config, now), *_found_of_keys(config), *_found_of_links(config, now)]
        except ConfigError as error:
            _give_up(f"{path}: {error}")
        nodes = len(config.nodes)
        words = f"{path}: valid, {counted(nodes, 'nodes')}"
        print("\n".join([words, *found]))  # noqa: T201 - likewise
        raise SystemExit(0)

    def read(self) -> Config:
        """Read the file again, for a reload. Raises ConfigError."""
        return reading.load(self.path, self.overrides)

    @property
    def overrides(self) -> dict[str, str]:
        """The keys and values of [gateway] on the command line."""
        names = ("listen", "metrics-listen", "control-socket")
        return {name.replace("-", "_"): self[name] for name in names if self[name] is not None}


def _found_of_keys(config: Config) -> Iterator[str]:
    """Yield what a check shows of the keys file. Raises ConfigError."""
    keys, warning = terms.keys(config), terms.exposure(config)
    if keys is not None:
        yield f"auth.keys_file: {counted(len(keys), 'keys')}"
    if keys == () and config.auth.keys_file is not None:
        yield f"warning: {lack_of_keys(config.auth.keys_file)}"
    if warning is not None:
        yield f"warning: {warning}"


def _found_of_links(config: Config, now: float) -> Iterator[str]:
    """Yield what a check shows of the files for agents and nodes. Raises ConfigError."""
    for node in config.nodes:
        tls_of(node)
    files = agents_tls(config.agents)
    if files is None:
        return
    own = x509.load_der_x509_certificate(files.chain[0])
    validity = Validity(own.not_valid_before_utc.timestamp(), own.not_valid_after_utc.timestamp())
    warning = validity.warning(now, OF_THE_LINK)
    if warning is None:
        yield f"agents.listen: certificate {validity.words(now)}"
    else:
        yield f"warning: the gateway's certificate for agents {warning}"


def _dashed(option: str) -> str:
    name, equals, value = option.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else option


def _first_existing(candidates: Sequence[Path]) -> str:
    for path in candidates:
        if path.exists():
            return str(path)
    looked = " or ".join(str(path) for path in candidates)
    return _give_up(f"no configuration found: use --config FILE or --demo (looked for {looked})")


def _give_up(line: str) -> NoReturn:
    print(line, file=sys.stderr)  # noqa: T201 - no log exists yet
    raise SystemExit(1)


def makeService(options: Options) -> IService:
    """Return the daemon as one service, for twistd to run."""
    from twisted.internet import reactor

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the daemon can reload
    context.installContextTracker(FlatContextTracker())
    clock = SteadyClock(time.time, time.monotonic)
    reactor.seconds = clock.seconds  # type: ignore[method-assign] # Twisted has no other way yet
    reactor.callWhenRunning(settle_collector, reactor)
    settle_allocator()
    raise_open_files()
    launch = Launch(getattr(options, "parent", None))
    try:
        if options.config is None:
            from cortexd.demo import demo_service  # imported only here: the nodes need memory

            service = demo_service(options.overrides, reactor, os.environ, time.time, clock)
        else:
            made = daemon(options.config, reactor, os.environ, time.time, clock, options.read)
            service = made.service
        service.observer = launch.observer(reactor)
    except (ConfigError, paths.NoHomeError, LaunchError) as error:
        _give_up(str(error))
    service.give_up = launch.give_up
    reactor.callWhenRunning(launch.done)
    return service


def settle_allocator() -> None:
    """Have large texts freed to the system at once: glibc keeps their memory after the first."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
        mallopt(M_TRIM_THRESHOLD, MAPPED_BYTES)
    except (OSError, AttributeError, MemoryError):
        return  # another C library, which has ways of its own


def settle_collector(clock: IReactorTime) -> None:
    """Restrict garbage collection to the objects of requests, and make it less frequent.

    The objects that exist after the start stay in use. Scanning them took 50 ms at a time, during
    which no request was served. Scanning new objects took 30 us of each request, now 20. A large
    fleet becomes known in the first polls only, so old objects are not scanned before that.
    """
    gc.collect()
    gc.freeze()
    _, middle, old = gc.get_threshold()
    gc.set_threshold(YOUNG_OBJECTS, middle, NEVER)

    def settle_fleet() -> None:
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS, middle, old)

    clock.callLater(FLEET_SECONDS, settle_fleet)
