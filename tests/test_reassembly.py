"""After a reload the daemon is what a start with the new file would have made of it."""

from __future__ import annotations

import functools
import shutil
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from twisted.internet.task import LoopingCall
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.config import reading
from cortexd.config.changes import AT_RESTART, changes
from cortexd.config.settings import Config, ModelSettings, NodePowerSettings, NodeSettings
from cortexd.fleet.footprints import Footprints
from cortexd.service.daemon import Daemon, daemon
from tests.doubles.authorities import CLIENT, Authority
from tests.doubles.certificates import write_certificate

TEXT = """
[gateway]
state_dir = "/var/lib/cortex"
control_socket = "/run/cortex/control.sock"
[[nodes]]
name = "a"
endpoint = "http://10.0.0.1:8080"
vram_mb = 1000
[[nodes]]
name = "b"
endpoint = "http://10.0.0.2:8080"
vram_mb = 1000
[[models]]
id = "x"
aliases = ["fast"]
"""
KEYS = f"""
[[keys]]
name = "alice"
id = "alice0000000"
hash = "$scrypt$ln=1,r=8,p=1${"A" * 22}${"A" * 43}"
"""
STARTED_AT = 1_790_000_000.5

OTHERS: Mapping[str, Any] = {
    "gateway.listen": "127.0.0.1:8001",
    "gateway.metrics_listen": "127.0.0.1:9101",
    "gateway.http_listen": "127.0.0.1:8002",
    "gateway.control_socket": "/run/cortex/other.sock",
    "gateway.control_mode": "600",
    "gateway.state_dir": "/var/lib/other",
    "gateway.cors_origins": ("http://localhost:3000",),
    "gateway.hosts": ("gateway.example",),
    "gateway.trusted_proxies": ("10.0.0.0/8",),
    "gateway.max_clients": 100,
    "gateway.log_level": "warning",
    "eviction.strategy": "priority",
    "agents.listen": "127.0.0.1:8700",
    "agents.names": ("gateway.example",),
    "gateway.models_status": "object",
    "gateway.prompt_hygiene": "off",
    "nodes.name": "c",
    "nodes.endpoint": "http://10.0.0.3:8080",
    "nodes.pinned": ("x",),
    "nodes.models": {"x": 300},
    "nodes.engine": "anthropic",
    "nodes.dialect": "anthropic",
    "nodes.anthropic": "native",
    "nodes.responses": "native",
    "nodes.labels": ("fast",),
    "nodes.power": NodePowerSettings(wake="00:1b:21:3a:4f:5e", suspend=("true",)),
    "models.id": "y",
    "models.aliases": ("slow",),
    "models.pinned_on": ("a",),
    "models.only_on": ("fast",),
    "models.prefer": ("fast",),
    "models.reasoning_control": "effort",
    "models.ttl": 5.0,
    "models.vram_mb": 300,
    "models.efforts": ("low",),
    "models.mid_system": "hoist",
    "models.tool_id_format": "mistral9",
}
"""Another value of each key whose type does not show one."""

FILES = {
    "auth.keys_file": "keys.toml",
    "nodes.api_key_file": "key",
    "nodes.ca_file": "ca.pem",
    "nodes.client_certificate": "client.crt",
    "nodes.client_key": "client.key",
    "gateway.tls_certificate": "gateway.pem",
    "gateway.tls_key": "gateway.key",
    "agents.certificate": "client.crt",
    "agents.key": "client.key",
    "agents.ca": "ca.pem",
}
"""Files, by the keys whose other values are their paths; the test writes them."""

BESIDE = {
    "nodes.client_certificate": ("nodes.client_key",),
    "nodes.client_key": ("nodes.client_certificate",),
    "gateway.tls_certificate": ("gateway.tls_key",),
    "gateway.tls_key": ("gateway.tls_certificate",),
    "agents.certificate": ("agents.key", "agents.ca"),
    "agents.key": ("agents.certificate", "agents.ca"),
    "agents.ca": ("agents.certificate", "agents.key"),
}
"""Keys that mean something only beside others, which both configurations then have."""

