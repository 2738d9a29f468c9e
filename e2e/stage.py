"""The stage for every client: a simulated node, the daemon, and a proxy that leads nowhere.

The node lives in this process's reactor, so that tests can read its journal; the clients and the
daemon are separate processes, driven from a thread.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import blockingCallFromThread

from cortexd.testing import Entry, SimulatedModel, SimulatedNode
from e2e.keys import RIGHT, UNUSED, write_keys
from tests.doubles.messages_api.node import SimulatedMessagesNode
from tests.doubles.native_node import SimulatedNativeNode
from tests.doubles.templates.rendering import TemplateError, render, renderer
from tests.live.command_lines import cortexctl
from tests.live.daemons import Daemon, eventually, running_daemon

MODEL = "acme/chat"
# The chat template of MODEL, and the folder of those that have a rule each.
STRICT = Path(__file__).parents[1] / "tests" / "support" / "strict.jinja"
TEMPLATES = Path(__file__).parents[1] / "tests" / "templates" / "own"
CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
# A request of Claude Code has some 15,000 words before anything is said.
CONTEXT_TOKENS = 200_000
PROBE_SECONDS = 120.0
# The first version of the server that tells how much of a prompt it had cached.
TELLS_CACHED = "0.9.5"

# These lines follow those of the one node.
BLIND_MESSAGES_NODE = f"""dialect = "anthropic"
[[models]]
id = "{MODEL}"
vision = false
"""

NO_TEMPLATES: Mapping[str, str] = {}

Result = TypeVar("Result")


class CheckFailed(Exception):
    """A client did not behave as required; the message states its actual behaviour."""


def check_equal(expected: object, found: object, what: str) -> None:
    """Raise CheckFailed unless both are equal."""
    if expected != found:
        raise CheckFailed(f"{what}: expected {expected!r}, found {found!r}")


def check(holds: bool, what: str) -> None:
    """Raise CheckFailed unless it holds."""
    if not holds:
        raise CheckFailed(what)


class WayOut(Factory):
    """Replaces a client's proxy to the world: it records each request and hangs up."""

    noisy = False

    def __init__(self) -> None:
        self.asked: list[str] = []

    def buildProtocol(self, address: IAddress | None) -> Protocol:
        """Give a protocol that hangs up."""
        return _HangsUp(self.asked)


async def open_way_out(reactor: Any) -> tuple[WayOut, IListeningPort]:
    """Listen as the way out, and return it with its port."""
    way_out = WayOut()
    listener = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(way_out)
    return way_out, listener


class _HangsUp(Protocol):
    def __init__(self, asked: list[str]) -> None:
        self._asked = asked

    def dataReceived(self, data: bytes) -> None:
        """Record the first line, which names the requested host, and hang up."""
        self._asked.append(data.partition(b"\r\n")[0].decode(errors="replace"))
        cast("Any", self.transport).abortConnection()


@dataclass(frozen=True)
class Finished:
    """The result of a client's process: its exit status and its output."""

    status: int
    output: str
    complaints: str

    def __str__(self) -> str:
        return f"status {self.status}, output {self.output!r}, complaints {self.complaints!r}"


