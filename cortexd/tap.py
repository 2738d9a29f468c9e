"""`twistd cortex`: its options, and the daemon that they start."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NoReturn

from twisted.application.service import IService
from twisted.python import context, usage

from cortexd import __version__
from cortexd.config import paths, reading
from cortexd.config.reading import ConfigError
from cortexd.config.settings import Config
from cortexd.logs import FlatContextTracker
from cortexd.service.daemon import daemon
from cortexd.service.stages import steady_seconds

YOUNG_OBJECTS = 3_000
"""After how many new objects the garbage collector looks through them: those of some 30 requests.
Python's own 700 are those of seven, and most of what it looked at was still in use."""


class Options(usage.Options):
    """The command line. A mistake in it or in the file ends the process with one line."""

    synopsis = "[--config FILE | --demo] [options]"
    longdesc = "One address in front of a fleet of mistral.rs nodes."
    optParameters: ClassVar[list[list[str | None]]] = [
        ["config", "c", None, "The configuration file."],
        ["listen", None, None, "Where clients connect, instead of gateway.listen."],
        ["metrics-listen", None, None, "Where Prometheus does, instead of gateway.metrics_listen."],
        ["control-socket", None, None, "Where cortexctl does, instead of gateway.control_socket."],
    ]
    optFlags: ClassVar[list[list[str | None]]] = [
        ["demo", None, "Run before three simulated nodes, in a temporary folder."],
        ["check", None, "Only check the configuration."],
    ]

    config: Config | None = None

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Take the options, and the names of the file's keys for them (``--metrics_listen``)."""
        given = sys.argv[1:] if options is None else options
        super().parseOptions([_dashed(option) for option in given])

    def opt_version(self) -> NoReturn:
        """Print cortexd's version and exit."""
        print(f"cortexd {__version__}")  # noqa: T201 - what the option is for
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Read the configuration, the options laid over it."""
        if self["demo"]:
            if self["config"] is not None or self["check"]:
                _give_up("--demo brings its own configuration: leave --config and --check out")
            return
        path = self["config"] or _first_existing(paths.config_candidates(os.environ, os.getuid()))
        try:
            self.config = reading.load(path, self.overrides)
        except ConfigError as error:
            given = ", ".join(f"--{key.replace('_', '-')}" for key in self.overrides)
            _give_up(f"{error} (the command line gives {given})" if given else str(error))
        if self["check"]:
            nodes = len(self.config.nodes)
            words = f"{path}: good, {nodes} {'node' if nodes == 1 else 'nodes'}"
            print(words)  # noqa: T201 - likewise
            raise SystemExit(0)

    @property
    def overrides(self) -> dict[str, str]:
        """The keys of [gateway] that the command line gives, with their values."""
        names = ("listen", "metrics-listen", "control-socket")
        return {name.replace("-", "_"): self[name] for name in names if self[name] is not None}


def _dashed(option: str) -> str:
    name, equals, value = option.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else option


def _first_existing(candidates: Sequence[Path]) -> str:
    for path in candidates:
        if path.exists():
            return str(path)
    looked = " or ".join(str(path) for path in candidates)
    return _give_up(f"no configuration: give --config FILE or --demo (looked for {looked})")


def _give_up(line: str) -> NoReturn:
    print(line, file=sys.stderr)  # noqa: T201 - nothing else is set up yet
    raise SystemExit(1)


def makeService(options: Options) -> IService:
    """Return the daemon as one service, for twistd to run."""
    from twisted.internet import reactor

    context.installContextTracker(FlatContextTracker())
    clock = steady_seconds(time.time, time.monotonic)
    reactor.seconds = clock  # type: ignore[method-assign] # Twisted has no other way yet
    reactor.callWhenRunning(settle_collector)
    try:
        if options.config is None:
            from cortexd.demo import demo_service  # its nodes cost memory that no other start needs

            return demo_service(options.overrides, reactor, os.environ, time.time)
        return daemon(options.config, reactor, os.environ, time.time).service
    except (ConfigError, paths.NoHomeError) as error:
        _give_up(str(error))


def settle_collector() -> None:
    """Let the garbage collector be about what requests make, and about that less often.

    What there is once the daemon has started stays, and to look through it took 50 ms at a time,
    in which nobody was served. To look through new objects took 30 us of each request, now 20.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
