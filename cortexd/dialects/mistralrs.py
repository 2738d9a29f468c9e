"""The wire shapes of a mistral.rs node's own routes: listing, status, system, and its errors.

Facts are from the upstream notes, of mistral.rs v0.9.2; parts are named where they matter.
"""

from __future__ import annotations

import re
from typing import Any

from cortexd.dialects.json_values import NOT_JSON, JsonObject, decode, encode
from cortexd.errors import (
    RETRY_WHEN_FULL,
    RETRY_WHILE_LOADING,
    BadGateway,
    BadKey,
    BadRequest,
    BodyTooLarge,
    CannotSee,
    ContextOverflow,
    CortexError,
    Forbidden,
    ModelNotFound,
    ModelNotLoaded,
    NodeError,
    NodeTimeout,
    OverBudget,
    Overloaded,
    RateLimited,
    StateNotFound,
)
from cortexd.states import Observation, ReplicaState, SystemInfo

PSEUDO_MODEL = "default"
MODELS_PATH = "/v1/models"
SYSTEM_INFO_PATH = "/v1/system/info"

MAX_ERROR_CHARACTERS = 500
"""Of a node's words, what is passed on: enough for its longest message, not for a page."""

_STATES = {
    "loaded": ReplicaState.LOADED,
    "reloading": ReplicaState.LOADING,
    "unloaded": ReplicaState.UNLOADED,
}


class BadAnswer(ValueError):
    """Raised when a node's answer is not of the shape its version documents."""


def read_listing(body: bytes) -> Observation:
    """Return what ``GET /v1/models`` says (part 1).

    The pseudo-model ``default`` is left out. An id listed as loaded and as reloading is stuck;
    of other duplicates the more useful state counts. A model without a status is loaded: nodes
    before v0.7.0 and single-model servers say none. One whose status is unknown is left out. What
    has a ``parent`` is a LoRA adapter of it.
    Raises BadAnswer.
    """
    entries = answer_object(body).get("data")
    if not isinstance(entries, list):
        raise BadAnswer("the model list has no 'data' array")
    created: int | None = None
    seen: dict[str, set[ReplicaState]] = {}
    bases: dict[str, str] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
            raise BadAnswer("the model list has an entry without an id")
        if isinstance(entry.get("created"), int):
            created = entry["created"]
        if entry["id"] == PSEUDO_MODEL:
            continue
        status = entry.get("status")
        state = ReplicaState.LOADED if status is None else _STATES.get(str(status))
        if state is not None:
            seen.setdefault(entry["id"], set()).add(state)
            if isinstance(entry.get("parent"), str):
                bases[entry["id"]] = entry["parent"]
    replicas = {model: _combined(states) for model, states in seen.items()}
    return Observation(created, replicas, bases)


def _combined(states: set[ReplicaState]) -> ReplicaState:
    if {ReplicaState.LOADED, ReplicaState.LOADING} <= states:
        return ReplicaState.STUCK
    for state in (ReplicaState.LOADED, ReplicaState.LOADING):
        if state in states:
            return state
    return ReplicaState.UNLOADED


def read_system_info(body: bytes) -> SystemInfo:
    """Return what ``GET /v1/system/info`` says (part 7).

    Memory is that of all accelerators together, or the machine's own where there is none.
    Raises BadAnswer.
    """
    info = answer_object(body)
    build = info.get("build")
    version = build.get("version") if isinstance(build, dict) else None
    devices = info.get("devices")
    accelerators = [
        device
        for device in (devices if isinstance(devices, list) else [])
        if isinstance(device, dict) and device.get("kind") != "cpu"
    ]
    if accelerators:
        total = _mebibytes([device.get("total_memory_bytes") for device in accelerators])
        free = _mebibytes([device.get("available_memory_bytes") for device in accelerators])
    else:
        memory = info.get("memory")
        memory = memory if isinstance(memory, dict) else {}
        total = _mebibytes([memory.get("total_bytes")])
        free = _mebibytes([memory.get("available_bytes")])
    return SystemInfo(version if isinstance(version, str) else "unknown", total, free)


def _mebibytes(amounts: list[Any]) -> int | None:
    if not amounts or not all(isinstance(amount, int) for amount in amounts):
        return None
    total: int = sum(amounts)
    return total // (1024 * 1024)


def answer_object(body: bytes) -> JsonObject:
    """Return the JSON object a node answered. Raises BadAnswer."""
    try:
        value = decode(body)
    except NOT_JSON:
        raise BadAnswer("the answer is not valid JSON") from None
    if not isinstance(value, dict):
        raise BadAnswer("the answer is not a JSON object")
    return value


OUT_OF_MEMORY = re.compile(
    r"out[ _]?of[ _]?memory"  # CUDA's driver and runtime, Metal's command buffers
    r"|cudaMalloc failed|CUBLAS_STATUS_ALLOC_FAILED"
    r"|failed to create metal resource: buffer"  # candle's word for an allocation Metal refuses
    r"|memory allocation|cannot allocate memory"  # the host's
    r"|(not enough|insufficient) memory|does not fit on the devices",  # the engine's own planning
    re.IGNORECASE,
)
"""The wording of every layer of a node that has too little memory for what it was asked to do."""

