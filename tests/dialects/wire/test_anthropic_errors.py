"""Errors in the Anthropic envelope, by translation.md 5."""

from anthropic.types import ErrorResponse
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes.errors import read_error, read_stream_error
from cortexd.dialects.wire.anthropic_errors import error_event
from cortexd.dialects.wire.envelopes import error_response, request_id_headers
from cortexd.dialects.wire.json_values import decode
from cortexd.dialects.wire.profile import Profile
from cortexd.errors import (
    BadGateway,
    BadKey,
    BadRequest,
    BodyTooLarge,
    ContextOverflow,
    CortexError,
    Forbidden,
    MethodNotAllowed,
    ModelDoesNotFit,
    ModelNotFound,
    ModelNotLoaded,
    NodeError,
    NodeTimeout,
    Overloaded,
    QueueFull,
    QueueTimeout,
    Unauthenticated,
    UnknownRoute,
)
from tests.covers import covers
from tests.dialects.anthropic_bodies import IMAGE, refused_messages, text, user
from tests.dialects.message_answers import events_of

MESSAGES = "/v1/messages"
ROUTES = (MESSAGES, "/v1/messages/count_tokens", "/v1/messages/nothing/here")
OTHERS = ("/v1/chat/completions", "/v1/models", "/v1/messages_of_another_kind", "/", "")


def words(error: CortexError) -> str:
    _, _, body = error_response(MESSAGES, error)
    message = decode(body)["error"]["message"]
    assert isinstance(message, str)
    return message


class EnvelopeTests(SynchronousTestCase):
    @covers("T41")
    def test_t41_envelope(self) -> None:
        """T41: On its routes, served or not, an error has the Anthropic envelope."""
        for path in ROUTES:
            status, headers, body = error_response(path, UnknownRoute("nothing here"), "req_1")
            assert (404, {"Content-Type": "application/json"}) == (status, headers)
            assert {
                "type": "error",
                "error": {"type": "not_found_error", "message": "nothing here"},
                "request_id": "req_1",
            } == decode(body)

    @covers("T41")
    def test_t41_other_routes(self) -> None:
        """T41: Everywhere else it has the OpenAI one."""
        for path in OTHERS:
            _, _, body = error_response(path, UnknownRoute("nothing here"), "req_1")
            assert {"error"} == decode(body).keys()

    @covers("T41")
    def test_t41_a_client_of_the_dialect(self) -> None:
        """T41: A client that names its version has it everywhere but on the routes of the other."""
        for path in (*ROUTES, "/v1/models/m", "/v1/skills", "/v1/complete", "/v1/files", "/"):
            _, _, body = error_response(path, UnknownRoute("nothing"), "req_1", has_version=True)
            assert "not_found_error" == decode(body)["error"]["type"], path
        for path in ("/v1/chat/completions", "/v1/responses/resp_1", "/v1/images/edits"):
            _, _, body = error_response(path, UnknownRoute("nothing"), "req_1", has_version=True)
            assert "unknown_url" == decode(body)["error"]["code"], path

    def test_statuses_and_types(self) -> None:
        """Each error has the status and the type of its row in translation.md 5."""
        for error, status, kind in (
            (BadRequest("x"), 400, "invalid_request_error"),
            (ContextOverflow("x"), 400, "invalid_request_error"),
            (Forbidden("x"), 403, "permission_error"),
            (ModelNotFound("x"), 404, "not_found_error"),
            (UnknownRoute("x"), 404, "not_found_error"),
            (MethodNotAllowed("x", allow=("POST",)), 405, "invalid_request_error"),
            (BodyTooLarge("x"), 413, "request_too_large"),
            (read_error(422, b'{"message": "x"}'), 400, "invalid_request_error"),
            (QueueFull("x"), 529, "overloaded_error"),
            (NodeError("x"), 500, "api_error"),
            (BadGateway("x"), 502, "api_error"),
            (Overloaded("x"), 529, "overloaded_error"),
            (ModelNotLoaded("x"), 529, "overloaded_error"),
            (QueueTimeout("x"), 529, "overloaded_error"),
            (NodeTimeout("x"), 504, "timeout_error"),
        ):
            found, _, body = error_response(MESSAGES, error)
            assert (status, kind) == (found, decode(body)["error"]["type"]), error

    def test_overload_elsewhere(self) -> None:
        """Only this dialect has a status of its own for overload."""
        assert 503 == error_response("/v1/chat/completions", Overloaded("x"))[0]

    def test_headers(self) -> None:
        """When to ask again, and which methods are taken, is told here as anywhere."""
        full = error_response(MESSAGES, Overloaded("x", retry_after=4.2))[1]
        refused = error_response(MESSAGES, MethodNotAllowed("x", allow=("POST",)))[1]

        assert ("5", "POST") == (full["Retry-After"], refused["Allow"])

    @covers("5 permanent")
    def test_never_again(self) -> None:
        """What can never be served says so."""
        for path in (*ROUTES, *OTHERS):
            headers = error_response(path, ModelDoesNotFit("x"))[1]
            assert "false" == headers["X-Should-Retry"]
        assert "X-Should-Retry" not in error_response(MESSAGES, Overloaded("x"))[1]

    @covers("5 bad key")
    def test_a_key_that_is_not_ours(self) -> None:
        """Claude Code would send the same key again for minutes (translation.md 1.3.13)."""
        for path in (MESSAGES, "/v1/chat/completions"):
            status, headers, _ = error_response(path, Unauthenticated("x"))
            assert (401, "false") == (status, headers["X-Should-Retry"])
            assert "X-Should-Retry" not in error_response(path, BadKey("x"))[1]

    def test_request_id(self) -> None:
        """A client finds the id of its request where its own dialect has it."""
        for path in ROUTES:
            assert {"X-Request-ID": "req_1", "Request-Id": "req_1"} == (
                request_id_headers(path, "req_1")
            )
        for path in OTHERS:
            assert {"X-Request-ID": "req_1"} == request_id_headers(path, "req_1")
        assert None is decode(error_response(MESSAGES, BadRequest("x"))[2])["request_id"]

    def test_read_by_the_sdk(self) -> None:
        """The SDK's own type of an error takes ours, the one in a stream too."""
        _, _, body = error_response(MESSAGES, Overloaded("full"), "req_1")
        ((_, in_stream),) = events_of(error_event(Overloaded("full"), "req_1"))

        for data in (decode(body), in_stream):
            found = ErrorResponse.model_validate(data)
            assert ("overloaded_error", "full", "req_1") == (
                found.error.type,
                found.error.message,
                found.request_id,
            )


