"""All engines, by their names in a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from cortexd.engines.engine import Dialect, Engine
from cortexd.engines.messages import MessagesServer
from cortexd.engines.mistralrs import MistralRs

ENGINES: Final[Mapping[str, Engine]] = MappingProxyType(
    {engine.name: engine for engine in (MistralRs(), MessagesServer())}
)

BY_DIALECT: Final[Mapping[Dialect, Engine]] = MappingProxyType(
    {Dialect.CHAT: ENGINES["mistralrs"], Dialect.MESSAGES: ENGINES["anthropic"]}
)
"""The engine of a node whose entry names a dialect and no engine."""
