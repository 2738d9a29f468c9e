"""The labels under which the HTTP metrics count a request, with mistral.rs's values."""

from collections.abc import Mapping
from typing import Final

from cortexd.testing.model import DEFAULT_MODEL, ModelStore

NO_MODEL: Final = "none"
UNKNOWN_MODEL: Final = "unknown"
UNMATCHED_PATH: Final = "<unmatched>"

HOUSEKEEPING: Final = frozenset({"/", "/health", "/metrics"})
INFERENCE: Final = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/images/generations",
        "/v1/audio/speech",
        "/v1/messages",
        "/v1/messages/count_tokens",
    }
)
OPERATIONS: Final = frozenset({"/v1/models/unload", "/v1/models/reload", "/v1/models/status"})
OTHERS: Final = frozenset({"/v1/models", "/v1/system/info"})


def labels_of(
    method: str, path: str, body: object, models: ModelStore
) -> tuple[str, str, str] | None:
    """Return method, path and model for the count of a request, None if it is not counted.

    `body` is the decoded JSON. Operations on a model count as requests for it. Requests without a
    model, and requests for an unknown model, have values of their own.
    """
    if path in HOUSEKEEPING or method == "OPTIONS":
        return None
    if path in INFERENCE:
        return method, path, _inference_label(body, models)
    if path in OPERATIONS:
        return method, path, _known(_named(body, "model_id"), models)
    return method, path if path in OTHERS else UNMATCHED_PATH, NO_MODEL


def _inference_label(body: object, models: ModelStore) -> str:
    if not isinstance(body, Mapping):
        return UNKNOWN_MODEL
    name = _named(body, "model")
    if name in ("", DEFAULT_MODEL):
        return models.default or DEFAULT_MODEL
    if name in (name_of for line in models.adapters() for name_of in (line.id, line.root)):
        return name
    return _known(name, models)


def _known(name: str, models: ModelStore) -> str:
    return UNKNOWN_MODEL if models.status(name) == "not_found" else name


def _named(body: object, field: str) -> str:
    name = body.get(field) if isinstance(body, Mapping) else None
    return name if isinstance(name, str) else ""