READ_WHEN_NEEDED = {"gateway.grace_seconds", "auth.open", "agents.names"}
"""Keys that no part holds: they are read from the configuration in effect."""

OF_A_COURSE = {
    *("since", "failures", "is_heard", "reason", "effects", "_urls", "booked_by"),
    *("_secrets", "_secret", "_decoy", "generation", "_generation"),
    *("_made", "_shared", "_joined", "_left", "_timer", "_born", "_most_born", "_told"),
}
"""Attributes that change as time passes, and caches."""

UNREADABLE = (type(None), bool, int, float, str, bytes)


class Reactor(MemoryReactorClock):
    """A reactor whose threads are this one."""

    def getThreadPool(self) -> Reactor:
        return self

    def callInThreadWithCallback(self, result: Callable[..., None], call: Any) -> None:
        try:
            found = call()
        except Exception as error:
            result(False, _failure(error))
        else:
            result(True, found)

    def callFromThread(self, call: Callable[..., Any], *given: Any) -> None:
        call(*given)


def _failure(error: Exception) -> Any:
    from twisted.python.failure import Failure

    return Failure(error)


def held(thing: object) -> dict[str, object]:
    """Return all plain values that an object of ours reaches, by the path to each."""
    return dict(_held("", thing, {}))


def _held(path: str, thing: Any, seen: dict[int, object]) -> Iterator[tuple[str, object]]:
    if isinstance(thing, UNREADABLE):
        yield path, thing
        return
    if isinstance(thing, Config) or id(thing) in seen:
        return
    seen[id(thing)] = thing  # kept, or another object could get its id
    match thing:
        case Mapping():
            keys = [_key(key) for key in thing]
            yield f"{path}.keys", keys
            for key, inner in zip(keys, list(thing.values()), strict=True):
                yield from _held(f"{path}[{key}]", inner, seen)
        case list() | tuple():
            for index, inner in enumerate(thing):
                yield from _held(f"{path}[{index}]", inner, seen)
        case set() | frozenset():
            yield path, sorted(map(str, thing))
        case functools.partial():
            yield from _held(f"{path}.given", (thing.func, thing.args, thing.keywords), seen)
        case types.MethodType():
            yield from _held(f"{path}.self", thing.__self__, seen)
        case types.FunctionType():
            cells = [cell.cell_contents for cell in thing.__closure__ or ()]
            yield from _held(f"{path}.closure", cells, seen)
        case LoopingCall():
            yield f"{path}.interval", thing.interval
            yield from _held(f"{path}.call", thing.f, seen)
        case _ if type(thing).__module__.startswith("cortexd."):
            yield from _attributes(path, thing, seen)
        case _:
            return


def _key(key: object) -> str:
    return str(key) if isinstance(key, (*UNREADABLE, tuple)) else type(key).__name__


def _attributes(path: str, thing: Any, seen: dict[int, object]) -> Iterator[tuple[str, object]]:
    if isinstance(thing, Footprints):
        for node, model in (("a", "x"), ("a", "y"), ("b", "x")):
            if node in thing._budgets:
                yield f"{path}.known({node}, {model})", thing.known_mb(node, model)
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    names = [*getattr(thing, "__dict__", ()), *slots]
    for name in names:
        if name not in OF_A_COURSE and hasattr(thing, name):
            yield from _held(f"{path}.{name}", getattr(thing, name), seen)


