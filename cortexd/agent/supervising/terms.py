"""What the agent's file says about the engine's process, as the parts here take it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from cortexd.config.agent_settings import EngineSettings, PowerSettings

USUAL_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTerms:
    """Either ``command`` or ``restart_command``, or neither for an engine that nobody restarts.

    ``host`` and ``port`` are those of ``[engine] endpoint``. ``run_directory`` is where the agent
    finds the process of an earlier agent again; it must be the agent's own. Times are in seconds.
    """

    run_directory: Path
    host: str | None = None
    port: int = 1234
    command: tuple[str, ...] = ()
    directory: str | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    stop_seconds: float = 30.0
    start_limit: int = 5
    start_interval: float = 300.0
    start_seconds: float = 900.0
    restart_command: tuple[str, ...] = ()
    unit: str | None = None
    pid_file: str | None = None
    log_command: tuple[str, ...] = ()
    suspend_command: tuple[str, ...] = ()


def process_terms(
    engine: EngineSettings, power: PowerSettings, node: str, environ: Mapping[str, str]
) -> ProcessTerms:
    """Return the terms of an agent's file."""
    endpoint = urlsplit(engine.endpoint)
    return ProcessTerms(
        run_directory=run_directory(node, environ),
        host=endpoint.hostname,
        port=endpoint.port or USUAL_PORTS.get(endpoint.scheme, 0),
        command=engine.command or (),
        directory=engine.directory,
        environment=engine.environment,
        stop_seconds=engine.stop_seconds,
        start_limit=engine.start_limit,
        start_interval=engine.start_interval,
        start_seconds=engine.start_seconds,
        restart_command=engine.restart_command or (),
        unit=engine.unit,
        pid_file=engine.pid_file,
        log_command=engine.log_command or (),
        suspend_command=power.suspend_command or (),
    )


def run_directory(node: str, environ: Mapping[str, str]) -> Path:
    """Return the directory that systemd gives a unit, or one of the user's own for each node."""
    given = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    own = environ.get("XDG_RUNTIME_DIR")
    if own:
        return Path(own) / f"cortex-agent-{node}"
    return Path(tempfile.gettempdir()) / f"cortex-agent-{os.getuid()}-{node}"
