"""The meaning of a node's errors: in responses, inside streams, and as events of Messages streams.

The wording of an error decides first, because nodes answer 500 for faults that are not theirs
(nodes.md 4.4). Then follow its type, if the node speaks Messages, and the status of the response:
the reverse of the table by type in translation.md 5.
"""

from __future__ import annotations

import re
from typing import Final

from cortexd.dialects.wire.json_values import NOT_JSON, decode, encode
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

MAX_ERROR_CHARACTERS = 500
"""The maximum length of a node's message for clients: enough for its longest message."""

OUT_OF_MEMORY = re.compile(
    r"out[ _]?of[ _]?memory"  # CUDA's driver and runtime, Metal's command buffers
    r"|cudaMalloc failed|CUBLAS_STATUS_ALLOC_FAILED"
    r"|failed to create metal resource: buffer"  # candle's, for an allocation that Metal rejects
    r"|memory allocation|cannot allocate memory"  # of the host
    r"|(not enough|insufficient) memory|does not fit on the devices",  # the engine's own
    re.IGNORECASE,
)
"""The messages for lack of memory, from every layer of a node."""

# The meaning of a message, by its wording (nodes.md 2.5, 3.2, 3.3, 4.4 and 9.13); the first match
# applies.
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
        re.compile(
            r"engine state lock is poisoned|No response received from the model"
            r"|^Unexpected response type$"  # of a response (nodes.md 6.11)
        ),
        BadGateway,
        True,
    ),
    (OUT_OF_MEMORY, NodeError, True),
    (
        re.compile(
            r"sequence length is greater than"  # the engine's own message
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
"""Patterns for the limit in an overflow's message, and for its numbers, of which the largest is the
prompt's size. Longer numbers are not token counts."""

_Meaning = tuple[type[CortexError], bool]
"""Our class of an error, and whether another node may succeed."""

_BY_TYPE: Final[dict[str, _Meaning]] = {
    "invalid_request_error": (BadRequest, False),
    "request_too_large": (BodyTooLarge, False),
    "not_found_error": (ModelNotFound, True),
    "authentication_error": (BadKey, True),
    "permission_error": (Forbidden, True),
    "billing_error": (OverBudget, True),
    "rate_limit_error": (RateLimited, True),
    "overloaded_error": (Overloaded, True),
    "timeout_error": (NodeTimeout, True),
}

_BY_STATUS: Final[dict[int, _Meaning]] = {
    400: _BY_TYPE["invalid_request_error"],
    401: _BY_TYPE["authentication_error"],
    402: _BY_TYPE["billing_error"],
    403: _BY_TYPE["permission_error"],
    404: (BadGateway, True),  # the route is missing; for a missing model, the wording decides
    413: _BY_TYPE["request_too_large"],
    415: _BY_TYPE["invalid_request_error"],
    422: _BY_TYPE["invalid_request_error"],
    429: _BY_TYPE["rate_limit_error"],
    502: (BadGateway, True),
    503: (BadGateway, True),
    504: _BY_TYPE["timeout_error"],
    529: _BY_TYPE["overloaded_error"],
}
"""Most of these come from a server in front of a node, or from a server that is not mistral.rs."""

_OTHERWISE: Final[_Meaning] = (NodeError, False)

_SECONDS = re.compile(r"[0-9]{1,6}")


def read_error(status: int, body: bytes, retry_after: str | None = None) -> CortexError:
    """Return the error for a node's error response, with the node's message.

    ``retry_after`` is the header of that name.
    """
    words = error_words(body) or f"the node answered with status {status} and no message"
    error = _by_wording(words)
    if error is not None:
        return error
    meaning = _BY_TYPE.get(_error_type(body, needs_envelope=True))
    if meaning is None:
        meaning = _BY_STATUS.get(status, _OTHERWISE)
        if status == 404:
            words = f"the node does not serve this route: {words}"
    seconds = _SECONDS.fullmatch(retry_after.strip()) if retry_after is not None else None
    return _error(meaning, words, float(seconds[0]) if seconds else RETRY_WHEN_FULL)


def read_stream_error(words: str) -> CortexError:
    """Return the error for an error inside a node's stream, with the node's message."""
    words = _stream_words(words)
    return _by_wording(words) or _error(_OTHERWISE, words)


def read_error_event(data: bytes) -> CortexError:
    """Return the error for an error event of a Messages stream, with the node's message.

    ``data`` is the data of the event.
    """
    words = _stream_words(error_words(data))
    meaning = _BY_TYPE.get(_error_type(data, needs_envelope=False), _OTHERWISE)
    return _by_wording(words) or _error(meaning, words)


def _stream_words(words: str) -> str:
    return words[:MAX_ERROR_CHARACTERS] or "the node broke off its stream without a message"


def _error(meaning: _Meaning, words: str, retry_after: float = RETRY_WHEN_FULL) -> CortexError:
    """Return an error of this meaning; ``retry_after`` applies if the error may pass by itself."""
    kind, elsewhere = meaning
    passes = kind in (RateLimited, Overloaded)
    return kind(words, elsewhere=elsewhere, retry_after=retry_after if passes else None)


def _error_type(body: bytes, *, needs_envelope: bool) -> str:
    """Return the type of an error of the Messages dialect, empty if there is none.

    Without the Messages envelope, an error in a response belongs to the OpenAI dialect, in which
    the same types are less specific.
    """
    try:
        value = decode(body)
    except NOT_JSON:
        return ""
    if not isinstance(value, dict) or (needs_envelope and value.get("type") != "error"):
        return ""
    error = value.get("error")
    kind = error.get("type") if isinstance(error, dict) else None
    return kind if isinstance(kind, str) else ""


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
    """Read the tokens of the prompt and of the window from the message, if it has them."""
    found = _LIMIT.search(error.message)
    if found is None:
        return
    error.max_tokens = int(found[1])
    asked = max(int(number) for number in _NUMBER.findall(error.message))
    if asked > error.max_tokens:
        error.prompt_tokens = asked


def error_words(body: bytes) -> str:
    """Return the message in an error body of any known format, cut to a reasonable length.

    The first of these that exists: ``error.message``, ``error`` as a string, ``message``,
    ``detail``, the text.
    """
    try:
        value = decode(body)
    except NOT_JSON:
        value = body.decode("utf-8", "replace").strip()
    return _message(value)[:MAX_ERROR_CHARACTERS]


def first_line(words: str) -> str:
    """Return the first line of a node's message, shortened; a backtrace may follow it."""
    return words.strip().partition("\n")[0].rstrip()[:MAX_ERROR_CHARACTERS]


def _message(value: object) -> str:
    while isinstance(value, dict):
        key = next((key for key in ("error", "message", "detail") if value.get(key)), None)
        if key is None:
            break
        value = value[key]
    if isinstance(value, str):
        return value
    return encode(value).decode() if value else ""
