import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes.errors import (
    MAX_ERROR_CHARACTERS,
    error_words,
    first_line,
    read_error,
    read_error_event,
    read_other_kind,
    read_stream_error,
)
from cortexd.errors import (
    RETRY_WHEN_FULL,
    BadGateway,
    BadImage,
    BadKey,
    BadRequest,
    BodyTooLarge,
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
)
from tests.dialects.bodies import ANY_ANSWER


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def in_messages(kind: str, words: str = "m") -> bytes:
    """Return an error in the envelope of the Messages dialect."""
    return body(type="error", error={"type": kind, "message": words})


UNAVAILABLE = (
    "Requested model 'x' is not available. Available models: a, b. Use 'default' to use the "
    "default model."
)
TOO_LONG = "Prompt sequence length is greater than 64, perhaps consider using `truncate_sequence`?"
MEANINGS: list[tuple[str, type[CortexError], bool]] = [
    (UNAVAILABLE, ModelNotFound, True),
    (
        "Requested model 'x' is not available. No models are currently loaded.",
        ModelNotFound,
        True,
    ),
    ("This model does not support images, audio or video.", CannotSee, False),
    ("This model does not support audio", BadRequest, False),
    ("model `x` is being reloaded", ModelNotLoaded, True),
    ("failed to reload model: failed to load model", ModelNotLoaded, True),
    ("failed to reload model: CUDA_ERROR_OUT_OF_MEMORY", ModelNotLoaded, True),
    ("engine state lock is poisoned", BadGateway, True),
    ("No response received from the model.", BadGateway, True),
    ('DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")', NodeError, True),
    ("CUDA error: Out of memory", NodeError, True),
    (TOO_LONG, ContextOverflow, False),
    (
        "This model's maximum context length is 64 tokens, you asked for 99",
        ContextOverflow,
        False,
    ),
    ("The prompt is longer than the model's context window", ContextOverflow, False),
    ("prompt is too long: 99 tokens > 64 maximum", ContextOverflow, False),
]


FAULTS_OF_THE_DEVICE = [
    "CublasError(CUBLAS_STATUS_EXECUTION_FAILED)",
    'DriverError(CUDA_ERROR_INVALID_VALUE, "invalid argument")',
    "CUDA graph launch failed",
    "routed LoRA CUDA grouped_gemm failed with CUDA error 2",
    "the candle crate has not been built with cuda support",
    "missing kernel 'fused_moe'",
    "NcclError(ncclSystemError)",
    "Metal error Command buffer had following error: Internal Error (0000000e)",
    "channel closed",
    "ISQ worker panicked",
]
FAULTS_OF_A_DEAD_ENGINE = [
    'DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered")',
    "CUDA_ERROR_LAUNCH_FAILED",
    'DriverError(CUDA_ERROR_ECC_UNCORRECTABLE, "uncorrectable ECC error encountered")',
    'DriverError(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected")',
    "failed to load model: CUDA_ERROR_INVALID_CONTEXT",
    "CUDA driver version is insufficient for CUDA runtime version",
    "Metal error Could not lock resource: poisoned lock: another task failed inside",
    "skill store lock poisoned",
]
SAYS_NOTHING_OF_THE_ENGINE = [
    'DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")',
    "No response received from the model.",
    "channel closed",
    "request sender lock is poisoned",
    "the tool was poisoned by its own output",
]
PAGE = (
    b"<!DOCTYPE html>\n<html><head><title>502\n Bad Gateway</title></head><body>nginx</body></html>"
)


FAULTS_OF_THE_REQUEST = [
    "invalid operation: Conversation roles must alternate (in chat_template:12)",
    "unknown method: string has no method named items (in chat_template:3)",
    "Invalid grammar. Invalid type: wat",
    'Invalid grammar. Unimplemented keys: ["not"]',
    "invalid reasoning effort `huge`; expected one of: off, none, low, medium, high, xhigh, max",
    "Invalid reasoning_effort: huge",
    "reasoning effort `off` conflicts with enable_thinking=true",
    "Received a request incompatible for this model's category.",
    "Received messages for a model which does not have a chat template. Either use a different "
    "model or pass a single string as the prompt",
    "Tools were provided but this chat template does not handle tool usage",
    "Received an empty prompt.",
    "Number of choices must be greater than 0.",
    "Role for an image message must be `user`, but it is assistant",
    "Custom embedding dimensions (7) are not supported.",
    "tool_choice references unknown tool `f`.",
]
FAULTS_OF_IMAGES = [
    "The image format could not be determined",
    "failed to lookup address information: Name or service not known",
    "Remote media URLs must not target private or local IP addresses.",
    "Failed to parse image resource: data:image/png;base64,AAAA",
    "Failed to parse image resource: DATA:image/png;base64,AAAA",
]


