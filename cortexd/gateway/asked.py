"""What a request asks, as the routes read it."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from twisted.web.iweb import IRequest

from cortexd.dialects.prefixes.sessions import session_of_headers
from cortexd.dialects.wire.envelopes import IDENTITY
from cortexd.downstream.request import GatewayRequest
from cortexd.errors import EncodedBody
from cortexd.fleet.catalogue import DEFAULT
from cortexd.gateway.waits.wanted import WAIT_HEADER, WAIT_QUERY, wanted_wait
from cortexd.headers import header_list, header_text


def headers_of_the_dialect(request: GatewayRequest) -> dict[str, str]:
    """Return the client's headers about its dialect: the version and the betas."""
    given = {
        "anthropic-version": header_text(request.requestHeaders, "anthropic-version"),
        "anthropic-beta": header_list(request.requestHeaders, "anthropic-beta"),
    }
    return {name: value for name, value in given.items() if value}


def session_of(request: GatewayRequest) -> str:
    """Return the conversation that the headers of a request name, "" if they do not."""
    return session_of_headers(partial(header_text, request.requestHeaders))


def wait_of(request: GatewayRequest) -> float | None:
    """Return for how many seconds the client will wait for a replica, ``None`` if it does not say.

    Raises BadRequest.
    """
    header = header_text(request.requestHeaders, WAIT_HEADER)
    query = query_of(request).get(WAIT_QUERY) if header is None and request.args else None
    return None if header is None and query is None else wanted_wait(header, query)


def model_in_query(request: GatewayRequest) -> str:
    """Return the query's model, for requests whose body names no model."""
    return query_of(request).get("model") or DEFAULT


def query_of(request: GatewayRequest) -> dict[str, str]:
    """Return the query of a request; of a name that comes several times, the last value counts."""
    args: dict[bytes, list[bytes]] = request.args or {}
    return {
        name.decode("utf-8", "replace"): values[-1].decode("utf-8", "replace")
        for name, values in args.items()
    }


def method_of(request: GatewayRequest) -> str:
    """Return the method as Klein routes it: a HEAD as a GET."""
    return "GET" if request.method == b"HEAD" else request.method.decode("ascii")


def asked_of(request: IRequest) -> str:
    """Return method and path, for the words of an error."""
    ours = cast("GatewayRequest", request)
    return f"{ours.method.decode('ascii', 'replace')} {ours.text_path}"


def body_of(request: GatewayRequest) -> bytes:
    """Take the body out of the request, which would otherwise hold it until the answer ends.

    Raises EncodedBody where the body is compressed.
    """
    content: Any = request.content
    body: bytes = content.getvalue()  # without a copy, unlike read()
    content.seek(0)
    content.truncate()
    encoding = header_text(request.requestHeaders, "content-encoding")
    if encoding and encoding.lower() != IDENTITY and body:
        raise EncodedBody(
            f"the body has the Content-Encoding {encoding!r}, which is not supported; "
            "send it uncompressed, without that header"
        )
    return body
