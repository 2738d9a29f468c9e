"""Helpers of a node's routes: they read a request's body, and write an answer without a stream."""

from typing import TypeVar

import msgspec
from twisted.web.iweb import IRequest
from twisted.web.server import Request

from cortexd.testing.answering.requests import decode
from cortexd.testing.answering.streams import read_body

Body = TypeVar("Body")


def body_of(request: Request, into: type[Body]) -> Body:
    """Return a request's body as the route's type; raise BodyRefusedError if it does not match."""
    return decode(read_body(request), request.getHeader("content-type"), into)


def json_reply(request: IRequest, status: int, data: object) -> bytes:
    """Return an object as JSON, with a status."""
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    return sized(request, msgspec.json.encode(data))


def text_reply(request: IRequest, status: int, text: str) -> bytes:
    """Return plain text, with a status."""
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"text/plain; charset=utf-8")
    return sized(request, text.encode())


def empty_reply(request: IRequest, status: int) -> bytes:
    """Return an empty answer, with a status."""
    request.setResponseCode(status)
    return sized(request, b"")


def sized(request: IRequest, body: bytes) -> bytes:
    """Return a body, and set its Content-Length."""
    request.setHeader(b"content-length", str(len(body)).encode())
    return body
