"""Requests for responses: each continues stored responses, and its own response is stored.

A response is stored once it has ended, with whatever status, before its client could name it in
another request. If the client has left before that, nothing is stored: the client knows no end of
it. With ``store: false``, nothing is stored either, except for work in the background, whose
response its client gets from the store alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from cortexd.access.callers import Caller
from cortexd.bulk.frames import Parcel
from cortexd.bulk.jobs import Head, head_of
from cortexd.dialects.routes import kept_responses, responses
from cortexd.dialects.routes.responses import ResponsesRequest
from cortexd.dialects.wire.exchange import EVENT_STREAM, JSON
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.dialects.wire.scan import is_light
from cortexd.downstream.request import GatewayRequest
from cortexd.downstream.response import Downstream
from cortexd.fleet.catalogue import Catalogue
from cortexd.gateway.attempt import translation_headers
from cortexd.gateway.exchanges import Exchanges
from cortexd.gateway.large import LargeRequests, TranslatedResponse
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
        catalogue: Catalogue,
        profiles: Profiles,
        relay: Relay,
        background: Background,
        store: ResponseStore,
        token_counts: TokenCounts,
        unix_time: Callable[[], float],
        large: LargeRequests,
        max_bytes: int,
    ) -> None:
        self._exchanges = exchanges
        self._large = large
        self._catalogue = catalogue
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
        body: Parcel,
        record: RequestRecord,
        downstream: Downstream,
    ) -> None:
        """Answer a request for a response. Raises CortexError before any byte has gone out."""
        head, exchange, pack_input = await self._translated(body, record)
        outcome = exchange.outcome
        if head.in_background and outcome and not self._is_native(exchange.model):
            stored = self._stored(head, exchange.model, outcome.begun, pack_input(), record.caller)
            headers = {**translation_headers(exchange.first), "X-Cortex-Model": exchange.model}
            queued = self._background.start(request, exchange, stored, outcome.begun, record.wait)
            if not head.streams:
                downstream.respond(JSON, headers, queued)
            else:
                await self._stream(stored.id, downstream, headers, -1, record)
            record.bytes_out = downstream.bytes_out
            return
        try:
            await self._relay.serve(exchange, downstream, record)
        finally:
            if outcome is not None and outcome.response is not None and head.stores:
                response, caller = outcome.response, record.caller
                stored = self._stored(head, exchange.model, response, pack_input(), caller)
                self._store.put(stored)
        self._token_counts.learn(exchange.model, exchange.prompt, record.usage)

    async def _translated(self, given: Parcel, record: RequestRecord) -> TranslatedResponse:
        """Return the request with the conversation before it and the items that it names.

        A previous response that is not in our store keeps its name: the request then goes to the
        node that has it. Raises StateNotFound where a part of the conversation is gone.
        """
        body = given.take()
        parsed = await self._light(body, record.caller) if is_light(body) else None
        parcel = Parcel(body)
        del body
        if parsed is None:
            return await self._large.response(
                parcel,
                record,
                self._token_counts.sizes,
                partial(self._texts_before, reader=record.caller),
                partial(self._texts_of_items, reader=record.caller),
            )
        exchange = await self._exchanges.make(parsed, record)
        pack_input = partial(kept_responses.pack_items, parsed.input_items)
        return TranslatedResponse(head_of(parsed), exchange, pack_input)

    async def _light(self, body: bytes, reader: Caller) -> ResponsesRequest | None:
        """Return such a request, ``None`` if it is large with what belongs to it."""
        parsed = responses.read_request(body, self._token_counts.sizes)
        before = await self._texts_before(parsed.previous_id, reader)
        texts = [body, *(text for texts in before or () for text in texts)]
        if before is not None:
            if not is_light(*texts):
                return None
            parsed = parsed.continuing(kept_responses.conversation(before))
        if parsed.references:
            named = await self._texts_of_items(parsed.references, reader)
            if not is_light(*texts, *named):
                return None
            parsed = parsed.with_items(kept_responses.items_by_id(named))
        return parsed

    async def _texts_of_items(self, names: Sequence[str], reader: Caller) -> list[bytes]:
        """Return the reader's stored responses that have items of these ids."""
        return [each.response for each in await self._store.with_items(names, reader)]

    async def _texts_before(
        self, name: str | None, reader: Caller
    ) -> list[tuple[bytes, bytes]] | None:
        """Return the conversation up to a response as it is stored.

        ``None`` if the store does not have it for the reader.
        """
        if name is None:
            return None
        chain = await self._store.chain(name, reader)
        if not chain:
            return None
        kept_responses.check_continued(
            name,
            is_unfinished=chain[-1].is_unfinished,
            gap=chain[0].previous,
            size=sum(each.size for each in chain),
            most=self._max_bytes,
        )
        return [(each.response, each.input_items) for each in chain]

    async def count(self, given: Parcel, record: RequestRecord) -> bytes:
        """Return our estimate of a request's tokens; never loads a model. Raises CortexError."""
        sizes = partial(self._token_counts.sizes, caller=record.caller)
        body = given.take()
        if is_light(body):
            parsed = responses.read_count(body)
            self._catalogue.check(parsed.model, record.caller)
            if parsed.previous_id is None:
                return parsed.estimate(sizes)
            before = await self._texts_counted(parsed.previous_id, record.caller)
            if is_light(body, *(text for texts in before for text in texts)):
                parsed = parsed.continuing(kept_responses.conversation(before))
                return parsed.estimate(sizes)
        parcel = Parcel(body)
        del body
        texts_before = partial(self._texts_counted, reader=record.caller)
        return await self._large.response_count(parcel, record, sizes, texts_before)

    async def _texts_counted(self, name: str, reader: Caller) -> list[tuple[bytes, bytes]]:
        """Return the conversation up to a response. Raises StateNotFound if it is not ours."""
        before = await self._texts_before(name, reader)
        if before is None:
            raise kept_responses.not_stored(name, kept_responses.PREVIOUS)
        return before

    def _is_native(self, model: str) -> bool:
        """Return whether nodes make the responses of a model themselves, also in the background."""
        return any(profile.native_responses for profile in self._profiles.of_model(model))

    def _stored(
        self, head: Head, model: str, response: JsonObject, input_items: bytes, caller: Caller
    ) -> StoredResponse:
        now = self._unix_time()
        return StoredResponse(
            kept_responses.id_of(response),
            head.previous_id,
            model,
            now,
            now,
            encode(response),
            input_items,
            item_ids=kept_responses.item_ids(response),
            owner=caller.name,
        )

    # Questions by id.

    async def answer(
        self,
        method: str,
        name: str,
        action: str,
        query: Mapping[str, str],
        downstream: Downstream,
        record: RequestRecord,
    ) -> bool:
        """Answer a question about a response; return ``False`` if it is not ours.

        ``method`` and ``action`` are those of the path. For a caller that does not own it, it is
        not ours. Raises CortexError.
        """
        after = kept_responses.read_stream_query(query)
        if method == "GET" and not action and after is not None:
            return await self._stream(name, downstream, {}, after, record)
        body = await self._answer(method, name, action, query, record)
        if body is not None:
            downstream.respond(JSON, {}, body)
        return body is not None

    async def _answer(
        self, method: str, name: str, action: str, query: Mapping[str, str], record: RequestRecord
    ) -> bytes | None:
        caller = record.caller
        if method == "DELETE":
            return await self._delete(name, caller)
        if action == "cancel":
            return await self._cancel(name, record)
        stored = await self._store.get(name, caller)
        if stored is None:
            return None if action else self._background.state(name, caller)
        if action == "input_items":
            page: bytes = await self._large.call(
                record.request_id, kept_responses.input_page, stored.input_items, dict(query)
            )
            return page
        return self._background.state(name, caller) or stored.response

    async def _stream(
        self,
        name: str,
        downstream: Downstream,
        headers: Mapping[str, str],
        after: int,
        record: RequestRecord,
    ) -> bool:
        """Send the events of a response; only the last one if the response has ended before.

        Return ``False`` if it is not ours.
        """
        caller = record.caller
        following = self._background.follow(name, downstream, headers, after, caller)
        if following is not None:
            await following
            return True
        stored = await self._store.get(name, caller)
        if stored is None:
            return False
        event = await self._large.call(
            record.request_id, kept_responses.last_event, stored.response, after
        )
        downstream.begin(EVENT_STREAM, headers)
        downstream.finish(event)
        return True

    async def _delete(self, name: str, caller: Caller) -> bytes | None:
        self._background.cancel(name, caller, is_deleted=True)
        is_ours = await self._store.delete(name, caller)
        return kept_responses.deleted(name) if is_ours else None

    async def _cancel(self, name: str, record: RequestRecord) -> bytes | None:
        """Cancel work in the background; a response in a final state stays as it is."""
        self._background.cancel(name, record.caller)
        stored = await self._store.get(name, record.caller)
        if stored is None:
            return None
        await self._large.call(record.request_id, kept_responses.check_cancellable, stored.response)
        return stored.response
