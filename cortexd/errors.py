"""One tree of errors: each knows the HTTP status it becomes and its type in each dialect.

The words of an error reach clients as they are, so they name what happened, where, and what to do,
and never hold a prompt, a key or a traceback. The types and codes follow the OpenAI error reference
and the Anthropic error reference, as graded in translation.md 5:

================  =======  =====================  ===============================================
class             HTTP     Anthropic type         OpenAI type / code
================  =======  =====================  ===============================================
InternalError     500      api_error              server_error / internal_error
BadRequest        400      invalid_request_error  invalid_request_error
ContextOverflow   400      invalid_request_error  invalid_request_error / context_length_exceeded
CannotSee         400      invalid_request_error  invalid_request_error / unsupported_value
ThreadUnsupported 400      invalid_request_error  invalid_request_error / unsupported_parameter
BadKey            401      authentication_error   invalid_request_error / invalid_api_key
OverBudget        429/402  billing_error          insufficient_quota / insufficient_quota
Forbidden         403      permission_error       permission_error
ModelNotFound     404      not_found_error        invalid_request_error / model_not_found
ModelDoesNotFit   404      not_found_error        invalid_request_error / model_not_found
StateNotFound     404      not_found_error        invalid_request_error
UnknownRoute      404      not_found_error        invalid_request_error / unknown_url
MethodNotAllowed  405      invalid_request_error  invalid_request_error / method_not_allowed
Conflict          409      invalid_request_error  invalid_request_error / conflict
BodyTooLarge      413      request_too_large      invalid_request_error / request_too_large
EncodedBody       415      invalid_request_error  invalid_request_error / unsupported_encoding
RateLimited       429      rate_limit_error       rate_limit_error / rate_limit_exceeded
HeadersTooLarge   431      invalid_request_error  invalid_request_error / headers_too_large
NodeError         500      api_error              server_error / node_error
BadGateway        502      api_error              server_error / bad_gateway
Overloaded        503/529  overloaded_error       server_error / overloaded
ModelNotLoaded    503/529  overloaded_error       server_error / model_not_loaded
QueueFull         503/529  overloaded_error       server_error / queue_full
QueueTimeout      503/529  overloaded_error       server_error / queue_timeout
NodeTimeout       504      timeout_error          server_error / timeout
================  =======  =====================  ===============================================

The status after a stroke is that in the Anthropic dialect, where it is another.
"""

from __future__ import annotations

from typing import ClassVar

RETRY_WHEN_FULL = 1.0
"""Seconds after which to ask again for a model whose places are all taken."""

RETRY_WHILE_LOADING = 5.0
"""Seconds after which to ask again for a model that is being loaded."""

RETRY_WHEN_DOWN = 5.0
"""Seconds after which to ask again for a model whose nodes do not answer."""

RETRY_WHEN_UNLOADED = 30.0
"""Seconds after which to ask again for a model that nobody has loaded."""


class CortexError(Exception):
    """Something the client must be told, in the envelope of its own route.

    ``param`` is the path of the field at fault, ``retry_after`` the seconds after which trying
    again makes sense, and ``elsewhere`` says that another node may do better: the fault lies
    with the node that was asked, not with the request.
    """

    status: ClassVar[int] = 500
    anthropic_status: ClassVar[int | None] = None
    openai_type: ClassVar[str] = "server_error"
    openai_code: ClassVar[str | None] = None
    anthropic_type: ClassVar[str] = "api_error"
    anthropic_code: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        elsewhere: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.openai_code
        self.retry_after = retry_after
        self.elsewhere = elsewhere
        self.allow: tuple[str, ...] = ()


class InternalError(CortexError):
    """Raised in place of an unforeseen exception: the log has it under the request's id."""

    openai_code = "internal_error"


class BadRequest(CortexError):
    """Raised when the request cannot be understood or asks for what cannot be done."""

    status = 400
    openai_type = "invalid_request_error"
    anthropic_type = "invalid_request_error"


class ContextOverflow(BadRequest):
    """Raised when the prompt is longer than the model's context window.

    ``prompt_tokens`` and ``max_tokens`` are what is known of the prompt and of the window, ``None``
    where that is nothing.
    """

    openai_code = "context_length_exceeded"
    prompt_tokens: int | None = None
    max_tokens: int | None = None

    def complete(self, prompt_tokens: int | None, max_tokens: int | None) -> None:
        """Take what we know ourselves of the prompt and the window, where the node's words lack it.

        An estimate that would fit is none.
        """
        if self.max_tokens is None:
            self.max_tokens = max_tokens
        if self.prompt_tokens is None:
            self.prompt_tokens = prompt_tokens


class CannotSee(BadRequest):
    """Raised when a node says that its model takes no images, and the request has some."""

    openai_code = "unsupported_value"