@dataclass(frozen=True)
class Workplace:
    """A daemon, a client's empty home, and a folder to work in."""

    reactor: Any
    way_out: WayOut
    way_out_port: int
    daemon: Daemon
    folder: Path

    @property
    def home(self) -> Path:
        """The client's home."""
        return self.folder / "home"

    @property
    def work(self) -> Path:
        """The folder the client works in."""
        return self.folder / "work"

    def run(
        self, command: Sequence[str], environment: Mapping[str, str], seconds: float
    ) -> Finished:
        """Run a client to its end; it inherits only the PATH, unless ``environment`` has another.

        Raises CheckFailed if it takes longer than ``seconds``.
        """
        proxy = f"http://127.0.0.1:{self.way_out_port}"
        names = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "HTTP_PROXY": proxy,
            "HTTPS_PROXY": proxy,
            "NO_PROXY": "127.0.0.1",
            **environment,
        }
        with subprocess.Popen(  # noqa: S603 - a client that this run has installed
            command,
            cwd=self.work,
            env=names,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, complaints = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired as late:
                # All of its session: a client may be a script that waits for the program proper.
                os.killpg(process.pid, signal.SIGKILL)
                raise CheckFailed(f"{command[0]} took longer than {seconds:g} s") from late
        return Finished(process.returncode, output, complaints)

    def check_kept_to_itself(self) -> None:
        """Raise CheckFailed if a client tried to reach anything but the daemon."""
        check_equal([], self.in_reactor(lambda: list(self.way_out.asked)), "asked of the world")

    def in_reactor(self, call: Callable[[], Result]) -> Result:
        """Call ``call`` in the reactor's thread and return its result."""

        async def called() -> Result:
            return call()

        return run_in_reactor(self.reactor, called)


@dataclass(frozen=True)
class Stage(Workplace):
    """A workplace before a simulated node, whose models have these chat templates by their ids.

    ``keys`` are the keys of clients by their names; there are none where none is required.
    """

    node: SimulatedNode
    templates: Mapping[str, str]
    keys: Mapping[str, str]

    @property
    def models(self) -> tuple[str, ...]:
        """The ids of the node's models, of which MODEL is the first."""
        return tuple(self.templates)

    @property
    def key(self) -> str:
        """The key of a client that is let in."""
        return self.keys.get(RIGHT, UNUSED)

    def refusals(self) -> list[int]:
        """Return the status of each request that the daemon has refused, oldest first."""
        lines = [line for line in self.daemon.lines() if line["event"].startswith("request")]
        return [line["status"] for line in lines if line.get("status", 0) >= 400]

    def use_up(self, name: str) -> None:
        """Send requests with a key until the daemon refuses one for its rate, and logs that."""
        before = len(self.refusals())
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
        headers = {"Authorization": f"Bearer {self.keys[name]}"}

        def is_refused() -> bool:
            return self.daemon.http.post(CHAT, json=body, headers=headers).status_code == 429

        eventually(is_refused, f"the end of what the key {name!r} may do")
        # The answer may be here before its line in the log.
        eventually(lambda: len(self.refusals()) > before, "the line of the refusal")

    def check_waited(self, before: int, most: int = 1) -> None:
        """Raise CheckFailed unless a client was refused for its rate since then.

        It may be refused ``most`` times. ``before`` is how many requests were refused before.
        """
        refused = self.refusals()[before:]
        check(
            refused in [[429] * times for times in range(1, most + 1)],
            f"its requests were refused with {refused}, not with 429 up to {most} times",
        )

    @property
    def mark(self) -> str:
        """A word for the client to say, which tells its conversation from those of others."""
        return f"{self.folder.name}."

    def rendered(self, body: Any) -> str:
        """Return the prompt that the node made of a chat request's body. Raises CheckFailed."""
        try:
            return render(self.templates[body["model"]], body)
        except TemplateError as failure:
            raise CheckFailed(f"the template of {body['model']}: {failure}") from failure

    def for_client(self, name: str) -> Stage:
        """Return the same stage with another home and another folder to work in."""
        own = replace(self, folder=self.folder / name)
        for folder in (own.home, own.work):
            folder.mkdir(parents=True)
        return own

    def wait_for_abilities(self) -> None:
        """Wait until the daemon has probed every model."""

        def known() -> bool:
            socket = str(self.daemon.control_socket)
            done = cortexctl("--socket", socket, "models", "--json")
            models = json.loads(done.output)["models"]
            states = [each["state"] for model in models for each in model["abilities"]]
            return states.count("known") == len(self.models)

        eventually(known, "the probe of every model", PROBE_SECONDS)

    def bodies(self, path: str) -> list[Any]:
        """Return the JSON bodies that the node received at a path, oldest first."""
        entries = self.in_reactor(lambda: self.node.journal.requests(path))
        return [entry.detail["body"] for entry in entries]

    def generations(self) -> list[Entry]:
        """Return the generations that have ended at the node, in any way."""
        return self.in_reactor(lambda: self.node.journal.of("generation_ended"))


@dataclass(frozen=True)
class Silence:
    """How long a client waits, in seconds.

    The load takes ``load_seconds``, then the node takes ``prompt_seconds`` to the first token,
    silently. The daemon sends a keepalive every ``keepalive_seconds``.
    """

    load_seconds: float = 0.0
    prompt_seconds: float = 0.0
    keepalive_seconds: float = 10.0


NO_SILENCE = Silence()


@contextmanager
def stage(
    reactor: Any,
    folder: Path,
    silence: Silence = NO_SILENCE,
    *,
    messages_only: bool = False,
    node_lines: str = "",
    is_strict: bool = True,
    templates: Mapping[str, str] = NO_TEMPLATES,
    has_keys: bool = False,
) -> Iterator[Stage]:
    """Provide a stage to a thread outside the reactor, until the block ends.

    With ``messages_only`` the node is a server that speaks only Messages, and its model cannot see.
    ``node_lines`` go to the end of its table in the configuration. MODEL has a strict chat
    template, or none. Beside it the node has a model for each of ``templates``, chat templates by
    their names, and the daemon probes all models. With ``has_keys`` it requires the keys of
    ``e2e.keys``.
    """
    strict = STRICT.read_text() if is_strict else ""
    by_id = {MODEL: strict, **{f"acme/{name}": templates[name] for name in templates}}
    for name in ("home", "work", "daemon"):
        (folder / name).mkdir(parents=True)

    async def set_up() -> tuple[SimulatedNode, int, WayOut, IListeningPort]:
        models = [
            SimulatedModel(
                id=model,
                size_mb=100,
                context_tokens=CONTEXT_TOKENS,
                thinks=True,
                loaded=not silence.load_seconds,
                load_seconds=silence.load_seconds,
                render=renderer(template) if template else None,
            )
            for model, template in by_id.items()
        ]
        kind = SimulatedMessagesNode if messages_only else SimulatedNativeNode
        node = kind(
            reactor,
            models=models,
            prompt_seconds=silence.prompt_seconds,
            version=TELLS_CACHED,
            keepalive_seconds=silence.prompt_seconds + 60.0,
        )
        way_out, listener = await open_way_out(reactor)
        return node, await node.listen(reactor), way_out, listener

    async def tear_down() -> None:
        await node.close()
        await maybeDeferred(listener.stopListening)

    node, port, way_out, listener = run_in_reactor(reactor, set_up)
    try:
        nodes = {"node": f"http://127.0.0.1:{port}"}
        gateway = {"keepalive_seconds": silence.keepalive_seconds}
        extra = BLIND_MESSAGES_NODE if messages_only else node_lines
        keys: Mapping[str, str] = {}
        if has_keys:
            keys_file = folder / "keys.toml"
            keys = write_keys(keys_file)
            extra += f"\n[auth]\nkeys_file = {json.dumps(str(keys_file))}\n"
        with running_daemon(
            folder / "daemon", nodes, gateway=gateway, extra=extra, probes=bool(templates)
        ) as daemon:
            way_out_port = cast(IPv4Address, listener.getHost()).port
            yield Stage(reactor, way_out, way_out_port, daemon, folder, node, by_id, keys)
    finally:
        run_in_reactor(reactor, tear_down)


def run_in_reactor(reactor: Any, function: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run a coroutine in the reactor's thread, and return its result to this thread."""

    def start() -> Any:
        return Deferred.fromCoroutine(function())

    return cast("Result", blockingCallFromThread(reactor, start))
