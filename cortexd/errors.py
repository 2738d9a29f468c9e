"""One tree of errors: each class has an HTTP status, and a type in each dialect.

The message of an error reaches the client unchanged. It therefore states what happened, where, and
what to do, and never contains a prompt, a key or a traceback. The types and codes follow the OpenAI
error reference and the Anthropic error reference, as graded in translation.md 5:

================  =======  =====================  ===============================================
class             HTTP     Anthropic type         OpenAI type / code
================  =======  =====================  ===============================================
InternalError     500      api_error              server_error / internal_error
BadRequest        400      invalid_request_error  invalid_request_error
ContextOverflow   400      invalid_request_error  invalid_request_error / context_length_exceeded
CannotSee         400      invalid_request_error  invalid_request_error / unsupported_value
BadImage          400      invalid_request_error  invalid_request_error / invalid_image
ThreadUnsupported 400      invalid_request_error  invalid_request_error / unsupported_parameter
BadKey            401      authentication_error   invalid_request_error / invalid_api_key
Unauthenticated   401      authentication_error   invalid_request_error / invalid_api_key
OverBudget        429/402  billing_error          insufficient_quota / insufficient_quota
KeyOverBudget     429/402  billing_error          insufficient_quota / insufficient_quota
Forbidden         403      permission_error       permission_error
ModelNotFound     404      not_found_error        invalid_request_error / model_not_found
ModelDoesNotFit   404      not_found_error        invalid_request_error / model_not_found
StateNotFound     404      not_found_error        invalid_request_error
UnknownRoute      404      not_found_error        invalid_request_error / unknown_url
MethodNotAllowed  405      invalid_request_error  invalid_request_error / method_not_allowed
RequestTimeout    408      invalid_request_error  invalid_request_error / request_timeout
Conflict          409      invalid_request_error  invalid_request_error / conflict
BodyTooLarge      413      request_too_large      invalid_request_error / request_too_large
EncodedBody       415      invalid_request_error  invalid_request_error / unsupported_encoding
RequestIsFatal    422      invalid_request_error  invalid_request_error / fatal_request
RateLimited       429      rate_limit_error       rate_limit_error / rate_limit_exceeded
KeyLimited        429      rate_limit_error       rate_limit_error / rate_limit_exceeded
HeadersTooLarge   431      invalid_request_error  invalid_request_error / headers_too_large
NodeError         500      api_error              server_error / node_error
LastingNodeError  500      api_error              server_error / node_error
CannotForceCall   500      api_error              server_error / node_error
BadGateway        502      api_error              server_error / bad_gateway
NodeLost          502      api_error              server_error / bad_gateway
Overloaded        503/529  overloaded_error       server_error / overloaded
GatewayBusy       503/529  overloaded_error       server_error / gateway_overloaded
ModelNotLoaded    503/529  overloaded_error       server_error / model_not_loaded
ModelLoading      503/529  overloaded_error       server_error / model_loading
QueueFull         503/529  overloaded_error       server_error / queue_full
QueueTimeout      503/529  overloaded_error       server_error / queue_timeout
NodeTimeout       504      timeout_error          server_error / timeout
================  =======  =====================  ===============================================

Where a row has two statuses, the second one is that of the Anthropic dialect.
"""

from __future__ import annotations

from typing import Any, ClassVar

RETRY_WHEN_FULL = 1.0
"""Seconds after which to retry when all slots of a model are in use."""

RETRY_WHILE_LOADING = 5.0
"""Seconds after which to retry when a model is being loaded."""

RETRY_WHEN_DOWN = 5.0
"""Seconds after which to retry when the nodes of a model do not answer."""

RETRY_WHEN_UNLOADED = 30.0
"""Seconds after which to retry when no node has the model loaded."""