# What a message means, by its wording (parts 2.5, 3, 4.4 and trap 13): first match counts.
_MEANINGS: tuple[tuple[re.Pattern[str], type[CortexError], bool], ...] = (
    (re.compile(r"model does not support images"), CannotSee, False),
    (re.compile(r"model does not support (audio|video)"), BadRequest, False),
    (
        re.compile(r"is not available\. Available models|No models are currently loaded"),
        ModelNotFound,
        True,
    ),
    (re.compile(r"is being reloaded"), ModelNotLoaded, True),
    (re.compile(r"failed to reload model"), ModelNotLoaded, True),
    (
        re.compile(r"engine state lock is poisoned|No response received from the model"),
        BadGateway,
        True,
    ),
    (OUT_OF_MEMORY, NodeError, True),
    (
        re.compile(
            r"sequence length is greater than"  # the engine's own words
            r"|maximum context length|context (length|window) exceeded|prompt is too long"
            r"|exceeds .{0,60}(context|max(imum)? (sequence|seq|model) len)"
            r"|(longer|greater) than .{0,60}"
            r"(context|max(imum)? (sequence|seq|model) len|max_seq_len)",
            re.IGNORECASE,
        ),
        ContextOverflow,
        False,
    ),
)

_LIMIT = re.compile(
    r"(?:maximum|max_model_len|context (?:size|length|window)|greater than|longer than|>)"
    r"\D{0,24}(\d{1,12})",
    re.IGNORECASE,
)
_LOST_FILE = re.compile(r"Input file `[^`]+` was not found")
_NUMBER = re.compile(r"\d{1,12}")
"""Where the words for an overflow have the limit, and the numbers of which the greatest is what was
asked for. No longer ones: nobody has that many tokens."""

# What a server in front of a node, or one that is no mistral.rs, says by its status alone (dialect
# notes 5), and whether only for now.
_STATUSES: dict[int, tuple[type[CortexError], bool]] = {
    401: (BadKey, False),
    402: (OverBudget, False),
    403: (Forbidden, False),
    404: (BadGateway, False),
    429: (RateLimited, True),
    502: (BadGateway, False),
    503: (BadGateway, False),
    504: (NodeTimeout, False),
    529: (Overloaded, True),
}

_SECONDS = re.compile(r"[0-9]{1,6}")


def read_error(status: int, body: bytes, retry_after: str | None = None) -> CortexError:
    """Return what an error response of a node means for the client, in the node's words.

    A 500 is not always the node's fault (part 4.4), so the wording decides before the status.
    ``retry_after`` is the header of that name.
    """
    words = error_words(body) or f"the node answered with status {status} and no words"
    error = _by_wording(words)
    if error is not None:
        return error
    if status in (400, 415, 422):
        return BadRequest(words)
    if status == 413:
        return BodyTooLarge(words)
    if status == 404:
        words = f"the node does not serve this route: {words}"
    kind, passes = _STATUSES.get(status, (NodeError, False))
    seconds = None
    if passes:
        told = retry_after is not None and _SECONDS.fullmatch(retry_after.strip())
        seconds = float(told[0]) if told else RETRY_WHEN_FULL
    return kind(words, elsewhere=status in _STATUSES, retry_after=seconds)


def read_stream_error(words: str) -> CortexError:
    """Return what an error inside a node's stream means, in the node's words."""
    words = words[:MAX_ERROR_CHARACTERS] or "the node broke its stream off without words"
    return _by_wording(words) or NodeError(words)


def _by_wording(words: str) -> CortexError | None:
    if _LOST_FILE.search(words):
        return StateNotFound(words, code="file_not_found")
    for pattern, kind, elsewhere in _MEANINGS:
        if pattern.search(words):
            error = kind(
                words,
                elsewhere=elsewhere,
                retry_after=RETRY_WHILE_LOADING if kind is ModelNotLoaded else None,
            )
            if isinstance(error, ContextOverflow):
                _read_numbers(error)
            return error
    return None


def _read_numbers(error: ContextOverflow) -> None:
    """Take the tokens of the prompt and of the window out of the words, where they have them."""
    found = _LIMIT.search(error.message)
    if found is None:
        return
    error.max_tokens = int(found[1])
    asked = max(int(number) for number in _NUMBER.findall(error.message))
    if asked > error.max_tokens:
        error.prompt_tokens = asked


def error_words(body: bytes) -> str:
    """Return the message in an error body of any known shape, cut to a reasonable length.

    Tried in turn: ``error.message``, ``error`` as a string, ``message``, ``detail``, the text.
    """
    try:
        value = decode(body)
    except NOT_JSON:
        value = body.decode("utf-8", "replace").strip()
    return _message(value)[:MAX_ERROR_CHARACTERS]


def _message(value: object) -> str:
    while isinstance(value, dict):
        key = next((key for key in ("error", "message", "detail") if value.get(key)), None)
        if key is None:
            break
        value = value[key]
    if isinstance(value, str):
        return value
    return encode(value).decode() if value else ""
