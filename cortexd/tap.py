"""`twistd cortex`: its options, and the assembly of the daemon from its parts."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from OpenSSL.crypto import Error as SSLError
from twisted.application.service import IService
from twisted.internet.endpoints import serverFromString
from twisted.python import context, usage
from twisted.web.server import Site

from cortexd import __version__, config, paths
from cortexd.accounting import Accountant
from cortexd.addresses import endpoint_description
from cortexd.allocator import SchedulingTerms
from cortexd.attempt import Patience
from cortexd.catalogue import Catalogue
from cortexd.config import ConfigError
from cortexd.connections import make_http_client
from cortexd.control import ControlFactory
from cortexd.control_socket import ControlSocketError, control_service
from cortexd.credentials import credentials_of
from cortexd.dialects.profile import MidSystem, Profile, ReasoningControl, Speaks, ToolIdFormat
from cortexd.dispatcher import Dispatcher
from cortexd.fleet import Fleet
from cortexd.fleet_metrics import FleetCollector
from cortexd.footprints import Footprints
from cortexd.gateway import Gateway
from cortexd.http_server import GatewaySite
from cortexd.lifecycle import Lifecycle, LifecycleTerms
from cortexd.logs import FlatContextTracker
from cortexd.metrics import Metrics, MetricsResource
from cortexd.nodes import ModelTerms, NodeTerms
from cortexd.placement import EvictionTerms
from cortexd.poller import Poller
from cortexd.profiles import Profiles
from cortexd.recorder import Recorder
from cortexd.relay import Relay
from cortexd.scheduler import Scheduler
from cortexd.services import (
    Ending,
    ListenError,
    ListeningService,
    SignalService,
    Stages,
    steady_seconds,
)
from cortexd.settings import Config, ModelSettings
from cortexd.store_file import StoreError
from cortexd.systemd import Notifier, SystemdService
from cortexd.token_counts import TokenCounts
from cortexd.upstream import NodeClient

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
            self.config = config.load(path, self.overrides)
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
            from cortexd.demo import demo_service

            return demo_service(options.overrides, reactor)
        return daemon(options.config, reactor, os.environ).service
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


@dataclass(frozen=True, slots=True)
class Daemon:
    """The assembled daemon: ``service`` runs it, ``listener`` and ``metrics_listener`` listen."""

    service: Stages
    fleet: Fleet
    listener: ListeningService
    metrics_listener: ListeningService


def daemon(settings: Config, reactor: Any, environ: Mapping[str, str]) -> Daemon:
    """Return the daemon that ``settings`` describe, not yet started.

    Raises ConfigError where an address cannot be used, and NoHomeError where there is no place
    for the control socket.
    """
    gateway_settings, polling = settings.gateway, settings.polling
    started_at = time.time()
    metrics = Metrics()
    scheduler = make_scheduler(settings, reactor.seconds())
    metrics.registry.register(FleetCollector(scheduler, reactor))
    dispatcher = Dispatcher(scheduler, reactor, metrics)
    fleet = scheduler.fleet
    recorder = Recorder(
        dispatcher,
        metrics,
        Path(gateway_settings.state_dir or paths.state_dir(environ, os.getuid())),
        time.time,
    )
    named = [model.id for model in settings.models]
    named += [model for pinned in settings.pins.values() for model in pinned]
    catalogue = Catalogue(fleet, settings.aliases, named)
    http, pool = make_http_client(reactor, gateway_settings.connect_timeout)
    clients = {
        node.name: NodeClient(
            node.name,
            node.endpoint,
            http,
            reactor,
            speaks_messages_alone=node.speaks_messages_alone,
            credentials=credentials_of(node),
        )
        for node in settings.nodes
    }
    accountant = Accountant(metrics, reactor)
    profiles = make_profiles(settings, fleet)
    relay = Relay(
        clients,
        dispatcher,
        accountant,
        reactor,
        Patience(
            hold=gateway_settings.hold_seconds,
            keepalive=gateway_settings.keepalive_seconds,
            upstream=gateway_settings.upstream_timeout,
        ),
        profiles,
    )
    gateway = Gateway(
        dispatcher,
        catalogue,
        relay,
        profiles,
        TokenCounts(
            fleet,
            catalogue,
            profiles,
            clients,
            {each.id: each.image_tokens for each in settings.models if each.image_tokens},
        ),
        accountant,
        reactor,
        int(started_at),
        allow_http_control=gateway_settings.allow_http_control,
    )
    site = GatewaySite(gateway.resource(), reactor, gateway_settings.max_body_mb * 1024 * 1024)
    metrics_site = Site(MetricsResource(metrics), reactor=reactor)
    metrics_site.log = lambda request: None  # type: ignore[method-assign] # no access log
    listener = _listening("gateway.listen", gateway_settings.listen, site, reactor)
    metrics_listener = _listening(
        "gateway.metrics_listen", gateway_settings.metrics_listen, metrics_site, reactor
    )

    async def drain() -> None:
        await gateway.drain(gateway_settings.grace_seconds)
        await site.close_connections()

    lifecycle = Lifecycle(
        dispatcher,
        clients,
        recorder,
        reactor,
        LifecycleTerms(
            load_timeout=settings.scheduling.load_timeout,
            sweep_interval=settings.eviction.interval,
        ),
    )
    stages = Stages(expected=(ListenError, ControlSocketError, StoreError))
    stages.stage(Ending(pool.closeCachedConnections))
    stages.stage(metrics_listener)
    stages.stage(recorder)
    stages.stage(
        control_service(
            reactor,
            gateway_settings.control_socket or str(paths.control_socket(environ, os.getuid())),
            gateway_settings.control_mode,
            ControlFactory(dispatcher, recorder, reactor, started_at, settings.aliases),
        )
    )
    stages.stage(lifecycle)
    stages.stage(
        Poller(
            dispatcher,
            clients,
            reactor,
            metrics,
            interval=polling.interval,
            timeout=polling.timeout,
            system_info_interval=polling.system_info_interval,
        )
    )
    stages.stage(Ending(drain))
    stages.stage(listener)
    stages.stage(SignalService(reactor, hurry=gateway.cut))
    stages.stage(SystemdService(reactor, Notifier(environ), environ))
    return Daemon(stages, fleet, listener, metrics_listener)


def make_profiles(settings: Config, fleet: Fleet) -> Profiles:
    """Return what each replica of the fleet can do, as far as ``settings`` say it."""

    def profile_of(model: ModelSettings) -> Profile:
        return Profile(
            context_window=model.context_window,
            max_output=model.max_output_tokens,
            vision=model.vision is not False,
            reasoning_control=ReasoningControl(model.reasoning_control),
            mid_system=MidSystem(model.mid_system),
            tool_id_format=ToolIdFormat(model.tool_id_format),
            alternate=model.alternate,
            inline_thinking=model.inline_thinking,
            fetches_images=settings.gateway.allow_image_urls,
        )

    speaks = {
        node.name: Speaks.MESSAGES if node.speaks_messages_alone else Speaks.BOTH
        for node in settings.nodes
        if node.speaks_messages_alone or node.anthropic == "native"
    }
    models = {model.id: profile_of(model) for model in settings.models}
    return Profiles(fleet, speaks, models, profile_of(ModelSettings(id="any")))


def make_scheduler(settings: Config, now: float) -> Scheduler:
    """Return the scheduler, over the fleet that ``settings`` describe."""
    eviction, scheduling = settings.eviction, settings.scheduling

    def terms_of(model: ModelSettings) -> ModelTerms:
        ttl = eviction.idle_ttl if model.ttl is None else model.ttl
        return ModelTerms(model.max_concurrency, model.priority, ttl)

    fleet = Fleet(
        [
            NodeTerms(
                node.name,
                node.endpoint,
                node.budget_mb,
                node.max_resident,
                settings.pins[node.name],
                is_managed=not node.speaks_messages_alone,
            )
            for node in settings.nodes
        ],
        {model.id: terms_of(model) for model in settings.models},
        Footprints(settings.footprint_mb, {}),
        default_terms=terms_of(ModelSettings(id="any")),
        now=now,
        down_after=settings.polling.down_after,
        load_timeout=scheduling.load_timeout,
    )
    return Scheduler(
        fleet,
        SchedulingTerms(
            max_queue=scheduling.max_queue,
            queue_timeout=scheduling.queue_timeout,
            max_wait=scheduling.max_wait,
            defrag_after_cycles=eviction.defrag_after_cycles,
            eviction=EvictionTerms(eviction.strategy, scheduling.min_residency),
        ),
    )


def _listening(key: str, listen: str, factory: Any, reactor: Any) -> ListeningService:
    try:
        endpoint = serverFromString(reactor, endpoint_description(listen))
    except LookupError:  # what Twisted looks for is what systemd has named or numbered
        reason: object = (
            "systemd has not handed over this socket; cortexd must be started by a unit with such "
            "a .socket"
        )
    except (ValueError, TypeError, AttributeError, OSError, SSLError) as error:
        reason = error
    else:
        return ListeningService(endpoint, factory, f"{key} = {listen!r}")
    raise ConfigError(f"{key}: {listen!r} cannot be listened on: {reason}")
