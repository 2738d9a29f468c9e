"""The catalogue on the wire: one shape that the OpenAI and the Anthropic SDK both take.

Both ask ``GET /v1/models`` (translation.md 1.5.3). ``status`` is flat, as mistral.rs has it, and
``nodes`` and ``aliases`` are ours. A limit in tokens is ``null`` where the configuration does not
say it: no node does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.dialects.wire.profile import Profile
from cortexd.fleet.catalogue import CatalogueEntry

_CLAUDES: Final = ("claude", "anthropic")


def list_body(
    entries: Sequence[CatalogueEntry],
    profile_of: Callable[[str], Profile],
    created: int,
    *,
    for_claude: bool = False,
) -> bytes:
    """Return the list of all models; ``created`` is one time for all, in unix seconds.

    ``profile_of`` tells what the model of an id can do. ``for_claude`` adds the aliases that begin
    as the vendor's names do: Claude Code lets one pick from no others (translation.md 1.3.26).
    """
    models: list[JsonObject] = []
    for entry in entries:
        model = _model(entry, profile_of(entry.id), created)
        models.append(model)
        if for_claude:
            models += [
                {**model, "id": alias} for alias in entry.aliases if alias.startswith(_CLAUDES)
            ]
    return encode(
        {
            "object": "list",
            "data": models,
            "has_more": False,
            "first_id": models[0]["id"] if models else None,
            "last_id": models[-1]["id"] if models else None,
        }
    )


def model_body(entry: CatalogueEntry, profile: Profile, created: int) -> bytes:
    """Return one model."""
    return encode(_model(entry, profile, created))


def _model(entry: CatalogueEntry, profile: Profile, created: int) -> JsonObject:
    return {
        "id": entry.id,
        "object": "model",
        "created": created,
        "owned_by": "cortex",
        "type": "model",
        "display_name": entry.id,
        "created_at": datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": profile.context_window,
        "max_tokens": profile.max_output,
        "status": entry.status.value,
        "nodes": list(entry.nodes),
        "aliases": list(entry.aliases),
    }
