"""`twistd cortex-agent`: its options, and the service that they start."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NoReturn

from twisted.application.service import IService
from twisted.python import context, usage

from cortexd import __version__
from cortexd.agent.daemon import AgentDaemon
from cortexd.agent.identity import expiries, exposures, reach_of
from cortexd.agent.settling import settle
from cortexd.config import agent_reading
from cortexd.config.agent_settings import AgentConfig
from cortexd.config.tables import ConfigError
from cortexd.logs import FlatContextTracker
from cortexd.service.heartbeat import SteadyClock
from cortexd.service.launch import Launch, LaunchError, remove_stale_pidfile

DEFAULT_PATH = "/etc/cortex/agent.toml"


class Options(usage.Options):
    """The command line. An error in it, or in the file, prints one line and exits."""

    synopsis = "[--config FILE] [options]"
    longdesc = "Watches the engine of this machine, restarts it, and reports to a cortex gateway."
    optParameters: ClassVar[list[list[str | None]]] = [
        ["config", "c", DEFAULT_PATH, "The configuration file."],
    ]
    optFlags: ClassVar[list[list[str | None]]] = [
        ["check", None, "Check the configuration and exit."],
    ]

    config: AgentConfig
    path = ""

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the options."""
        try:
            super().parseOptions(sys.argv[1:] if options is None else options)
        except usage.UsageError as error:  # twistd before Twisted 26.10 would end with status 0
            _give_up(f"twistd cortex-agent: {error} (see --help)")

    def opt_version(self) -> NoReturn:
        """Print cortexd's version and exit."""
        print(f"cortexd {__version__}")  # noqa: T201 - the purpose of the option
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Read the configuration."""
        twistd = getattr(self, "parent", None)
        if twistd is not None and twistd.get("pidfile"):
            remove_stale_pidfile(Path(twistd["pidfile"]))
        self.path = str(Path(self["config"]).absolute())  # twistd changes its directory
        try:
            self.config = agent_reading.load(self["config"])
            if self["check"]:
                self._check()
        except ConfigError as error:
            _give_up(str(error))

    def _check(self) -> NoReturn:
        """Print what the configuration comes to, and exit. Raises ConfigError."""
        (host, port), identity = reach_of(self.config.agent)
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [
            f"{self['config']}: valid, the agent of {identity.node} at {shown}",
            *agent_reading.summary(self.config),
            *(f"warning: {each}" for each in exposures(self.config.agent)),
            *(f"warning: {each}" for each in expiries(identity, time.time())),
        ]
        print("\n".join(lines))  # noqa: T201 - likewise
        raise SystemExit(0)

    def read(self) -> AgentConfig:
        """Read the file again, for a reload. Raises ConfigError."""
        return agent_reading.load(self.path)


def _give_up(line: str) -> NoReturn:
    print(line, file=sys.stderr)  # noqa: T201 - no log exists yet
    raise SystemExit(1)


def makeService(options: Options) -> IService:
    """Return the agent as one service, for twistd to run."""
    from twisted.internet import reactor

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the agent can reload
    context.installContextTracker(FlatContextTracker())
    clock = SteadyClock(time.time, time.monotonic)
    reactor.seconds = clock.seconds  # type: ignore[method-assign] # Twisted has no other way yet
    launch = Launch(getattr(options, "parent", None))
    try:
        made = AgentDaemon(options.config, reactor, os.environ, options.read, settle)
        made.service.observer = launch.observer(reactor)
    except (ConfigError, LaunchError) as error:
        _give_up(str(error))
    made.service.give_up = launch.give_up
    reactor.callWhenRunning(launch.done)
    return made.service
