"""Requests for responses: each continues stored responses, and its own response is stored.

A response is stored once it has ended, with whatever status, before its client could name it in
another request. If the client has left before that, nothing is stored: the client knows no end of
it. With ``store: false``, nothing is stored either, except for work in the background, whose
response its client gets from the store alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cortexd.dialects.routes import kept_responses, responses
from cortexd.dialects.routes.responses import ResponsesRequest
from cortexd.dialects.wire.exchange import EVENT_STREAM, JSON
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.downstream.request import GatewayRequest
from cortexd.downstream.response import Downstream
from cortexd.gateway.attempt import translation_headers
from cortexd.gateway.exchanges import Exchanges
from cortexd.gateway.profiles import Profiles
from cortexd.gateway.relay import Relay
from cortexd.gateway.responses.background import Background
from cortexd.gateway.token_counts import TokenCounts
from cortexd.store.response_file import StoredResponse
from cortexd.store.responses import ResponseStore
from cortexd.telemetry.accounting import RequestRecord


class Conversations:
    """Serves the routes of responses from a ``store``; ``unix_time`` returns the time in seconds.

    A conversation that a request continues may have ``max_bytes``, like the body of a request.
    Nodes that make responses themselves store them too: what is not in our store may be there.
    """

    def __init__(
        self,
        exchanges: Exchanges,
        profiles: Profiles,
        relay: Relay,
        background: Background,
        store: ResponseStore,
        token_counts: TokenCounts,
        unix_time: Callable[[], float],
        max_bytes: int,
    ) -> None:
        self._exchanges = exchanges
        self._profiles = profiles
        self._relay = relay
        self._background = background
        self._store = store
        self._token_counts = token_counts
        self._unix_time = unix_time
        self._max_bytes = max_bytes

    def reconfigure(self, max_bytes: int) -> None:
        """Let another limit hold from now on."""
        self._max_bytes = max_bytes

    async def create(
        self,
        request: GatewayRequest,
        body: bytes,
        record: RequestRecord,
        downstream: Downstream,
    ) -> None:
        """Answer a request for a response. Raises CortexError before any byte has gone out."""
        given = responses.read_request(body, self._token_counts.sizes)
        parsed = await self._continued(given)
        exchange = await self._exchanges.make(parsed, record)
        outcome = exchange.outcome
        if parsed.in_background and outcome and not self._is_native(exchange.model):
            stored = self._stored(parsed, exchange.model, outcome.begun)
            queued = self._background.start(request, exchange, stored, outcome.begun)
            headers = {**translation_headers(exchange.first), "X-Cortex-Model": exchange.model}
            if not parsed.streams:
                downstream.respond(JSON, headers, queued)
            else:
                await self._stream(stored.id, downstream, headers, after=-1)
            record.bytes_out = downstream.bytes_out
            return
        try:
            await self._relay.serve(exchange, downstream, record)
        finally:
            if outcome is not None and outcome.response is not None and parsed.stores:
                self._store.put(self._stored(parsed, exchange.model, outcome.response))
        self._token_counts.learn(exchange.model, exchange.prompt, record.usage)

    async def _continued(self, parsed: ResponsesRequest) -> ResponsesRequest:
        """Return the request with the conversation before it, and with the items that it names.

        A previous response that is not in our store keeps its name: the request then goes to the
        node that has it. Raises StateNotFound where a part of the conversation is gone.
        """
        if parsed.previous_id is not None:
            items = await self._items_before(parsed.previous_id)
            parsed = parsed if items is None else parsed.continuing(items)
        if parsed.references:
            named = await self._store.with_items(parsed.references)
            known = kept_responses.items_by_id(each.response for each in named)
            parsed = parsed.with_items(known)
        return parsed

    async def _items_before(self, name: str) -> list[JsonObject] | None:
        """Return the items of the conversation up to a response, ``None`` if it is not ours."""
        chain = await self._store.chain(name)
        if not chain:
            return None
        kept_responses.check_continued(
            name,
            is_unfinished=chain[-1].is_unfinished,
            gap=chain[0].previous,
            size=sum(each.size for each in chain),
            most=self._max_bytes,
        )
        stored = ((each.response, each.input_items) for each in chain)
        return kept_responses.conversation(stored)

    async def count(self, body: bytes) -> bytes:
        """Return our estimate of a request's tokens; never loads a model. Raises CortexError."""
        parsed = responses.read_count(body)
        if parsed.previous_id is not None:
            items = await self._items_before(parsed.previous_id)
            if items is None:
                raise kept_responses.not_stored(parsed.previous_id, kept_responses.PREVIOUS)
            parsed = parsed.continuing(items)
        return parsed.estimate(self._token_counts.sizes)

    def _is_native(self, model: str) -> bool:
        """Return whether nodes make the responses of a model themselves, also in the background."""
        return any(profile.native_responses for profile in self._profiles.of_model(model))

    def _stored(self, parsed: ResponsesRequest, model: str, response: JsonObject) -> StoredResponse:
        now = self._unix_time()
        return StoredResponse(
            kept_responses.id_of(response),
            parsed.previous_id,
            model,
            now,
            now,
            encode(response),
            kept_responses.pack_items(parsed.input_items),
            item_ids=kept_responses.item_ids(response),
        )

    # Questions by id.

    async def answer(
        self,
        method: str,
        name: str,
        action: str,
        query: Mapping[str, str],
        downstream: Downstream,
    ) -> bool:
        """Answer a question about a response; return ``False`` if it is not ours.

        ``method`` and ``action`` are those of the path. Raises CortexError.
        """
        after = kept_responses.read_stream_query(query)
        if method == "GET" and not action and after is not None:
            return await self._stream(name, downstream, {}, after)
        body = await self._answer(method, name, action, query)
        if body is not None:
            downstream.respond(JSON, {}, body)
        return body is not None

    async def _answer(
        self, method: str, name: str, action: str, query: Mapping[str, str]
    ) -> bytes | None:
        if method == "DELETE":
            return await self._delete(name)
        if action == "cancel":
            return await self._cancel(name)
        stored = await self._store.get(name)
        if stored is None:
            return None if action else self._background.state(name)
        if action == "input_items":
            return kept_responses.input_page(stored.input_items, query)
        return self._background.state(name) or stored.response

    async def _stream(
        self, name: str, downstream: Downstream, headers: Mapping[str, str], after: int
    ) -> bool:
        """Send the events of a response; only the last one if the response has ended before.

        Return ``False`` if it is not ours.
        """
        following = self._background.follow(name, downstream, headers, after)
        if following is not None:
            await following
            return True
        stored = await self._store.get(name)
        if stored is None:
            return False
        event = kept_responses.last_event(stored.response, after)
        downstream.begin(EVENT_STREAM, headers)
        downstream.finish(event)
        return True

    async def _delete(self, name: str) -> bytes | None:
        self._background.cancel(name, is_deleted=True)
        is_ours = await self._store.delete(name)
        return kept_responses.deleted(name) if is_ours else None

    async def _cancel(self, name: str) -> bytes | None:
        """Cancel work in the background; a response in a final state stays as it is."""
        self._background.cancel(name)
        stored = await self._store.get(name)
        if stored is None:
            return None
        kept_responses.check_cancellable(stored.response)
        return stored.response
