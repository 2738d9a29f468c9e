"""The JSON schemas that a node's grammar engine accepts, and its words for the others.

Checked against llguidance 1.4.0, which mistral.rs 9e922623 uses (nodes.md 4.1.14).
"""

import json
from typing import Any, Final

TYPES: Final = ("null", "boolean", "number", "integer", "string", "array", "object")
UNIMPLEMENTED: Final = frozenset(
    {
        "not",
        "if",
        "then",
        "else",
        "contains",
        "minContains",
        "maxContains",
        "uniqueItems",
        "propertyNames",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
"""Keywords of JSON schema that the grammar engine knows and does not implement."""

_SCHEMAS: Final = ("properties", "patternProperties", "$defs", "definitions")
_LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE: Final = ("items", "additionalProperties")


def schema_fault(schema: object) -> str | None:
    """Return the grammar engine's words for a schema that it rejects, None if it accepts it."""
    if isinstance(schema, bool):
        return None
    if not isinstance(schema, dict):
        return "schema must be an object or boolean"
    keys = sorted(UNIMPLEMENTED.intersection(schema))
    if keys:
        return f"Unimplemented keys: {json.dumps(keys)}"
    kinds = schema.get("type", [])
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind not in TYPES:
            return f"Invalid type: {kind}"
    return next((fault for part in _parts(schema) if (fault := schema_fault(part))), None)


def _parts(schema: dict[str, Any]) -> list[object]:
    """Return the schemas directly inside a schema."""
    inside: list[object] = [schema[key] for key in _SINGLE if key in schema]
    for key in _SCHEMAS:
        named = schema.get(key)
        inside += named.values() if isinstance(named, dict) else []
    for key in _LISTS:
        listed = schema.get(key)
        inside += listed if isinstance(listed, list) else []
    return inside
