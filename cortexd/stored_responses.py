"""Responses that nodes keep: which node has which, and what clients ask of them by id.

A node keeps them in memory, for all its models together, until it restarts. Asked to go on from one
that it does not have, it forgets the conversation without a word; so it is asked first whether it
has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from twisted.internet.interfaces import IReactorTime

from cortexd.affinity import Affinity
from cortexd.dialects.mistralrs import read_error
from cortexd.dialects.openai_responses import ROUTE
from cortexd.dispatcher import Dispatcher
from cortexd.errors import BadGateway, NodeTimeout, ResponseNotFound
from cortexd.events import Effect
from cortexd.states import NodeRestarted
from cortexd.upstream import NodeClient

ANSWER_SECONDS: Final = 10.0
"""How long a node may take for a question by id: it computes nothing, but may be busy loading."""


class StoredResponses:
    """Knows where responses are kept, and asks for them there."""

    def __init__(
        self, clients: Mapping[str, NodeClient], dispatcher: Dispatcher, clock: IReactorTime
    ) -> None:
        self.affinity = Affinity()
        self._clients = clients
        self._clock = clock
        dispatcher.listen(self._follow)

    def _follow(self, effect: Effect) -> None:
        if isinstance(effect, NodeRestarted):
            self.affinity.forget_node(effect.node)

    def remember(self, name: str, node: str) -> None:
        """Take that a node keeps the response of this id from now on."""
        self.affinity.remember(name, node, self._clock.seconds())

    def node_of(self, name: str) -> str:
        """Return the node that keeps a response. Raises ResponseNotFound."""
        node = self.affinity.node_of(name, self._clock.seconds())
        if node is None:
            raise ResponseNotFound(
                f"response {name!r} is on no node: it was never stored, or is lost since its node "
                "restarted"
            )
        return node

    def previous(self, name: str) -> str:
        """Return the node of the response that a request goes on from.

        Raises ResponseNotFound naming the field.
        """
        try:
            return self.node_of(name)
        except ResponseNotFound as error:
            raise _not_to_go_on_from(error) from None

    async def check(self, name: str, node: str, request_id: str) -> None:
        """See that the node has the response that a request is about to go on from.

        Raises ResponseNotFound naming the field, and what ``ask`` raises.
        """
        try:
            await self.ask("GET", name, "", node, request_id)
        except ResponseNotFound as error:
            raise _not_to_go_on_from(error) from None

    async def ask(self, method: str, name: str, action: str, node: str, request_id: str) -> bytes:
        """Return the JSON body of the node's answer about a response that it keeps.

        ``action`` is what follows the id in the path, with its slash. Raises ResponseNotFound
        where the node has it no more, and what ``read_error`` says of its other errors.
        """
        path = f"{ROUTE}/{quote(name, safe='')}"
        headers = {"X-Request-ID": request_id}
        try:
            status, body = await self._clients[node].forward(
                method, path + action, headers, ANSWER_SECONDS
            )
        except (BadGateway, NodeTimeout) as error:
            raise type(error)(f"node {node}: {error.message}") from None
        if status == 404:
            raise ResponseNotFound(
                f"node {node} has no response {name!r}"
                + (f", or none to {action.removeprefix('/')}" if action else "")
            )
        if status != 200:
            raise read_error(status, body)
        if method == "DELETE":
            self.affinity.forget(name)
        return body


def _not_to_go_on_from(error: ResponseNotFound) -> ResponseNotFound:
    return ResponseNotFound(
        error.message, param="previous_response_id", code="previous_response_not_found"
    )
