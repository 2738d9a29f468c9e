"""Pages of other origins: which of their requests we serve, and which answers they may read (CORS).

A browser asks with a preflight before it sends a request with a key or with JSON. It shows the page
an answer only if that has ``Access-Control-Allow-Origin``, which is true of errors as well. But it
sends a *simple* request, such as a form's, without asking, and the request does its work even if
the page never sees the answer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from twisted.web.http_headers import Headers

from cortexd.dialects.wire.headers.rate_limits import EXPOSED
from cortexd.headers import header_text

ANY: Final = "*"

_IMPLIED_PORTS: Final = {"http": ":80", "https": ":443"}
"""The ports that browsers leave out of an origin, by its scheme."""

_EXPOSED: Final = ", ".join(
    (
        "Request-Id",
        "Retry-After",
        "X-Cortex-Affinity",
        "X-Cortex-Decision",
        "X-Cortex-Eta-Ms",
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
        *EXPOSED,
    )
)
"""Our headers that a page may read, in addition to those that it always may."""

_PREFLIGHT_SECONDS: Final = "7200"
"""How long a browser may remember a preflight: the most that Chromium does."""

_SAFE_METHODS: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})
"""The methods that change nothing here (RFC 9110 9.2.1)."""

_SIMPLE_TYPES: Final = frozenset(
    {"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"}
)
"""The content types that a page may send without a preflight (Fetch 2.2.2); "" for none at all."""

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

    def is_intrusion(self, method: bytes, asked: Headers, forwarded: Collection[str] = ()) -> bool:
        """Return whether this is a simple request of a foreign page that is not allowed.

        Clients other than browsers send neither Origin nor Sec-Fetch-Site. A page that is served
        under the very host that it asks is not foreign, whatever its scheme: a proxy in front may
        add TLS. ``forwarded`` are the hosts that a trusted proxy says it was asked for; no page can
        state them without a preflight.
        """
        if method in _SAFE_METHODS:
            return False
        origin = header_text(asked, "origin")
        if origin is None:
            site = header_text(asked, "sec-fetch-site")
            if site is None or site.strip().lower() not in ("cross-site", "same-site"):
                return False
        elif self._allowed(asked) is not None or _host_of(origin) in _hosts_asked(asked, forwarded):
            return False
        content_type = header_text(asked, "content-type") or ""
        return content_type.partition(";")[0].strip().lower() in _SIMPLE_TYPES

    def _allowed(self, asked: Headers) -> str | None:
        origin = header_text(asked, "origin")
        if origin is None:
            return None
        if ANY in self._origins:
            return ANY
        return origin if origin.lower() in self._origins else None


def _host_of(origin: str) -> str:
    return _as_browsers_write(origin).partition("://")[2]


def _hosts_asked(asked: Headers, forwarded: Collection[str]) -> list[str]:
    """Return hosts and ports of the request, without a port that its origin would leave out."""
    host = header_text(asked, "host")
    hosts = forwarded if host is None else [host, *forwarded]
    return [each.strip().lower().removesuffix(":80").removesuffix(":443") for each in hosts]


def _as_browsers_write(origin: str) -> str:
    lower = origin.lower()
    return lower.removesuffix(_IMPLIED_PORTS.get(lower.partition("://")[0], ""))


NO_ORIGINS: Final = CrossOrigin()
