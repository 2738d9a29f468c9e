"""The SDKs of both vendors, from PyPI, with keys: what they make of each kind of refusal."""

from __future__ import annotations

import json
from typing import Any

from e2e.installing.kit import Installed
from e2e.installing.pip import Pip
from e2e.keys import BUSY, LATE, NARROW, WRONG
from e2e.scenes import Client, Scene
from e2e.stage import MODEL, Stage, check, check_equal
from e2e.talk import RUN_SECONDS, tail

DIALECTS = ("openai", "anthropic")
REFUSALS = {
    WRONG: ("AuthenticationError", 401, "the gateway does not know this key"),
    LATE: ("AuthenticationError", 401, "the key 'late' has expired"),
    NARROW: ("PermissionDeniedError", 403, f"the key 'narrow' may not use model '{MODEL}'"),
}


def _scene(dialect: str) -> Scene:
    def bring_a_key(stage: Stage, client: Installed) -> str:
        for name, (kind, status, words) in REFUSALS.items():
            before = len(stage.refusals())
            found = _ask(stage, client, dialect, stage.keys[name])
            shown = (found.get("error"), found.get("status"))
            check_equal((f"{dialect}.{kind}", status), shown, f"the error with {name!r}")
            check(words in found["message"], f"{name!r}: its message is {found['message']!r}")
            check_equal([status], stage.refusals()[before:], f"requests refused with {name!r}")
        answer = _ask(stage, client, dialect, stage.key)
        check_equal({"answer": "You said: hello there"}, answer, "the answer")
        return "a right key works, three others raise the SDK's own errors, one request each"

    return Scene(f"bring a key by {dialect}", bring_a_key, has_keys=True)


def _waiting_scene(dialect: str) -> Scene:
    def wait_as_told(stage: Stage, client: Installed) -> str:
        stage.use_up(BUSY)
        before = len(stage.refusals())
        answer = _ask(stage, client, dialect, stage.keys[BUSY])
        check_equal({"answer": "You said: hello there"}, answer, "the answer")
        stage.check_waited(before)
        return "one request refused for its rate, the next one after Retry-After is answered"

    return Scene(f"wait as told by {dialect}", wait_as_told, has_keys=True)


def _ask(stage: Stage, client: Installed, dialect: str, key: str) -> Any:
    """Return what our script prints after one request."""
    environment = {
        "PATH": client.search_path,
        "TALK_BASE_URL": stage.daemon.base_url,
        "TALK_MODELS": MODEL,
        "SDK_KEY": key,
    }
    done = stage.run([*client.command, dialect], environment, RUN_SECONDS)
    check_equal((0, ""), (done.status, done.complaints), f"exit status, errors ({tail(done)})")
    return json.loads(done.output)


CLIENT = Client(
    "sdks",
    Pip(("openai", "anthropic"), "sdks_with_keys.py"),
    tuple(make(dialect) for make in (_scene, _waiting_scene) for dialect in DIALECTS),
    waiting=(),
)
