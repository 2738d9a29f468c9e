"""The meaning of a node's errors: in responses, inside streams, and as events of Messages streams.

The wording of an error decides first, because nodes answer 500 for faults that are not theirs
(nodes.md 4.4), and report faults of the request inside a stream without any type (nodes.md 4.3.10).
Then follow its type, if the node speaks Messages, and the status of the response: the reverse of
the table by type in translation.md 5.

An answer that no node means, such as a redirection or the page of a proxy, is a fault of the node.

Clients get the first line of a node's words, because a backtrace may follow it (nodes.md 3.9), and
never the data of an image or a key.
"""

from __future__ import annotations

import re
from typing import Final

from cortexd.dialects.wire.exchange import JSON
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
from cortexd.text import one_line, without_keys

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

_OF_THE_DEVICE = re.compile(
    r"\bCUDA_ERROR_\w|\bCU(BLAS|DNN|RAND|SPARSE|SOLVER)_STATUS_\w|\bnccl\w*Error"
    r"|\b(Driver|Cublas|CublasLt|Cudnn|Curand|Nccl|Compile)Error\("
    r"|\b(CUDA|cuBLAS(Lt)?|cuDNN|cuRAND|NCCL|NVML|HIP|ROCm)\b.{0,60}\b(error|fail(ed|ure)|lost)\b"
    r"|\bfailed with CUDA\b|not been built with (cuda|metal) support|\bmissing kernel '"
    r"|\bMetal error\b|command buffer had following error|could not lock resource"
    r"|failed to create (metal resource|pipeline|compute function)"
    r"|channel (is )?closed|\bpanicked\b",
    re.IGNORECASE,
)
_OF_A_DEAD_ENGINE = re.compile(
    r"\bCUDA_ERROR_(ILLEGAL_ADDRESS|ILLEGAL_INSTRUCTION|MISALIGNED_ADDRESS|INVALID_ADDRESS_SPACE"
    r"|INVALID_PC|HARDWARE_STACK_ERROR|LAUNCH_FAILED|LAUNCH_TIMEOUT|ASSERT|EXTERNAL_DEVICE"
    r"|CONTAINED|TENSOR_MEMORY_LEAK|ECC_UNCORRECTABLE|NVLINK_UNCORRECTABLE|MPS_\w+"
    r"|INVALID_CONTEXT|CONTEXT_IS_DESTROYED|DEINITIALIZED|NOT_INITIALIZED|NO_DEVICE"
    r"|DEVICE_UNAVAILABLE|SYSTEM_NOT_READY|SYSTEM_DRIVER_MISMATCH|UNKNOWN)\b"
    r"|illegal memory access|illegal instruction was encountered|misaligned address"
    r"|device-side assert|unspecified launch failure|uncorrectable (ECC|NVLink) error"
    r"|driver shutting down|no CUDA-capable device|CUDA driver version is insufficient"
    r"|fallen off the bus|\bGPU is lost"
    r"|(?<!sender )\b(lock|mutex) (is |was )?poisoned|poisoned lock|\bEnginePoisoned\b",
    re.IGNORECASE,
)
"""The words of faults in the device, its driver or the engine's threads, and of those among them
after which only a new process works (nodes.md 4.4.10 to 4.4.12)."""

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
    (re.compile(r"model `[^`]*` was not found"), ModelNotFound, True),
    (re.compile(r"is being reloaded"), ModelNotLoaded, True),
    (re.compile(r"failed to reload model"), ModelNotLoaded, True),
    (
        re.compile(
            r"(engine state|request sender) lock is poisoned|No response received from the model"
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
    # Words of the request come first: a client could otherwise name a tool after an error.
    (_OF_A_DEAD_ENGINE, NodeError, True),
    (_OF_THE_DEVICE, NodeError, True),
)

_OF_A_LOCK = re.compile(r"(engine state|request sender) lock is poisoned")
"""The words of a node that could not pass a request on to an engine (nodes.md 2.5.6, 4.4.12)."""

_OF_A_LOST_ENGINE = re.compile(r"No response received from the model|^Unexpected response type$")
"""The words for a request whose engine was gone: it was unloaded, or it died (nodes.md 2.5.3)."""

_OF_SERVER: Final = frozenset({_OF_A_DEAD_ENGINE, _OF_THE_DEVICE})
_ERROR_KEYS: Final = ("error", "message", "detail")

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
_UNMEANT: Final[_Meaning] = (BadGateway, True)
"""The meaning of an answer that the node's own server would not send: something before it did."""

_PAGE: Final = "text/html"
_TITLE = re.compile(r"<title[^>]*>\s*([^<]{1,120})", re.IGNORECASE)

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

    Any status but 200 is one. ``retry_after`` is the header of that name.
    """
    value, is_page = _decoded(body)
    words = _message(value).strip() or f"the node answered with status {status} and no message"
    if status < 400:
        # No server of models answers so: a redirection, or an acceptance without an answer.
        return BadGateway(
            f"the node answered with status {status}, which is no answer to this request",
            elsewhere=True,
        )
    error = _by_wording(words, is_of_server=status >= 500) if not is_page else None
    if error is not None:
        return error
    words = clean(words)
    meaning = _by_code(value) or _BY_TYPE.get(_error_type(value, needs_envelope=True))
    if meaning is None:
        meaning = _BY_STATUS.get(status, _OTHERWISE)
        if status > 504 or (is_page and status >= 500):
            meaning = _BY_STATUS.get(status, _UNMEANT)
        if status == 404:
            words = f"the node does not serve this route: {words}"
    seconds = _SECONDS.fullmatch(retry_after.strip()) if retry_after is not None else None
    error = _error(meaning, words, float(seconds[0]) if seconds else RETRY_WHEN_FULL)
    if status == 404:
        error.is_node_fault = False  # it serves its other routes
    return error


def read_other_kind(content_type: str | None, body: bytes, wanted: str) -> CortexError:
    """Return the error for an answer with status 200 that is of another kind than the ``wanted``.

    A node may say there what went wrong; the body may also be a page of a server in front of it.
    """
    value, is_page = _decoded(body)
    is_error = isinstance(value, dict) and any(value.get(key) for key in _ERROR_KEYS)
    if is_error or (isinstance(value, str) and not is_page and _by_wording(value) is not None):
        return read_error(500, body)
    kind = "a body without a content type" if not content_type else content_type[:60]
    return BadGateway(
        f"the node answered with {one_line(kind)} instead of {wanted}", elsewhere=True
    )


def is_page(content_type: str | None) -> bool:
    """Return whether an answer is a page for people, which no route of a node gives."""
    return content_type is not None and content_type.startswith(_PAGE)


def is_text(content_type: str | None) -> bool:
    """Return whether an answer is text or JSON, which is an error where sound was requested."""
    return content_type is not None and content_type.startswith(("text/", JSON))


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
    value, _ = _decoded(data)
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


def _by_wording(words: str, *, is_of_server: bool = True) -> CortexError | None:
    """Return the error that a message means by its wording, ``None`` if it means none.

    A status below 500 says that the request is wrong. Then ``is_of_server`` is false, and words of
    the device count as the client's, which the node repeats.
    """
    given, words = _searched(words), clean(words)
    if _LOST_FILE.search(given):
        return StateNotFound(words, code="file_not_found")
    for pattern, kind, elsewhere in _MEANINGS:
        if not is_of_server and pattern in _OF_SERVER:
            continue
        if pattern.search(given):
            error = kind(words, elsewhere=elsewhere)
            if is_of_server and elsewhere and _OF_A_DEAD_ENGINE.search(given):
                error.is_poisoned = error.is_node_fault = error.ends_engine = True
            if _OF_A_LOCK.search(given):
                error.is_unbegun, error.ends_engine = True, False
            elif _OF_A_LOST_ENGINE.search(given):
                error.ends_engine = True
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
    return _message(_decoded(body)[0])[:MAX_ERROR_CHARACTERS]


def first_line(words: str) -> str:
    """Return the first line of a node's message, shortened; a backtrace may follow it."""
    return words.strip().partition("\n")[0].rstrip()[:MAX_ERROR_CHARACTERS]


def clean(words: str) -> str:
    """Return a node's message as a client may see it: its first line, without data URLs and keys.

    A key in a node's message is one of ours: nodes never see those of clients.
    """
    return first_line(without_keys(_DATA_URL.sub("(data URL)", words.strip().partition("\n")[0])))


def _searched(words: str) -> str:
    """Return the parts of a message in which its meaning is looked for."""
    if len(words) <= _SEARCHED_AT_THE_BEGINNING + _SEARCHED_AT_THE_END:
        return words
    return f"{words[:_SEARCHED_AT_THE_BEGINNING]}\n{words[-_SEARCHED_AT_THE_END:]}"


def _decoded(body: bytes) -> tuple[object, bool]:
    """Return the JSON value or the text of a body, and whether it is a page for people.

    The text of a page is its title.
    """
    try:
        return decode(body), False
    except NOT_JSON:
        text = body.decode("utf-8", "replace").strip()
    if not text.startswith("<"):
        return text, False
    title = _TITLE.search(text, 0, _SEARCHED_AT_THE_BEGINNING)
    return (" ".join(title[1].split()) if title else ""), True


def _message(value: object) -> str:
    while isinstance(value, dict):
        key = next((key for key in _ERROR_KEYS if value.get(key)), None)
        if key is None:
            break
        value = value[key]
    if isinstance(value, str):
        return value
    return encode(value).decode() if value else ""
