"""No cookies: what a node sets for one client is never sent for another."""

from __future__ import annotations

from typing import Any

from treq.cookies import IndexableCookieJar


class NoCookies(IndexableCookieJar):
    """A cookie jar that stays empty, so that no node's cookie leaks from one client to another.

    treq reads its jar twice for each request, and creates another jar for a request without one.
    """

    def add_cookie_header(self, request: Any) -> None:
        """Add no cookies to a request."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        """Store no cookies of a response."""


NO_COOKIES = NoCookies()