class CortexError(Exception):
    """An error that is reported to the client, in the envelope of its route.

    ``param`` is the path of the faulty field, ``retry_after`` the seconds after which a retry makes
    sense. ``elsewhere`` means that another node may succeed: the fault lies with the node, not with
    the request. ``is_node_fault`` means that a node failed, so that the failure counts against the
    health of its replica. ``is_poisoned`` means that the node's engine will not recover before its
    process is started anew. ``ends_engine`` means that an engine ended while it had the request,
    which may be the cause, and ``is_cut`` that its connection ended with it. ``is_unbegun`` means
    that a node failed before any work on the request.
    """

    status: ClassVar[int] = 500
    anthropic_status: ClassVar[int | None] = None
    openai_type: ClassVar[str] = "server_error"
    openai_code: ClassVar[str | None] = None
    anthropic_type: ClassVar[str] = "api_error"
    anthropic_code: ClassVar[str | None] = None
    is_node_fault: bool = False
    is_poisoned: bool = False
    ends_engine: bool = False
    is_cut: bool = False
    is_unbegun: bool = False

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

    def forget_frames(self) -> None:
        """Let go of the frames that raised it, and with them of a request's body.

        A frame that holds the error would otherwise keep both until the garbage collector runs.
        """
        error: BaseException | None = self
        while error is not None and error.__traceback__ is not None:
            error.__traceback__ = None
            error = error.__cause__ or error.__context__

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the error as it is: the process that translates large bodies raises some."""
        return _unpickled, (type(self), self.message), self.__dict__


def _unpickled(kind: type[CortexError], message: str) -> CortexError:
    return kind.__new__(kind, message)


class InternalError(CortexError):
    """Raised in place of an unexpected exception, which the log has under the request's id."""

    openai_code = "internal_error"


class BadRequest(CortexError):
    """Raised when the request cannot be understood, or asks for something impossible."""

    status = 400
    openai_type = "invalid_request_error"
    anthropic_type = "invalid_request_error"


class ContextOverflow(BadRequest):
    """Raised when the prompt is longer than the model's context window.

    ``prompt_tokens`` is the size of the prompt and ``max_tokens`` that of the window, each ``None``
    if unknown.
    """

    openai_code = "context_length_exceeded"
    prompt_tokens: int | None = None
    max_tokens: int | None = None

    def complete(self, prompt_tokens: int | None, max_tokens: int | None) -> None:
        """Fill in our own values for the prompt and the window if the node's error has none.

        An estimate that would fit the window is discarded.
        """
        if self.max_tokens is None:
            self.max_tokens = max_tokens
        if self.prompt_tokens is None:
            self.prompt_tokens = prompt_tokens


class CannotSee(BadRequest):
    """Raised when a node reports that its model accepts no images, and the request has some."""

    openai_code = "unsupported_value"


class BadImage(BadRequest):
    """Raised when a node can neither get nor read an image of the request.

    The message begins with the words that make Claude Code retry without the image.
    """

    openai_code = "invalid_image"

    def __init__(self, message: str, *, elsewhere: bool = False) -> None:
        super().__init__(f"Could not process image: {message}", elsewhere=elsewhere)


class ThreadUnsupported(BadRequest):
    """Raised when a request refers to a stored thread; Anthropic's clients then send all of it."""

    openai_code = "unsupported_parameter"
    anthropic_code = "thread_unsupported_request"


class BadKey(CortexError):
    """Raised when a node's server requires an API key, or another one; the message is its own."""

    status = 401
    openai_type = "invalid_request_error"
    openai_code = "invalid_api_key"
    anthropic_type = "authentication_error"
    is_node_fault = True


class OverBudget(CortexError):
    """Raised when a node's server has used up its budget; the message is its own."""

    status = 429
    anthropic_status = 402
    openai_type = "insufficient_quota"
    openai_code = "insufficient_quota"
    anthropic_type = "billing_error"
    is_node_fault = True


class Unauthenticated(BadKey):
    """Raised when a request has no key of the gateway's keys file, or one that is not valid."""

    is_node_fault = False


class KeyOverBudget(OverBudget):
    """Raised when a key of the gateway has used up its budget of tokens."""

    is_node_fault = False


class Forbidden(CortexError):
    """Raised when our configuration or a node's server does not allow the request."""

    status = 403
    openai_type = "permission_error"
    anthropic_type = "permission_error"


class ModelNotFound(CortexError):
    """Raised when no node of the fleet lists the model."""

    status = 404
    openai_type = "invalid_request_error"
    openai_code = "model_not_found"
    anthropic_type = "not_found_error"


class ModelDoesNotFit(ModelNotFound):
    """Raised when, as configured, no node that lists the model can ever hold it."""


class StateNotFound(CortexError):
    """Raised when no node stores the state that the request names; the code says which kind."""

    status = 404
    openai_type = "invalid_request_error"
    anthropic_type = "not_found_error"


class UnknownRoute(CortexError):
    """Raised when the gateway has no route at the path."""

    status = 404
    openai_type = "invalid_request_error"
    openai_code = "unknown_url"
    anthropic_type = "not_found_error"


