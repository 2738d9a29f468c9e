"""How the routes of a node read a request's body and write an answer that is not a stream."""

from typing import TypeVar

import msgspec
from twisted.web.iweb import IRequest
from twisted.web.server import Request

from cortexd.testing.answering.requests import decode
from cortexd.testing.answering.streams import read_body

Body = TypeVar("Body")


def body_of(request: Request, into: type[Body]) -> Body:
    """Give a request's body as the route's type; raise BodyRefusedError where it is not that."""
    return decode(read_body(request), request.getHeader("content-type"), into)


def json_reply(request: IRequest, status: int, data: object) -> bytes:
    """Give an object as JSON, under a status."""
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    return sized(request, msgspec.json.encode(data))


def text_reply(request: IRequest, status: int, text: str) -> bytes:
    """Give plain text, under a status."""
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"text/plain; charset=utf-8")
    return sized(request, text.encode())


def empty_reply(request: IRequest, status: int) -> bytes:
    """Give a status and nothing else."""
    request.setResponseCode(status)
    return sized(request, b"")


def sized(request: IRequest, body: bytes) -> bytes:
    """Give a body whose length the headers tell."""
    request.setHeader(b"content-length", str(len(body)).encode())
    return body
