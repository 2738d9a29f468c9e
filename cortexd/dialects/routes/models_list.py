"""The catalogue on the wire, in one format for both the OpenAI and the Anthropic SDK.

Both use ``GET /v1/models`` (translation.md 1.5.3). The limits in tokens are known only if they are
configured, because no node reports them; each client looks for them under a name of its own:
``max_input_tokens`` and ``max_tokens`` (Anthropic), ``context_length`` (OpenRouter and its
clients), ``max_model_len`` (vLLM), ``limit`` (opencode). ``nodes``, ``aliases`` and ``alias_of``
are our own fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from cortexd.dialects.routes.model_capabilities import capabilities
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.dialects.wire.profile import Profile
from cortexd.fleet.catalogue import CatalogueEntry, ModelStatus

_CLAUDES: Final = ("claude", "anthropic")


class ListedModels:
    """Makes the list of all models, and keeps what it made of each for the next list.

    ``created`` is the same time for all models, in unix seconds. With ``status_as_object`` the
    status is an object, as in llama.cpp and llama-swap, instead of a word, as in mistral.rs.
    """

    def __init__(self, created: int, *, status_as_object: bool = False) -> None:
        self._created = created
        self._status_as_object = status_as_object
        self._made: dict[str, tuple[CatalogueEntry, Profile, _Listed]] = {}

    def make(self, entry: CatalogueEntry, profile: Profile) -> _Listed:
        """Return one model as it is listed, from the last list if nothing of it has changed."""
        made = self._made.get(entry.id)
        if made is not None and made[1] is profile and made[0] == entry:
            return made[2]
        model = _model(entry, profile, self._created, as_object=self._status_as_object)
        aliases = {
            alias: encode({**model, "id": alias, "alias_of": entry.id}) for alias in entry.aliases
        }
        listed = _Listed(entry.id, encode(model), aliases)
        self._made[entry.id] = entry, profile, listed
        return listed

    def body(self, given: Sequence[_Listed | None], *, for_claude: bool = False) -> bytes:
        """Return the list of these models; forget the others once models have left the catalogue.

        ``None`` stands for a model of the catalogue that this list leaves out. Each alias has an
        entry of its own, so that people can pick it; ``for_claude`` only those that begin like the
        vendor's names, since Claude Code's picker shows no others (translation.md 1.3.26).
        """
        models = [model for model in given if model is not None]
        ids = {model.id for model in models}
        if len(self._made) > len(given):
            self._made = {id_: made for id_, made in self._made.items() if id_ in ids}
        names: list[str] = []
        objects: list[bytes] = []
        for model in models:
            names.append(model.id)
            objects.append(model.object)
            for alias, alias_object in model.aliases.items():
                if alias not in ids and (not for_claude or alias.startswith(_CLAUDES)):
                    names.append(alias)
                    objects.append(alias_object)
        first, last = (names[0], names[-1]) if names else (None, None)
        end = encode({"has_more": False, "first_id": first, "last_id": last})
        # The list of ten thousand models has 11 MB, so it is copied only once.
        separated = [piece for each in objects for piece in (b",", each)][1:]
        return b"".join([b'{"object":"list","data":[', *separated, b"],", end[1:]])


class _Listed(NamedTuple):
    """One model as it is listed: its JSON object, and those of its aliases."""

    id: str
    object: bytes
    aliases: Mapping[str, bytes]


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