class MethodNotAllowed(CortexError):
    """Raised when the path does not accept the method; ``allow`` has the methods it accepts."""

    status = 405
    openai_type = "invalid_request_error"
    openai_code = "method_not_allowed"
    anthropic_type = "invalid_request_error"

    def __init__(self, message: str, *, allow: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allow = allow


class RequestTimeout(CortexError):
    """Raised when the body of a request comes too slowly (``gateway.body_timeout``)."""

    status = 408
    openai_type = "invalid_request_error"
    openai_code = "request_timeout"
    anthropic_type = "invalid_request_error"


class Conflict(CortexError):
    """Raised when the state of the model does not allow the operation."""

    status = 409
    openai_type = "invalid_request_error"
    openai_code = "conflict"
    anthropic_type = "invalid_request_error"


class BodyTooLarge(CortexError):
    """Raised when a body is over ``gateway.max_body_mb``, or has too many values or parts."""

    status = 413
    openai_type = "invalid_request_error"
    openai_code = "request_too_large"
    anthropic_type = "request_too_large"


class EncodedBody(CortexError):
    """Raised when the request's body is compressed or otherwise encoded: we decode no body."""

    status = 415
    openai_type = "invalid_request_error"
    openai_code = "unsupported_encoding"
    anthropic_type = "invalid_request_error"


class RequestIsFatal(CortexError):
    """Raised when the same request has ended the engines of several nodes.

    SDKs retry no 422 by themselves.
    """

    status = 422
    openai_type = "invalid_request_error"
    openai_code = "fatal_request"
    anthropic_type = "invalid_request_error"


class RateLimited(CortexError):
    """Raised when a node's server limits the rate of requests; the message is its own."""

    status = 429
    openai_type = "rate_limit_error"
    openai_code = "rate_limit_exceeded"
    anthropic_type = "rate_limit_error"


class KeyLimited(RateLimited):
    """Raised when a request goes over a limit of its key; ``retry_after`` says until when."""


class HeadersTooLarge(CortexError):
    """Raised when the request line and the headers together exceed the server's limit."""

    status = 431
    openai_type = "invalid_request_error"
    openai_code = "headers_too_large"
    anthropic_type = "invalid_request_error"


class NodeError(CortexError):
    """Raised when a node answered with a fault of its own; the message is the node's."""

    openai_code = "node_error"
    is_node_fault = True


class LastingNodeError(NodeError):
    """Raised when a node answered with a fault that the same request would meet on each node."""

    is_node_fault = False


class CannotForceCall(NodeError):
    """Raised when a node did not find the call of a tool that the request forces."""

    is_node_fault = False


class BadGateway(CortexError):
    """Raised when a node cannot be reached, breaks off, or sends an unreadable answer."""

    status = 502
    openai_code = "bad_gateway"
    is_node_fault = True


class NodeLost(BadGateway):
    """Raised when a node went down before anything of an answer had gone out.

    It counts against the node's health already, so it does not count against its replica.
    """

    is_node_fault = False


class Overloaded(CortexError):
    """Raised when no node can take the request now, but a node may be able to later."""

    status = 503
    anthropic_status = 529
    openai_code = "overloaded"
    anthropic_type = "overloaded_error"


class GatewayBusy(Overloaded):
    """Raised when the gateway itself has too many connections or too much work in progress."""

    openai_code = "gateway_overloaded"


class ModelNotLoaded(Overloaded):
    """Raised when nodes list the model but no node has it loaded."""

    openai_code = "model_not_loaded"


class ModelLoading(Overloaded):
    """Raised when a client does not wait as long as its model is expected to take.

    ``retry_after`` is how long that is.
    """

    openai_code = "model_loading"


class QueueFull(Overloaded):
    """Raised when ``scheduling.max_queue`` requests already wait for the model."""

    openai_code = "queue_full"


class QueueTimeout(Overloaded):
    """Raised when a request has waited ``scheduling.queue_timeout`` seconds for a replica."""

    openai_code = "queue_timeout"


class NodeTimeout(CortexError):
    """Raised when a node was silent for longer than ``gateway.upstream_timeout``."""

    status = 504
    openai_code = "timeout"
    is_node_fault = True
    anthropic_type = "timeout_error"


def internal_error(request_id: str) -> InternalError:
    """Return the error for an unexpected exception, whose traceback is in the log."""
    return InternalError(f"internal error; see the log under request id {request_id}")


class OperationRefused(Exception):
    """Raised when an operator's command is rejected; the message says why and what to do."""
