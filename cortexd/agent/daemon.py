"""The agent as one service: its parts, started in order and stopped in reverse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.application.internet import TimerService
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred

from cortexd.agent.asking import EngineClient
from cortexd.agent.devices.thread import DriverThread
from cortexd.agent.devices.watch import DeviceWatch, libraries
from cortexd.agent.handling import Handling
from cortexd.agent.identity import exposures, reach_of
from cortexd.agent.looking.engine_answers import EngineAnswers
from cortexd.agent.looking.engine_process import ProcessWatch
from cortexd.agent.supervising.adopting import RunDirectoryError
from cortexd.agent.supervising.making import engine_control
from cortexd.agent.supervising.terms import process_terms
from cortexd.agent.watching import Watcher
from cortexd.config.addresses import host_and_port
from cortexd.config.agent_reading import engine_of
from cortexd.config.agent_settings import AgentConfig
from cortexd.config.credentials import headers_of
from cortexd.config.tables import ConfigError
from cortexd.link.dialling import Dialler
from cortexd.logs import get_logger
from cortexd.service.log_lines import LogLines
from cortexd.service.stages import Ending, ListenError, SignalService, Stages
from cortexd.service.systemd import Notifier, SystemdService

SETTLE_SECONDS: Final = 600.0
"""How often memory is given back that a connection or a restart of the engine has needed."""

APPLIED: Final = frozenset({"agent"})
"""The tables that a reload applies; the others wait for a restart."""

log = get_logger("cortexd.agent")


class AgentDaemon:
    """The agent that ``config`` describes, not yet started: ``service`` runs it.

    ``read`` reads the file again, for SIGHUP. ``settle`` is called after the first look, and every
    SETTLE_SECONDS from then on. The gateway, the engine and the libraries of accelerators may all
    be missing. Raises ConfigError for files of the configuration that cannot be read.
    """

    def __init__(
        self,
        config: AgentConfig,
        reactor: Any,
        environ: Mapping[str, str],
        read: Callable[[], AgentConfig],
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self.config = config
        self._reactor = reactor
        self._environ = environ
        self._read = read
        self._settle = settle
        settings = config.engine
        address, identity = reach_of(config.agent)
        engine = engine_of(settings)
        client = EngineClient(
            reactor,
            settings.endpoint,
            headers_of(engine, settings.api_key_file, "engine.api_key_file"),
        )
        answers = EngineAnswers(reactor, engine, client)
        self.control = engine_control(
            reactor,
            process_terms(settings, config.power, identity.node, environ),
            answers,
            environ,
        )
        self.watcher = Watcher(
            reactor,
            config.agent.interval,
            self.control,
            answers,
            ProcessWatch(reactor, self.control, host_and_port(settings.endpoint)),
            DeviceWatch(reactor, libraries(config.gpu.source), DriverThread(reactor)),
            lambda report: self.dialler.report(report),
        )
        handling = Handling(self.watcher, self.control)
        self.dialler = Dialler(reactor, address, identity, handling)
        self._log_lines = LogLines(reactor, config.agent.log_level, lambda lines: None)
        self.service = self._staged(client)

    def _staged(self, client: EngineClient) -> Stages:
        """Return the stages: the engine starts first, and stops last of those that matter to it."""
        stages = Stages((ListenError, RunDirectoryError))
        stages.stage(self._log_lines)
        stages.stage(Ending(client.close))
        stages.stage(self.control.service)
        stages.stage(self.dialler)
        stages.stage(self.watcher)
        stages.stage(SignalService(self._reactor, hurry=lambda: None, reload=self.reload))
        stages.stage(_AfterFirstLook(self.watcher.first, self._ready, stages))
        return stages

    def _ready(self) -> MultiService:
        """Return what tells systemd that the agent is ready, and goes on to."""
        self._warn()
        ready = MultiService()
        settling = TimerService(SETTLE_SECONDS, self._settle)
        settling.clock = self._reactor
        settling.setServiceParent(ready)
        notifying = SystemdService(
            self._reactor,
            Notifier(self._environ),
            self._environ,
            healthy=lambda: self.watcher.is_alive,
            ready_status="watching the engine",
        )
        notifying.setServiceParent(ready)
        return ready

    def _warn(self) -> None:
        """Warn of secret files that every user may read."""
        for advice in exposures(self.config.agent):
            log.warning("secret_file_exposed", advice=advice)

    def reload(self) -> None:
        """Read the file again. A wrong file changes nothing; some keys wait for a restart."""
        try:
            config = self._read()
            reach = reach_of(config.agent)
        except ConfigError as error:
            log.warning("reload_refused", reason=str(error))
            return
        before, self.config = self.config, config
        self._warn()
        self._log_lines.set_level(config.agent.log_level)
        self.watcher.interval = config.agent.interval
        if reach != (self.dialler.address, self.dialler.identity):
            self.dialler.address, self.dialler.identity = reach
            self.dialler.redial()
        waiting = [
            table
            for table in config.__struct_fields__
            if table not in APPLIED and getattr(config, table) != getattr(before, table)
        ]
        log.info("reloaded", wait_for_restart=waiting)


class _AfterFirstLook(Service):
    """Adds a service to ``stages`` once the first look is over."""

    def __init__(self, first: Deferred[None], make: Callable[[], Service], stages: Stages) -> None:
        first.addCallback(self._looked)
        self._make = make
        self._stages = stages

    def _looked(self, _: None) -> None:
        if self.running:
            self._stages.stage(self._make())
