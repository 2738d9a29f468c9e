"""The meaning of a node's errors: in responses, inside streams, and as events of Messages streams.

The wording of an error decides first, because nodes answer 500 for faults that are not theirs
(nodes.md 4.4), and report faults of the request inside a stream without any type (nodes.md 4.3.10).
Then follow its type, if the node speaks Messages, and the status of the response: the reverse of
the table by type in translation.md 5.

Clients get the first line of a node's words, because a backtrace may follow it (nodes.md 3.9), and
never the data of an image.
"""

from __future__ import annotations

import re
from typing import Final

from cortexd.dialects.wire.json_values import NOT_JSON, decode, encode
from cortexd.errors import (
    RETRY_WHEN_FULL,
    RETRY_WHILE_LOADING,
    BadGateway,
    BadImage,
    BadKey,
    BadRequest,
    BodyTooLarge,
    CannotForceCall,
    CannotSee,
    ContextOverflow,
    CortexError,
    Forbidden,
    LastingNodeError,
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

_OF_THE_TEMPLATE = re.compile(r"\(in \S*chat_template\S*:\d+\)|Chat template does not contain")
_OF_THE_REQUEST = re.compile(
    r"invalid grammar\."
    r"|invalid reasoning[ _]effort|reasoning effort `\w+` conflicts with"
    r"|incompatible for this model's category"
    r"|does not have a chat template|chat template does not handle tool usage"
    r"|received an empty prompt|input must contain at least one entry"
    r"|number of choices must be greater than 0|max_tokens must be at least 1"
    r"|`grammar` and `response_format` were both provided"
    r"|tool_choice (references|forcing|of)|tool_choice\.allowed_tools"
    r"|role for an image message must be|expected `text` key in input message"
    r"|expected array content sub-content|chat completions file content does not support"
    r"|custom embedding dimensions"
    r"|stop token .{0,200} is also a prefix of other tokens"
    r"|failed to parse (audio|video) resource|\b(audio|video) (data )?(URL|source)\b",
    re.IGNORECASE,
)
_OF_AN_IMAGE = re.compile(
    r"failed to parse image resource|the image format|format error (de|en)coding"
    r"|failed to lookup address information|remote media (URL|host)"
    r"|\bimage (data )?(URL|source|response|redirect)|failed to fetch image",
    re.IGNORECASE,
)
_OF_EVERY_NODE = re.compile(
    r"shape mismatch in|unexpected (rank|shape|dtype)|unsupported dtype|dtype mismatch in"
    r"|no (cuda|metal|cpu) implementation for|is only supported for contiguous tensors"
    r"|require the pipeline to have a tokenizer|not (yet )?implemented",
    re.IGNORECASE,
)
"""The words of errors in templates, of faults of the request, of images that a node cannot get or
read, and of faults that the same request meets on every node (nodes.md 4.1.10, 4.3.10, 4.4.5)."""

# The meaning of a message, by its wording (nodes.md 2.5, 3.2, 3.3, 4.4 and 9.13); the first match
# applies.
_MEANINGS: tuple[tuple[re.Pattern[str], type[CortexError], bool], ...] = (
    (re.compile(r"model does not support images"), CannotSee, False),
    (re.compile(r"model does not support (audio|video)"), BadRequest, False),
    (_OF_THE_TEMPLATE, BadRequest, False),
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
    (re.compile(r"tool choice was required but", re.IGNORECASE), CannotForceCall, False),
    (_OF_AN_IMAGE, BadImage, False),
    (_OF_THE_REQUEST, BadRequest, False),
    (_OF_EVERY_NODE, LastingNodeError, False),
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

_BUSY: Final = "service_unavailable"
"""The code with which newer nodes refuse work for now, whatever the status (nodes.md 0.4)."""

_DATA_URL = re.compile(r"\bdata:[^\s\"'`<>]{0,200}[;,][^\s\"'`<>]*", re.IGNORECASE)
_SECONDS = re.compile(r"[0-9]{1,6}")
_NO_WORDS: Final = "the node broke off its stream without a message"

_SEARCHED_AT_THE_BEGINNING = 8_000
_SEARCHED_AT_THE_END = 1_000
"""How many characters of a long message are searched for its meaning: a template may put a whole
prompt before the position of its error."""


def read_error(status: int, body: bytes, retry_after: str | None = None) -> CortexError:
    """Return the error for a node's error response, with the node's message.

    ``retry_after`` is the header of that name.
    """
    value = _decoded(body)
    words = _message(value).strip() or f"the node answered with status {status} and no message"
    error = _by_wording(words)
    if error is not None:
        return error
    words = clean(words)
    meaning = _by_code(value) or _BY_TYPE.get(_error_type(value, needs_envelope=True))
    if meaning is None:
        meaning = _BY_STATUS.get(status, _OTHERWISE)
        if status == 404:
            words = f"the node does not serve this route: {words}"
    seconds = _SECONDS.fullmatch(retry_after.strip()) if retry_after is not None else None
    return _error(meaning, words, float(seconds[0]) if seconds else RETRY_WHEN_FULL)


def read_stream_error(error: object) -> CortexError:
    """Return the error for an error inside a node's stream, with the node's message.

    ``error`` is the JSON value of the error, or its text.
    """
    words = _message(error).strip() or _NO_WORDS
    meaning = _by_code({"error": error}) or _OTHERWISE
    return _by_wording(words) or _error(meaning, clean(words))


def read_error_event(data: bytes) -> CortexError:
    """Return the error for an error event of a Messages stream, with the node's message.

    ``data`` is the data of the event.
    """
    value = _decoded(data)
    words = _message(value).strip() or _NO_WORDS
    meaning = _by_code(value) or _BY_TYPE.get(_error_type(value, needs_envelope=False), _OTHERWISE)
    return _by_wording(words) or _error(meaning, clean(words))


def _by_code(value: object) -> _Meaning | None:
    """Return the meaning of an error by its code, ``None`` if the code has no meaning."""
    error = value.get("error") if isinstance(value, dict) else None
    for fields in (error, value):
        if isinstance(fields, dict) and _BUSY in (fields.get("code"), fields.get("type")):
            return _BY_TYPE["overloaded_error"]
    return None


def _error(meaning: _Meaning, words: str, retry_after: float = RETRY_WHEN_FULL) -> CortexError:
    """Return an error of this meaning; ``retry_after`` applies if the error may pass by itself."""
    kind, elsewhere = meaning
    passes = kind in (RateLimited, Overloaded)
    return kind(words, elsewhere=elsewhere, retry_after=retry_after if passes else None)


def _error_type(value: object, *, needs_envelope: bool) -> str:
    """Return the type of an error of the Messages dialect, empty if there is none.

    Without the Messages envelope, an error in a response belongs to the OpenAI dialect, in which
    the same types are less specific.
    """
    if not isinstance(value, dict) or (needs_envelope and value.get("type") != "error"):
        return ""
    error = value.get("error")
    kind = error.get("type") if isinstance(error, dict) else None
    return kind if isinstance(kind, str) else ""


def _by_wording(words: str) -> CortexError | None:
    """Return the error that a message means by its wording, ``None`` if it means none."""
    given, words = _searched(words), clean(words)
    if _LOST_FILE.search(given):
        return StateNotFound(words, code="file_not_found")
    for pattern, kind, elsewhere in _MEANINGS:
        if pattern.search(given):
            error = kind(words, elsewhere=elsewhere)
            if kind is ModelNotLoaded:
                error.retry_after = RETRY_WHILE_LOADING
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
    return _message(_decoded(body))[:MAX_ERROR_CHARACTERS]


def first_line(words: str) -> str:
    """Return the first line of a node's message, shortened; a backtrace may follow it."""
    return words.strip().partition("\n")[0].rstrip()[:MAX_ERROR_CHARACTERS]


def clean(words: str) -> str:
    """Return a node's message as a client may see it: its first line, without data URLs."""
    return first_line(_DATA_URL.sub("(data URL)", words.strip().partition("\n")[0]))


def _searched(words: str) -> str:
    """Return the parts of a message in which its meaning is looked for."""
    if len(words) <= _SEARCHED_AT_THE_BEGINNING + _SEARCHED_AT_THE_END:
        return words
    return f"{words[:_SEARCHED_AT_THE_BEGINNING]}\n{words[-_SEARCHED_AT_THE_END:]}"


def _decoded(body: bytes) -> object:
    try:
        return decode(body)
    except NOT_JSON:
        return body.decode("utf-8", "replace").strip()


def _message(value: object) -> str:
    while isinstance(value, dict):
        key = next((key for key in ("error", "message", "detail") if value.get(key)), None)
        if key is None:
            break
        value = value[key]
    if isinstance(value, str):
        return value
    return encode(value).decode() if value else ""