class ThreadUnsupported(BadRequest):
    """Raised when the server is to keep a conversation: Anthropic's clients then send all of it."""

    openai_code = "unsupported_parameter"
    anthropic_code = "thread_unsupported_request"


class BadKey(CortexError):
    """Raised when a server behind us wants a key, or another one; the words are its own."""

    status = 401
    openai_type = "invalid_request_error"
    openai_code = "invalid_api_key"
    anthropic_type = "authentication_error"


class OverBudget(CortexError):
    """Raised when a server behind us has spent what it may; the words are its own."""

    status = 429
    anthropic_status = 402
    openai_type = "insufficient_quota"
    openai_code = "insufficient_quota"
    anthropic_type = "billing_error"


class Forbidden(CortexError):
    """Raised when what was asked is not allowed: by our configuration or a server behind us."""

    status = 403
    openai_type = "permission_error"
    anthropic_type = "permission_error"


class ModelNotFound(CortexError):
    """Raised when no node of the fleet knows the model."""

    status = 404
    openai_type = "invalid_request_error"
    openai_code = "model_not_found"
    anthropic_type = "not_found_error"


class ModelDoesNotFit(ModelNotFound):
    """Raised when no node that lists the model can ever hold it as the fleet is configured."""


class StateNotFound(CortexError):
    """Raised when no node keeps what is asked for, or gone on from: its code says which kind."""

    status = 404
    openai_type = "invalid_request_error"
    anthropic_type = "not_found_error"


class UnknownRoute(CortexError):
    """Raised when nothing is served at the path."""

    status = 404
    openai_type = "invalid_request_error"
    openai_code = "unknown_url"
    anthropic_type = "not_found_error"


class MethodNotAllowed(CortexError):
    """Raised when the path is served, but not with this method; ``allow`` has those it takes."""

    status = 405
    openai_type = "invalid_request_error"
    openai_code = "method_not_allowed"
    anthropic_type = "invalid_request_error"

    def __init__(self, message: str, *, allow: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allow = allow


class Conflict(CortexError):
    """Raised when what is asked for cannot be done to the model as things stand."""

    status = 409
    openai_type = "invalid_request_error"
    openai_code = "conflict"
    anthropic_type = "invalid_request_error"


class BodyTooLarge(CortexError):
    """Raised when the request's body is over ``gateway.max_body_mb``."""

    status = 413
    openai_type = "invalid_request_error"
    openai_code = "request_too_large"
    anthropic_type = "request_too_large"


class EncodedBody(CortexError):
    """Raised when the request's body is compressed, or encoded otherwise: none is decoded."""

    status = 415
    openai_type = "invalid_request_error"
    openai_code = "unsupported_encoding"
    anthropic_type = "invalid_request_error"


class RateLimited(CortexError):
    """Raised when a server behind us takes no more requests for now; the words are its own."""

    status = 429
    openai_type = "rate_limit_error"
    openai_code = "rate_limit_exceeded"
    anthropic_type = "rate_limit_error"


class HeadersTooLarge(CortexError):
    """Raised when the request line and headers together are over the server's limit."""

    status = 431
    openai_type = "invalid_request_error"
    openai_code = "headers_too_large"
    anthropic_type = "invalid_request_error"


class NodeError(CortexError):
    """Raised when a node answered with a fault of its own; the words are the node's."""

    openai_code = "node_error"


class BadGateway(CortexError):
    """Raised when a node cannot be reached, breaks off, or answers what cannot be understood."""

    status = 502
    openai_code = "bad_gateway"


class Overloaded(CortexError):
    """Raised when no node can take the request now, and one may be able to later."""

    status = 503
    anthropic_status = 529
    openai_code = "overloaded"
    anthropic_type = "overloaded_error"


class ModelNotLoaded(Overloaded):
    """Raised when nodes know the model but none has it loaded."""

    openai_code = "model_not_loaded"


class QueueFull(Overloaded):
    """Raised when ``scheduling.max_queue`` requests wait for the model already."""

    openai_code = "queue_full"


class QueueTimeout(Overloaded):
    """Raised when a request has waited ``scheduling.queue_timeout`` seconds for a replica."""

    openai_code = "queue_timeout"


class NodeTimeout(CortexError):
    """Raised when a node stayed silent for longer than ``gateway.upstream_timeout``."""

    status = 504
    openai_code = "timeout"
    anthropic_type = "timeout_error"


def internal_error(request_id: str) -> InternalError:
    """Return what a client is told of an exception nobody foresaw; the log has the rest."""
    return InternalError(f"an internal error, logged under request id {request_id}")


class OperationRefused(Exception):
    """Raised when what an operator asks for is not done; the words say why and what to do."""
