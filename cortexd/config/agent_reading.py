"""Reads an agent's configuration: TOML in, frozen and checked values out.

The errors are those of ``cortexd.config.tables``; the checks here are those of values that depend
on each other.
"""

import os
from collections.abc import Mapping
from typing import Final, cast

from msgspec import inspect as types

from cortexd.config.addresses import host_of, is_loopback, quoted, refusal
from cortexd.config.agent_settings import AgentConfig, EngineSettings, OwnSettings
from cortexd.config.tables import ConfigError, FaultError, fail, struct_of, text_of, toml_table
from cortexd.engines.engine import Engine
from cortexd.engines.registry import ENGINES
from cortexd.text import one_line

AGENT_TYPE: Final = cast(types.StructType, types.type_info(AgentConfig))


def load(path: str | os.PathLike[str]) -> AgentConfig:
    """Return the configuration of a TOML file in UTF-8.

    Raises ConfigError as `parse` does, and for a file that is missing, unreadable or not UTF-8.
    """
    return parse(text_of(path), os.fspath(path))


def parse(text: str, source: str) -> AgentConfig:
    """Return the configuration of a TOML text; errors call it `source`, which is usually a path.

    Raises ConfigError for invalid TOML, for an unknown key, for a value that its key does not
    allow, and for values that contradict each other.
    """
    try:
        config = cast(AgentConfig, struct_of(AGENT_TYPE, toml_table(text), ""))
        _check_own(config.agent)
        _check_engine(config.engine)
    except FaultError as fault:
        raise ConfigError(f"{one_line(source)}: {fault}") from None
    return config


def _check_own(own: OwnSettings) -> None:
    """Raise FaultError for a gateway that cannot be reached, or not in a way that is safe."""
    if own.enrolment is None:
        for key in ("node", "gateway"):
            if getattr(own, key) is None:
                words = "missing, expected it here, or agent.enrolment, the file that states it"
                fail(f"agent.{key}", words)
    _check_pair(own, "certificate", "key")
    if own.certificate is not None and own.token_file is not None:
        words = "no such key with agent.certificate: one of them admits the agent"
        fail("agent.token_file", refusal(quoted(own.token_file), words))
    for key in ("certificate", "token_file", "server_name"):
        value = getattr(own, key)
        if value is not None and own.ca is None and own.enrolment is None:
            words = "missing, expected the file of the authority that signed the gateway's "
            fail("agent.ca", f"{words}certificate, as agent.{key} is set")
    if own.gateway is None or own.enrolment is not None:
        return
    if own.ca is None and not is_loopback(host_of(own.gateway)):
        words = "an address of this machine, or credentials: agent.enrolment, or agent.ca with "
        words += "a certificate or a token"
        fail("agent.gateway", refusal(quoted(own.gateway), words))
    if own.ca is not None and own.certificate is None and own.token_file is None:
        words = "missing, expected it or agent.token_file, which admit the agent"
        fail("agent.certificate", words)


def _check_pair(own: OwnSettings, *pair: str) -> None:
    for key, other in (pair, pair[::-1]):
        if getattr(own, key) is None and getattr(own, other) is not None:
            fail(f"agent.{key}", f"missing, expected an absolute path, as agent.{other} is set")


def _check_engine(engine: EngineSettings) -> None:
    """Raise FaultError for two ways to run the engine, or for keys of the other way."""
    if not engine.endpoint.startswith("http:"):
        words = "an http:// URL: the agent asks its engine on the same machine"
        fail("engine.endpoint", refusal(quoted(engine.endpoint), words))
    if engine.command is not None:
        for key in ("restart_command", "unit", "pid_file"):
            value = getattr(engine, key)
            if value is not None:
                shown = quoted(value) if isinstance(value, str) else "a list"
                words = "no such key with engine.command: the agent runs the engine itself"
                fail(f"engine.{key}", refusal(shown, words))
    else:
        for key in ("directory", "environment"):
            value = getattr(engine, key)
            if value:
                shown = "a table" if isinstance(value, Mapping) else quoted(value)
                words = "no such key without engine.command: another program runs the engine"
                fail(f"engine.{key}", refusal(shown, words))
    if engine.unit is not None and engine.pid_file is not None:
        words = "no such key with engine.unit, which tells the process already"
        fail("engine.pid_file", refusal(quoted(engine.pid_file), words))


def engine_of(settings: EngineSettings) -> Engine:
    """Return the engine of a kind."""
    return ENGINES[settings.kind]


def summary(config: AgentConfig) -> tuple[str, ...]:
    """Return what a configuration comes to, one line for each part."""
    own, engine = config.agent, config.engine
    enrolment = f"as {one_line(own.enrolment)} states" if own.enrolment else ""
    return (
        f"node: {own.node or enrolment}, gateway: {own.gateway or enrolment}",
        f"engine: {engine.kind} at {engine.endpoint}, every {own.interval:g} s",
        f"process: {_process(engine)}",
        f"log: {_command(engine.log_command) or _own_log(engine)}",
        f"memory: {_memory(config)}",
        f"suspend: {_command(config.power.suspend_command) or 'never'}",
    )


def _process(engine: EngineSettings) -> str:
    if engine.command is not None:
        return f"the agent runs {_command(engine.command)}"
    if engine.unit is not None:
        found = f"the unit {engine.unit}"
    elif engine.pid_file is not None:
        found = f"the pid in {one_line(engine.pid_file)}"
    else:
        found = "the one that listens at the engine's port"
    if engine.restart_command is None:
        return f"{found}; never restarted, as engine.restart_command is missing"
    return f"{found}; restarted by {_command(engine.restart_command)}"


def _own_log(engine: EngineSettings) -> str:
    return "what the engine prints" if engine.command is not None else "none"


def _memory(config: AgentConfig) -> str:
    match config.gpu.source:
        case "none":
            return "the engine's figures"
        case "auto":
            return "nvml or amdsmi, whichever finds a device, or else the engine's figures"
    return f"{config.gpu.source}, or else the engine's figures"


def _command(command: tuple[str, ...] | None) -> str:
    """Return a command without its arguments, which may have a secret."""
    if command is None:
        return ""
    return one_line(command[0]) + (" ..." if len(command) > 1 else "")
