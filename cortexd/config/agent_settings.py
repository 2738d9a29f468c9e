"""The contents of an agent's configuration: one Struct for each table of the file.

``cortexd.config.agent_reading`` reads a file into these Structs.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from cortexd.config.addresses import (
    AbsolutePath,
    GatewayAddress,
    NodeEndpoint,
    only,
)
from cortexd.config.values import NOTHING, WORD, Count, NodeName, Seconds, Word

UNIT: Final = 'the name of a systemd unit, such as "mistralrs.service"'
VARIABLE: Final = "the name of a variable: letters, digits and _"

Interval = Annotated[float, Meta(ge=0.2, le=60.0, extra={"noun": "a number of seconds"})]
ServerName = Annotated[
    str,
    only("a host name or an IP address", re.compile(r"[A-Za-z0-9._:-]{1,253}").fullmatch),
]
UnitName = Annotated[
    str,
    only(UNIT, re.compile(r"(?!-)[A-Za-z0-9:_.\\@-]{1,240}\.(service|scope)").fullmatch),
]
Variable = Annotated[str, only(VARIABLE, re.compile(r"[A-Za-z_][A-Za-z0-9_]*").fullmatch)]
WordOrEmpty = Annotated[str, only(WORD, lambda value: value == "" or value.isprintable())]
Command = Annotated[tuple[Word, ...], Meta(min_length=1)]


class OwnSettings(Struct, kw_only=True, frozen=True):
    """[agent]: the node that the agent speaks for, and how it reaches the gateway.

    `enrolment` is the file that `cortexctl agent enroll` has made; it states the node, the
    gateway's address and the credentials. The other keys replace what it states, or stand for it:
    `ca` is the file with the authority of the gateway's certificate, `certificate` and `key` are
    the agent's, or `token_file` has its token. `server_name` is the name in the gateway's
    certificate. The agent looks at its engine every `interval` seconds.
    """

    node: NodeName | None = None
    gateway: GatewayAddress | None = None
    enrolment: AbsolutePath | None = None
    ca: AbsolutePath | None = None
    certificate: AbsolutePath | None = None
    key: AbsolutePath | None = None
    token_file: AbsolutePath | None = None
    server_name: ServerName | None = None
    interval: Interval = 1.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class EngineSettings(Struct, kw_only=True, frozen=True):
    """[engine]: the engine's address, and how the agent finds and restarts its process.

    With `command` the agent runs the engine itself, in `directory` and with the variables of
    `environment`. It asks the engine to end and kills it after `stop_seconds`. After `start_limit`
    ends within `start_interval` seconds it does not start it again by itself. With
    `restart_command` another service manager runs it: `unit` or `pid_file` tell which process it
    is. `log` is the command that prints the last lines of the engine's log, and goes on with new
    ones. An engine that was started must answer within `start_seconds`.
    """

    endpoint: NodeEndpoint = "http://127.0.0.1:1234"
    kind: Literal["mistralrs", "anthropic"] = "mistralrs"
    api_key_file: AbsolutePath | None = None
    command: Command | None = None
    directory: AbsolutePath | None = None
    environment: Mapping[Variable, WordOrEmpty] = NOTHING
    stop_seconds: Seconds = 30.0
    start_limit: Count = 5
    start_interval: Seconds = 300.0
    restart_command: Command | None = None
    unit: UnitName | None = None
    pid_file: AbsolutePath | None = None
    log: Command | None = None
    start_seconds: Seconds = 900.0

    @property
    def log_command(self) -> tuple[str, ...] | None:
        """The command that prints the log: `log`, or journalctl for a `unit`; None without one."""
        if self.log is not None or self.unit is None:
            return self.log
        shown = ("--output", "short-iso", "--lines", "1000", "--follow")
        return ("journalctl", "--unit", self.unit, *shown)


class GpuSettings(Struct, kw_only=True, frozen=True):
    """[gpu]: the library that tells the memory of the accelerators.

    `auto` takes the first library that is installed and finds a device. With `none` the agent takes
    the engine's own figures.
    """

    source: Literal["auto", "nvml", "amdsmi", "none"] = "auto"


class PowerSettings(Struct, kw_only=True, frozen=True):
    """[power]: the command that lets the machine sleep; without one it never does."""

    suspend_command: Command | None = None


class AgentConfig(Struct, kw_only=True, frozen=True):
    """A whole configuration of an agent."""

    agent: OwnSettings = field(default_factory=OwnSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    gpu: GpuSettings = field(default_factory=GpuSettings)
    power: PowerSettings = field(default_factory=PowerSettings)
