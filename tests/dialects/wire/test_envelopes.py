from openai import APIError
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.envelopes import error_response
from cortexd.dialects.wire.json_values import decode
from cortexd.errors import (
    BadRequest,
    CortexError,
    MethodNotAllowed,
    ModelNotFound,
    ModelNotLoaded,
    Overloaded,
)

CHAT = "/v1/chat/completions"


def headers(error: CortexError) -> dict[str, str]:
    _, found, _ = error_response(CHAT, error)
    assert "application/json" == found.pop("Content-Type")
    return found


class EnvelopeTests(SynchronousTestCase):
    def test_openai(self) -> None:
        """An error has its status and the OpenAI envelope, all four fields always there."""
        error = BadRequest("no such thing", param="messages[0]", code="invalid_value")
        status, _, body = error_response(CHAT, error)

        assert 400 == status
        assert {
            "error": {
                "message": "no such thing",
                "type": "invalid_request_error",
                "param": "messages[0]",
                "code": "invalid_value",
            }
        } == decode(body)

        _, _, bare = error_response(CHAT, BadRequest("no"))
        assert {"message", "type", "param", "code"} == set(decode(bare)["error"])

    def test_read_by_the_sdk(self) -> None:
        """The OpenAI SDK's error finds our type, code and field where it looks for them."""
        _, _, body = error_response(CHAT, ModelNotFound("no model", param="model"))
        error = APIError("", request=None, body=decode(body)["error"])  # type: ignore[arg-type] # needs none

        assert ("invalid_request_error", "model_not_found", "model") == (
            error.type,
            error.code,
            error.param,
        )

    def test_any_path(self) -> None:
        """A path that nobody serves has the envelope too."""
        for path in ("/", "/v1/nothing", "/favicon.ico", ""):
            status, _, body = error_response(path, ModelNotFound("no"))
            assert (404, "model_not_found") == (status, decode(body)["error"]["code"])

    def test_retry_after(self) -> None:
        """Seconds to wait are whole ones, rounded up, and at least one."""
        for seconds, expected in ((0.0, "1"), (0.2, "1"), (1.0, "1"), (4.2, "5"), (30.0, "30")):
            assert {"Retry-After": expected} == headers(Overloaded("full", retry_after=seconds))
        assert {} == headers(ModelNotLoaded("not loaded"))

    def test_allow(self) -> None:
        """A refused method comes with those that are taken."""
        assert {"Allow": "GET, HEAD"} == headers(MethodNotAllowed("no", allow=("GET", "HEAD")))
