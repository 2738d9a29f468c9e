"""Routes that state the scopes of the keys with which they may be used; none exists without."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import isawaitable
from typing import Any, Final, Protocol, TypeVar

from klein import Klein
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from cortexd.access.keys import Scope
from cortexd.downstream.request import GatewayRequest

PUBLIC: Final[frozenset[Scope]] = frozenset()
"""Of a route that needs no key."""

INFER: Final = frozenset({Scope.INFER})
READ: Final = frozenset({Scope.READ})
LIST: Final = INFER | READ
"""Of a route that a key with either scope may use: clients list models before they ask one."""

CONTROL: Final = frozenset({Scope.CONTROL})


class Admitting(Protocol):
    """The object whose methods handle the routes."""

    async def admit(self, request: GatewayRequest) -> None:
        """Await the proof of a request's key."""


H = TypeVar("H", bound=Callable[..., Any])


class _ModelIdConverter(BaseConverter):
    """A model id in a path: any text, also with slashes at its beginning and within it."""

    regex = ".+"
    part_isolating = False


class Routes(Klein):
    """Klein, whose routes each have ``scopes``, by the names of their handlers.

    A caller who has one of a route's scopes may use it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.url_map.merge_slashes = False  # an id may begin with a slash
        self.url_map.converters["model_id"] = _ModelIdConverter
        self.scopes: dict[str, frozenset[Scope]] = {}

    def route(  # type: ignore[override] # Klein's takes whatever werkzeug does, and no scopes
        self, url: str, scopes: frozenset[Scope], *, methods: list[str]
    ) -> Callable[[H], H]:
        """Add a route for the handler, which is called for callers with one of ``scopes``."""
        add = super().route

        def decorate(handler: H) -> H:
            name = handler.__name__
            if self.scopes.setdefault(name, scopes) != scopes:
                raise ValueError(f"the routes of {name} differ in their scopes")
            add(url, methods=methods)(handler if not scopes else _guarded(handler, scopes))
            return handler

        return decorate

    def scopes_at(self, method: str, path: str) -> frozenset[Scope]:
        """Return the scopes of the route at a path, those of a public one where there is none."""
        try:
            endpoint, _ = self.url_map.bind("").match(path, method=method)
        except HTTPException:
            return PUBLIC
        return self.scopes[endpoint]


def _guarded(handler: Callable[..., Any], scopes: frozenset[Scope]) -> Callable[..., Any]:
    @wraps(handler)
    def guard(gateway: Admitting, request: GatewayRequest, **ids: str) -> Any:
        if scopes.isdisjoint(request.caller.scopes):
            if request.is_unproven:
                return prove_first(gateway, request, ids)
            request.check_scopes(scopes)
        return handler(gateway, request, **ids)

    async def prove_first(gateway: Admitting, request: GatewayRequest, ids: dict[str, str]) -> None:
        await gateway.admit(request)
        request.check_scopes(scopes)
        answering = handler(gateway, request, **ids)
        if isawaitable(answering):
            await answering

    return guard