class ReloadedTests(SynchronousTestCase):
    """Each key alone: the parts that run take it, or the operator is told that they will not."""

    TABLES: ClassVar[Mapping[str, type]] = {"nodes": NodeSettings, "models": ModelSettings}

    def setUp(self) -> None:
        self.reactor = Reactor()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        (self.folder / "key").write_text("secret", "ascii")
        (self.folder / "keys.toml").write_text(KEYS, "ascii")
        home = Authority("Home CA")
        home.write(self.folder / "ca.pem")
        home.issue("client", purpose=CLIENT).write(self.folder, "client")
        write_certificate(self.folder / "gateway.pem")
        shutil.copy(self.folder / "gateway.pem", self.folder / "gateway.key")

    def start(self, config: Config, read: Callable[[], Config] | None = None) -> Daemon:
        made = daemon(config, self.reactor, {}, lambda: STARTED_AT, None, read)
        for listener in (made.listener, made.metrics_listener, made.agents_listener):
            listener.privilegedStartService()
        made.reloader.startService()
        return made

    def keys(self) -> Iterator[tuple[str, Config, Config]]:
        """Yield every key, and two configurations that differ in it alone."""
        unchanged = reading.parse(TEXT, "test")
        for table in Config.__struct_fields__:
            settings = getattr(unchanged, table)
            entry = settings[0] if isinstance(settings, tuple) else settings
            for key in entry.__struct_fields__:
                other = self.other(f"{table}.{key}", getattr(entry, key))
                before, start = unchanged, entry
                for beside in BESIDE.get(f"{table}.{key}", ()):
                    start = _replaced(start, beside, self.other(beside, None))
                    before = _with_entry(unchanged, table, start)
                changed = _replaced(start, key, other)
                yield f"{table}.{key}", before, _with_entry(before, table, changed)

    def other(self, path: str, value: object) -> object:
        """Return another value of a key."""
        if path in FILES:
            return str(self.folder / FILES[path])
        if path in OTHERS:
            return OTHERS[path]
        match value:
            case bool():
                return not value
            case int() | float():
                return value + 1
            case None if path.startswith("models."):
                return False if "_tokens" not in path and "window" not in path else 7
        raise AssertionError(f"OTHERS needs another value of the new key {path}")

    def test_every_key_is_told(self) -> None:
        """A change of any key is in the list of changes, by its path."""
        for key, before, after in self.keys():
            found = changes(before, after)
            assert found, key
            name = key.partition(".")[2]
            assert any(each.key.endswith(name) or "removed" in each.words for each in found), key
            assert (key in AT_RESTART) == any(each.at_restart for each in found), key

    def test_every_key_is_applied(self) -> None:
        """The parts that ran before are what a start with the new configuration makes of them."""
        for key, before, after in self.keys():
            if key in AT_RESTART:
                continue
            running = self.start(before, functools.partial(_same, after))
            untouched = held(running)
            outcome: list[object] = []
            running.reloader.reload().addBoth(outcome.append)
            self.reactor.advance(10)  # new nodes are polled in vain
            assert isinstance(outcome[0], list), (key, outcome)

            reloaded, fresh = (
                held(running),
                held(self.start(after, functools.partial(_same, after))),
            )

            different = {
                path: (reloaded.get(path), fresh.get(path))
                for path in reloaded.keys() | fresh.keys()
                if reloaded.get(path) != fresh.get(path)
            }
            assert {} == different, f"{key} is not applied by a reload"
            if key not in READ_WHEN_NEEDED:
                assert reloaded != untouched, f"{key} reaches no part"
            running.reloader.stopService()


def _replaced(entry: Any, key: str, value: object) -> Any:
    """Return a table with another value of a key, which may be a whole path."""
    return msgspec.structs.replace(entry, **{key.rpartition(".")[2]: value})


def _with_entry(config: Config, table: str, entry: Any) -> Config:
    """Return a configuration with another table, or with another first one of several."""
    settings = getattr(config, table)
    changed = (entry, *settings[1:]) if isinstance(settings, tuple) else entry
    replaced: Config = msgspec.structs.replace(config, **{table: changed})
    return replaced


def _same(config: Config) -> Config:
    return config
