"""The entries of the journal in the output of ``cortexctl``, as in ``cortexd.ctl.output``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any

import msgspec

from cortexd.control.summaries import EventSummary
from cortexd.text import one_line


def event_text(event: EventSummary, zone: tzinfo | None = None) -> str:
    """Show an entry of the journal in one line; the default time zone is the machine's."""
    when = datetime.fromtimestamp(event.at, zone).strftime("%Y-%m-%d %H:%M:%S")
    fields = dict(event.fields)
    if event.kind == "audit":
        words = [event.kind, _audit_words(event, fields)]
    else:
        words = [word for word in (event.kind, event.node, event.model) if word is not None]
    words += [f"{key}={_value_text(value)}" for key, value in fields.items() if value]
    return one_line("  ".join([when, *words])) + "\n"


def _audit_words(event: EventSummary, fields: dict[str, Any]) -> str:
    """Say who commanded what: ``uid 1000 (alice): pin org/chat on gpu-1``; take these fields."""
    actor, command = fields.pop("actor", "?"), fields.pop("command", "?")
    words = [f"{actor}:", command, event.model, fields.pop("key", None)]
    if event.node is not None:
        words += ["on", event.node] if event.model is not None else [event.node]
    return " ".join(str(word) for word in words if word is not None)


def events_text(events: Sequence[EventSummary], now: float) -> str:
    """Show entries of the journal, one per line."""
    return "".join(event_text(event) for event in events)


def events_data(events: Sequence[EventSummary]) -> Mapping[str, Any]:
    """Return entries of the journal."""
    return {"events": msgspec.to_builtins(events)}


def _value_text(value: object) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ",".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