# Of each type of the Messages dialect, what it is to us, the status that we give it, and whether
# another node may do better.
TYPES: dict[str, tuple[type[CortexError], int, bool]] = {
    "invalid_request_error": (BadRequest, 400, False),
    "authentication_error": (BadKey, 401, True),
    "billing_error": (OverBudget, 429, True),
    "permission_error": (Forbidden, 403, True),
    "not_found_error": (ModelNotFound, 404, True),
    "request_too_large": (BodyTooLarge, 413, False),
    "rate_limit_error": (RateLimited, 429, True),
    "overloaded_error": (Overloaded, 503, True),
    "timeout_error": (NodeTimeout, 504, True),
}


class ErrorTests(SynchronousTestCase):
    def test_meanings(self) -> None:
        """A message means the same whatever status it comes with, in a stream too, in its words."""
        for words, kind, elsewhere in MEANINGS:
            found = [read_error(status, body(message=words)) for status in (422, 500, 503)]
            for error in (*found, read_stream_error(words)):
                assert (kind, elsewhere, words) == (type(error), error.elsewhere, error.message)
                assert (kind is ModelNotLoaded) == (error.retry_after is not None)

    def test_faults_of_the_request(self) -> None:
        """What a node says of the request is a 400 in its first line, whatever brings the words."""
        for words in FAULTS_OF_THE_REQUEST:
            told = f"{words}\n\nStack backtrace:\n   0: anyhow::error"
            for error in (
                *(read_error(status, body(message=told)) for status in (422, 500, 503)),
                read_stream_error({"message": told, "type": "server_error", "code": None}),
                read_stream_error(told),
                read_error_event(in_messages("api_error", told)),
            ):
                assert BadRequest is type(error), words
                assert (words, False, None) == (error.message, error.elsewhere, error.retry_after)

    def test_images(self) -> None:
        """An image that a node cannot have is a 400 in words that clients act on, without data."""
        for words in FAULTS_OF_IMAGES:
            error = read_stream_error(words)
            assert (BadImage, False) == (type(error), error.elsewhere), words
            assert error.message.startswith("Could not process image: ")
            assert "AAAA" not in error.message
        of_a_load = read_error(500, body(message=f"failed to reload model: {FAULTS_OF_IMAGES[1]}"))
        assert ModelNotLoaded is type(of_a_load)

    def test_long_error_of_a_template(self) -> None:
        """A template may put the whole prompt before the words by which its error is known."""
        error = read_error(500, body(message=f"{'x' * 50_000} (in chat_template:7)"))

        assert (BadRequest, MAX_ERROR_CHARACTERS) == (type(error), len(error.message))

    def test_lasting(self) -> None:
        """A fault of the engine that each node would repeat is not tried elsewhere, nor again."""
        words = "shape mismatch in matmul, lhs: [1, 8], rhs: [9, 8]"
        for error in (read_error(500, body(message=words)), read_stream_error(words)):
            assert (LastingNodeError, False) == (type(error), error.elsewhere)

    def test_device(self) -> None:
        """A fault of the device or its driver is the node's, and another node may do better."""
        for words in (*FAULTS_OF_THE_DEVICE, *FAULTS_OF_A_DEAD_ENGINE):
            for error in (
                read_error(500, body(message=words)),
                read_stream_error(words),
                read_stream_error({"message": words, "type": "server_error"}),
                read_error_event(in_messages("api_error", words)),
            ):
                assert (True, True) == (error.elsewhere, error.is_node_fault), words
                assert words == error.message
                assert (words in FAULTS_OF_A_DEAD_ENGINE) == error.is_poisoned, words

    def test_dead_engine(self) -> None:
        """Only words after which no request can succeed are a reason for another process."""
        for words in SAYS_NOTHING_OF_THE_ENGINE:
            assert not read_error(500, body(message=words)).is_poisoned, words
        locked = read_error(500, body(message="engine state lock is poisoned"))
        assert (BadGateway, True) == (type(locked), locked.is_poisoned)
        reload = read_error(
            500, body(message=f"failed to reload model: {FAULTS_OF_A_DEAD_ENGINE[0]}")
        )
        assert (ModelNotLoaded, True, True) == (
            type(reload),
            reload.is_poisoned,
            reload.is_node_fault,
        )

    def test_words_of_the_client(self) -> None:
        """A client cannot have a node taken for dead by a name that the node's error repeats."""
        for name in ("CUDA_ERROR_ILLEGAL_ADDRESS", "device-side assert", "channel closed"):
            for answer in (
                read_error(422, body(message=f"unknown field `{name}`")),
                read_error(
                    500, body(message=f"tool_choice references unknown function tool {name}")
                ),
                read_error(500, body(message=f"{name} (in chat_template:3)")),
                read_stream_error(f"Invalid grammar. Invalid type: {name}"),
            ):
                assert BadRequest is type(answer)
                assert (False, False, False) == (
                    answer.elsewhere,
                    answer.is_node_fault,
                    answer.is_poisoned,
                )

    def test_no_answer(self) -> None:
        """A status that no request of ours asks for is the fault of the node or its proxy."""
        for status in (101, 102, 201, 204, 206, 301, 302, 304, 307, 399):
            for answer in (b"", PAGE, body(message="Received an empty prompt.")):
                error = read_error(status, answer)
                assert (BadGateway, True, True) == (
                    type(error),
                    error.elsewhere,
                    error.is_node_fault,
                )
                assert f"status {status}" in error.message

    def test_page(self) -> None:
        """A page for people comes from a server before the node; its title says the most."""
        for status in (500, 502, 503, 520, 599):
            error = read_error(status, PAGE)
            assert (BadGateway, True, "502 Bad Gateway") == (
                type(error),
                error.elsewhere,
                error.message,
            )
        assert "status 500" in read_error(500, b"<html></html>").message
        assert BadRequest is type(read_error(400, PAGE))

    def test_no_stream(self) -> None:
        """Where a stream was due, an error is read as one; any other body is the node's fault."""
        told = read_other_kind(
            "application/json", body(message="Received an empty prompt."), "an event stream"
        )
        assert BadRequest is type(told)
        fell = read_other_kind(
            "application/json", body(error={"message": "it fell over"}), "an event stream"
        )
        assert (NodeError, "it fell over") == (type(fell), fell.message)
        plain = read_other_kind("text/plain", b"model `x` is being reloaded", "an event stream")
        assert ModelNotLoaded is type(plain)
        for kind, answer in (
            ("text/html", PAGE),
            ("application/json", body(choices=[{"message": {"content": "secret"}}])),
            ("text/plain", b"hello"),
            (None, b""),
        ):
            error = read_other_kind(kind, answer, "an event stream")
            assert (BadGateway, True, True) == (type(error), error.elsewhere, error.is_node_fault)
            assert "instead of an event stream" in error.message
            assert "secret" not in error.message

    def test_keys(self) -> None:
        """A key in a node's words reaches no client: it can only be ours."""
        words = "Incorrect API key provided: sk-live-0123456789abcdef. Find it at https://x.example/keys"
        for error in (read_error(401, body(error={"message": words})), read_stream_error(words)):
            assert "0123456789abcdef" not in error.message
            assert error.message.endswith("Find it at https://x.example/keys")

    def test_busy(self) -> None:
        """The code of a node that is busy for now means so with any status, and in a stream."""
        fields = {"message": "later", "type": "server_error", "code": "service_unavailable"}
        for error in (
            read_error(503, body(error=fields), "7"),
            read_error(500, body(**fields), "7"),
            read_stream_error(fields),
        ):
            assert (Overloaded, True, "later") == (type(error), error.elsewhere, error.message)
            assert error.retry_after in (7.0, RETRY_WHEN_FULL)

    def test_other_messages(self) -> None:
        """A message that only sounds like one of those is none of them."""
        for words in (
            "The number of choices is 0",
            "the template renders an image",
            "the grammar could not be applied",
        ):
            assert BadRequest is type(read_error(422, body(message=words)))
            assert NodeError is type(read_error(500, body(message=words)))
            assert NodeError is type(read_stream_error(words))

    def test_statuses(self) -> None:
        """Without known words the status decides; only a node's own trouble is tried elsewhere."""
        for status, kind, elsewhere in (
            (400, BadRequest, False),
            (415, BadRequest, False),
            (422, BadRequest, False),
            (413, BodyTooLarge, False),
            (404, BadGateway, True),
            (401, BadKey, True),
            (402, OverBudget, True),
            (403, Forbidden, True),
            (429, RateLimited, True),
            (529, Overloaded, True),
            (502, BadGateway, True),
            (503, BadGateway, True),
            (504, NodeTimeout, True),
            (500, NodeError, False),
            (405, NodeError, False),
        ):
            error = read_error(status, b"some words")
            assert (kind, elsewhere) == (type(error), error.elsewhere)
            assert "some words" in error.message
            assert (status in (429, 529)) == (error.retry_after is not None)
            told = read_error(status, b"some words", "17")
            assert (17.0 if status in (429, 529) else None) == told.retry_after

    def test_envelope_of_messages(self) -> None:
        """In the Messages envelope the type decides before the status, where it is a known one."""
        for kind, (expected, status, elsewhere) in TYPES.items():
            for answered in (500, 404):
                error = read_error(answered, in_messages(kind, "some words"))
                assert (expected, status) == (type(error), error.status)
                assert ("some words", elsewhere) == (error.message, error.elsewhere)
        assert 17.0 == read_error(500, in_messages("overloaded_error"), "17").retry_after
        assert Overloaded is type(read_error(529, in_messages("new_error")))
        assert NodeError is type(read_error(500, in_messages("api_error")))

    def test_envelope_of_openai(self) -> None:
        """In OpenAI's envelope the same types mean less: the status decides."""
        refused = {"message": "no such key", "type": "invalid_request_error"}

        assert BadKey is type(read_error(401, body(error=refused)))

    def test_statuses_say_the_same_as_types(self) -> None:
        """A fault is the same to us by its type and by the status that the dialect gives it."""
        for status, kind in (
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (402, "billing_error"),
            (403, "permission_error"),
            (413, "request_too_large"),
            (429, "rate_limit_error"),
            (504, "timeout_error"),
            (529, "overloaded_error"),
        ):
            by_status = read_error(status, b"some words")
            by_type = read_error_event(in_messages(kind, "some words"))
            for name in ("message", "status", "elsewhere", "retry_after"):
                assert getattr(by_type, name) == getattr(by_status, name), name
            assert type(by_type) is type(by_status)

    def test_shapes(self) -> None:
        """A message is found in every shape that nodes and their front doors give it."""
        for answer in (
            body(message="why", partial_response={"id": "1"}),
            body(error={"message": "why", "type": "server_error"}),
            body(error="why"),
            body(detail="why"),
            body(error=None, message="why"),
            body(error={}, detail={"message": "why"}),
            b'"why"',
            b" why\n",
        ):
            assert "why" == error_words(answer)
        assert '[{"loc":1}]' == error_words(body(detail=[{"loc": 1}]))

    def test_length(self) -> None:
        """Of a long message the beginning is passed on."""
        words = "x" * 10_000
        for found in (
            read_error(500, body(message=words)).message,
            read_error(500, words.encode()).message,
            read_stream_error(words).message,
        ):
            assert "x" * MAX_ERROR_CHARACTERS == found

    def test_no_words(self) -> None:
        """An error without words still says something, with the status where there is one."""
        for answer in (b"", b"{}", b"null", b'{"message": ""}'):
            assert read_error(500, answer).message
        assert "status 500" in read_error(500, b"").message
        assert read_stream_error("").message

    def test_nest(self) -> None:
        """An error nested as deep as can be read is found, deeper is passed on as text."""
        assert "why" == error_words(b'{"error":' * 900 + b'"why"' + b"}" * 900)
        assert error_words(b'{"error":' * 5_000).startswith('{"error":')

    @settings(max_examples=200)
    @given(st.sampled_from([400, 404, 422, 500, 503]), ANY_ANSWER)
    def test_any_error(self, status: int, answer: bytes) -> None:
        """Whatever a node answers, the client gets an error in words of a bounded length."""
        message = read_error(status, answer).message

        assert 0 < len(message) <= MAX_ERROR_CHARACTERS + 100


