"""The headers by which a browser lets a page of another origin read our answers (Fetch, CORS).

A browser asks with a preflight before it sends a request with a key or with JSON. It shows the page
an answer only if that has ``Access-Control-Allow-Origin``, which is true of errors as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from twisted.web.http_headers import Headers

from cortexd.headers import header_text

ANY: Final = "*"

_IMPLIED_PORTS: Final = {"http": ":80", "https": ":443"}
"""The ports that browsers leave out of an origin, by its scheme."""

_EXPOSED: Final = ", ".join(
    (
        "Request-Id",
        "Retry-After",
        "X-Cortex-Decision",
        "X-Cortex-Load-Ms",
        "X-Cortex-Missing",
        "X-Cortex-Model",
        "X-Cortex-Node",
        "X-Cortex-Queue-Ms",
        "X-Cortex-Token-Count",
        "X-Cortex-Translation",
        "X-Cortex-Upstream-Id",
        "X-Request-ID",
        "X-Should-Retry",
    )
)
"""Our headers that a page may read, in addition to those that it always may."""

_PREFLIGHT_SECONDS: Final = "7200"
"""How long a browser may remember a preflight: the most that Chromium does."""

_ASKED: Final = {
    "access-control-request-method": "Access-Control-Allow-Methods",
    "access-control-request-headers": "Access-Control-Allow-Headers",
    "access-control-request-private-network": "Access-Control-Allow-Private-Network",
}
"""The headers of a preflight, and the header of its answer that allows what each asks for."""


class CrossOrigin:
    """The origins whose pages may read our answers; ANY among them means all."""

    def __init__(self, origins: Collection[str] = ()) -> None:
        self._origins = frozenset(map(_as_browsers_write, origins))

    def headers(self, asked: Headers) -> Mapping[str, str]:
        """Return the headers for the answer to a request with these headers.

        No header says anything if no origin is allowed. Otherwise each answer says that it depends
        on the origin, because a cache may lie between.
        """
        if not self._origins:
            return {}
        allowed = self._allowed(asked)
        if allowed is None:
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": allowed,
            "Access-Control-Expose-Headers": _EXPOSED,
        }

    def preflight(self, method: bytes, asked: Headers) -> Mapping[str, str] | None:
        """Return the headers that answer a preflight, ``None`` for any other request.

        ``None`` also for an origin that is not allowed. The answer allows what was asked for.
        """
        if method != b"OPTIONS" or not asked.hasHeader(b"access-control-request-method"):
            return None
        allowed = self._allowed(asked)
        if allowed is None:
            return None
        granted = {
            theirs: value
            for ours, theirs in _ASKED.items()
            if (value := header_text(asked, ours)) is not None
        }
        return {
            **granted,
            "Access-Control-Allow-Origin": allowed,
            "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
            "Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
        }

    def _allowed(self, asked: Headers) -> str | None:
        origin = header_text(asked, "origin")
        if origin is None:
            return None
        if ANY in self._origins:
            return ANY
        return origin if origin.lower() in self._origins else None


def _as_browsers_write(origin: str) -> str:
    lower = origin.lower()
    return lower.removesuffix(_IMPLIED_PORTS.get(lower.partition("://")[0], ""))


NO_ORIGINS: Final = CrossOrigin()