class OverflowTests(SynchronousTestCase):
    @covers("T36", "5 context overflow")
    def test_t36_words(self) -> None:
        """T36: A prompt that is too long is told of in the words that clients know."""
        for said, expected in (
            (
                "This model's maximum context length is 8192 tokens. However, you requested 9000 "
                "tokens (8000 in the messages, 1000 in the completion).",
                "9000 tokens > 8192 maximum",
            ),
            (
                "request (5000 tokens) exceeds the available context size (4096 tokens)",
                "5000 tokens > 4096 maximum",
            ),
            (
                "Prompt sequence length is greater than 64, perhaps consider using ...",
                "65 tokens > 64 maximum",
            ),
            (
                "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
                "9000 tokens > 8192 maximum",
            ),
            (
                "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
                "9000 tokens > 8192 maximum",
            ),
            (
                "Input length (9000 tokens) exceeds the maximum allowed context (8192 tokens).",
                "9000 tokens > 8192 maximum",
            ),
            ("context window exceeded", "context window exceeded"),
        ):
            error = read_stream_error(said)
            assert (ContextOverflow, said) == (type(error), error.message)
            assert f"prompt is too long: {expected}" == words(error)

    def test_known_words(self) -> None:
        """Words that clients know already stay as they are."""
        known = "prompt is too long: 210000 tokens > 200000 maximum"

        assert known == words(read_stream_error(known)) == words(ContextOverflow(known))

    @covers("5 context overflow")
    def test_completed(self) -> None:
        """What the node's words lack is taken from what we know; what they have stays."""
        for said, known, expected in (
            ("prompt is too long", (900, 500), "900 tokens > 500 maximum"),
            ("prompt is too long", (400, 500), "501 tokens > 500 maximum"),
            ("prompt is too long", (None, 500), "501 tokens > 500 maximum"),
            ("sequence length is greater than 64", (900, 500), "900 tokens > 64 maximum"),
            ("prompt is too long: 9 tokens > 5 maximum", (900, 500), "9 tokens > 5 maximum"),
        ):
            error = read_stream_error(said)
            assert isinstance(error, ContextOverflow)
            error.complete(*known)
            assert f"prompt is too long: {expected}" == words(error)
            assert said == error.message

    def test_from_the_node(self) -> None:
        """T36: A node's refusal of such a prompt has status 400 and these words."""
        error = read_error(500, b'{"message": "maximum context length is 10 tokens, asked 12"}')

        assert (400, "prompt is too long: 12 tokens > 10 maximum") == (
            error_response(MESSAGES, error)[0],
            words(error),
        )

    def test_endless_numbers(self) -> None:
        """Numbers of any length are no trouble."""
        assert words(read_stream_error("sequence length is greater than " + "9" * 5_000))

    @covers("2.2 image base64", "2.2 document pdf or citations")
    def test_what_cannot_be_shown(self) -> None:
        """An image or a PDF is refused in the words by which Claude Code asks again without it.

        Else it would be refused with each request from then on. A node's refusal is as good.
        """
        pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
        image = refused_messages(user(text("see"), IMAGE), profile=Profile(vision=False))
        document = refused_messages(user({"type": "document", "source": pdf}))
        of_the_node = read_stream_error("This model does not support images.")
        for error, beginning in (
            (image, "Could not process image: messages[0].content[1] cannot be sent: "),
            (document, "Could not process PDF: messages[0].content[0].source cannot be sent: "),
            (of_the_node, "Could not process image: This model does not support images."),
        ):
            assert words(error).startswith(beginning)
            _, _, body = error_response("/v1/chat/completions", error)
            assert error.message == decode(body)["error"]["message"]

    def test_other_errors_keep_their_words(self) -> None:
        """No other error is put in other words, whatever numbers are in it."""
        said = "the body is over the limit of 64 MiB, maximum 50"

        assert said == words(BodyTooLarge(said))

    def test_in_a_stream(self) -> None:
        """In a stream the words are the same, and the type says what the status cannot."""
        ((_, data),) = events_of(
            error_event(read_stream_error("sequence length is greater than 64"), None)
        )

        assert {
            "type": "invalid_request_error",
            "message": "prompt is too long: 65 tokens > 64 maximum",
        } == data["error"]
