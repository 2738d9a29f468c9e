"""The catalogue on the wire, in one format for both the OpenAI and the Anthropic SDK.

Both use ``GET /v1/models`` (translation.md 1.5.3). The limits in tokens are known only if they are
configured, because no node reports them; each client looks for them under a name of its own:
``max_input_tokens`` and ``max_tokens`` (Anthropic), ``context_length`` (OpenRouter and its
clients), ``max_model_len`` (vLLM), ``limit`` (opencode). ``nodes``, ``aliases`` and ``alias_of``
are our own fields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from cortexd.dialects.routes.model_capabilities import capabilities
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.dialects.wire.profile import Profile
from cortexd.fleet.catalogue import CatalogueEntry, ModelStatus

_CLAUDES: Final = ("claude", "anthropic")


def list_body(
    entries: Sequence[CatalogueEntry],
    profile_of: Callable[[str], Profile],
    created: int,
    *,
    for_claude: bool = False,
    status_as_object: bool = False,
) -> bytes:
    """Return the list of all models; ``created`` is the same time for all, in unix seconds.

    ``profile_of`` returns the profile of a model by its id. Each alias has an entry of its own, so
    that people can pick it; ``for_claude`` only those that begin like the vendor's names, since
    Claude Code's picker shows no others (translation.md 1.3.26). With ``status_as_object`` the
    status is an object, as in llama.cpp and llama-swap, instead of a word, as in mistral.rs.
    """
    ids = {entry.id for entry in entries}
    models: list[JsonObject] = []
    for entry in entries:
        model = _model(entry, profile_of(entry.id), created, as_object=status_as_object)
        models.append(model)
        models += [
            {**model, "id": alias, "alias_of": entry.id}
            for alias in entry.aliases
            if alias not in ids and (not for_claude or alias.startswith(_CLAUDES))
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


def model_body(
    entry: CatalogueEntry, profile: Profile, created: int, *, status_as_object: bool = False
) -> bytes:
    """Return one model."""
    return encode(_model(entry, profile, created, as_object=status_as_object))


def _model(entry: CatalogueEntry, profile: Profile, created: int, *, as_object: bool) -> JsonObject:
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
        **_limits(profile),
        "capabilities": capabilities(profile),
        "status": _status(entry.status, as_object=as_object),
        "nodes": list(entry.nodes),
        "aliases": list(entry.aliases),
    }


def _limits(profile: Profile) -> JsonObject:
    """Return the limits under the names of OpenAI's clients, which expect no ``null`` there."""
    window = profile.context_window
    if window is None:
        return {}
    # opencode needs both parts of its limit. Without another one, the window limits an answer.
    limit = {"context": window, "output": profile.max_output or window}
    return {"context_length": window, "max_model_len": window, "limit": limit}


def _status(status: ModelStatus, *, as_object: bool) -> JsonObject | str:
    return {"value": status.value} if as_object else status.value
