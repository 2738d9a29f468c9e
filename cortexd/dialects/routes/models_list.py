"""The catalogue on the wire, in one format for both the OpenAI and the Anthropic SDK.

Both use ``GET /v1/models`` (translation.md 1.5.3). ``status`` is flat, as in mistral.rs; ``nodes``
and ``aliases`` are our own fields. A limit in tokens is ``null`` unless it is configured, because
no node reports it.
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
    """Return the list of all models; ``created`` is the same time for all, in unix seconds.

    ``profile_of`` returns the profile of a model by its id. ``for_claude`` adds the aliases that
    begin like the vendor's names: Claude Code's picker shows no others (translation.md 1.3.26).
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