class EventTests(SynchronousTestCase):
    def test_by_type(self) -> None:
        """The type of an error in a Messages stream says what it is to us; its words are kept."""
        others: dict[str, tuple[type[CortexError], int, bool]] = {
            "api_error": (NodeError, 500, False),
            "new_error": (NodeError, 500, False),
        }
        for kind, (expected, status, elsewhere) in {**TYPES, **others}.items():
            found = read_error_event(in_messages(kind, "in the node's words"))
            assert expected is type(found), kind
            assert (status, "in the node's words") == (found.status, found.message)
            assert elsewhere is found.elsewhere
            passes = expected in (Overloaded, RateLimited)
            assert (RETRY_WHEN_FULL if passes else None) == found.retry_after

    def test_by_wording(self) -> None:
        """Words that have a meaning of their own decide before the type."""
        words = "prompt is too long: 210000 tokens > 200000 maximum"
        for kind in ("invalid_request_error", "api_error"):
            found = read_error_event(in_messages(kind, words))
            assert (ContextOverflow, words) == (type(found), found.message)
        memory = read_error_event(in_messages("overloaded_error", "CUDA out of memory"))

        assert (NodeError, True) == (type(memory), memory.elsewhere)

    @given(st.binary() | st.text().map(str.encode))
    def test_any_words(self, data: bytes) -> None:
        """Of whatever a node calls an error, an error is made."""
        assert isinstance(read_error_event(data), CortexError)


class FirstLineTests(SynchronousTestCase):
    @settings(max_examples=100)
    @given(st.text())
    def test_any_words(self, words: str) -> None:
        """A first line has no line's end in it, and is empty only where there are no words."""
        line = first_line(words)
        assert "\n" not in line
        assert bool(line) == bool(words.strip())
