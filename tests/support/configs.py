"""Makes configurations as files would, from the few keys that matter to a test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cortexd.config import reading
from cortexd.config.settings import (
    AuthSettings,
    Config,
    EvictionSettings,
    GatewaySettings,
    PollingSettings,
    ResponsesSettings,
    SchedulingSettings,
)
from cortexd.config.values import NOTHING

TABLES = {
    "gateway": GatewaySettings,
    "auth": AuthSettings,
    "polling": PollingSettings,
    "scheduling": SchedulingSettings,
    "eviction": EvictionSettings,
    "responses": ResponsesSettings,
}


def config_of(
    nodes: Mapping[str, Mapping[str, Any]],
    models: Mapping[str, Mapping[str, Any]] = NOTHING,
    **keys: Any,
) -> Config:
    """Return the configuration of a file with these [[nodes]], by name, and [[models]], by id.

    ``keys`` are those of the other tables. ``interval`` is polling's: eviction has one too.
    """
    lines = []
    for name, settings in TABLES.items():
        own = [key for key in keys if key in settings.__struct_fields__]
        if own:
            lines += [f"[{name}]", *_lines({key: keys.pop(key) for key in own})]
    assert {} == keys, "no table has such keys"
    for name, node in nodes.items():
        lines += ["[[nodes]]", *_lines({"name": name, **node})]
    for name, model in models.items():
        lines += ["[[models]]", *_lines({"id": name, **model})]
    return reading.parse("\n".join(lines), "test")


def _lines(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_written(value)}" for key, value in table.items()]


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)} = {_written(v)}" for k, v in value.items()) + "}"
    # Strings, numbers, booleans and lists are written alike in TOML and in JSON.
    return json.dumps(value)
