"""The keys of a stage: one that opens, and one for each way in which a client may be refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from cortexd.access.secret import hashed, id_of, new_key

RIGHT, NARROW, LATE, BUSY, WRONG = "right", "narrow", "late", "busy", "wrong"

TABLES: Mapping[str, str] = {
    RIGHT: "",
    NARROW: 'models = ["other/*"]',
    LATE: "expires = 2020-01-01T00:00:00Z",
    # Once it is used up, there is one request every 20 s: no client takes as long to start.
    BUSY: "requests_per_minute = 3",
}
"""What the keys file says of each key; WRONG is in no file."""

UNUSED = "unused"
"""What clients send that must send some key, to a daemon that requires none."""


def write_keys(path: Path) -> dict[str, str]:
    """Write the keys file, and return the text of each key by its name."""
    keys = {name: new_key() for name in (*TABLES, WRONG)}
    lines = []
    for name, table in TABLES.items():
        lines += [
            "[[keys]]",
            f"name = {json.dumps(name)}",
            f"id = {json.dumps(id_of(keys[name]))}",
            f"hash = {json.dumps(hashed(keys[name]))}",
            table,
        ]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    path.chmod(0o600)
    return keys
