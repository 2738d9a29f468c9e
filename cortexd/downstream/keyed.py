"""A page that needs a key, where the gate of its site requires keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request

from cortexd.access.keys import Scope
from cortexd.access.sight import is_limited
from cortexd.downstream.request import GatewayRequest
from cortexd.errors import CortexError, Forbidden


class KeyedPage(Resource):
    """Renders ``page`` for callers with one of the ``scopes``, and for whom all models are there.

    The page names all of them.
    """

    isLeaf = True

    def __init__(self, page: IResource, scopes: Iterable[Scope]) -> None:
        super().__init__()
        self._page = page
        self._scopes = frozenset(scopes)

    def render(self, request: Request) -> bytes | int:
        """Render the page at once, or once the request's key is proven."""
        ours = cast("GatewayRequest", request)
        caller = ours.caller
        if not (self._scopes.isdisjoint(caller.scopes) or is_limited(caller)):
            return cast("bytes | int", self._page.render(request))
        answering = Deferred.fromCoroutine(self._answer(ours))
        ours.notifyFinish().addErrback(lambda _: answering.cancel())
        answering.addErrback(lambda failure: failure.trap(CancelledError))
        answering.addErrback(ours.processingFailed)
        return NOT_DONE_YET

    async def _answer(self, request: GatewayRequest) -> None:
        try:
            await request.prove()
            request.check_scopes(self._scopes)
            if is_limited(request.caller):
                raise Forbidden(
                    f"the key {request.caller.name!r} may use some models only, and this page "
                    "names all of them"
                )
        except CortexError as error:
            request.respond_error(error)
        else:
            request.render(self._page)
