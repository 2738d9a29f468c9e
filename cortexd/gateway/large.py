"""Requests too large for the reactor: another process reads and translates them, one at a time."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from twisted.internet.interfaces import IReactorTime

from cortexd.access.callers import Caller
from cortexd.bulk import jobs
from cortexd.bulk.frames import Parcel
from cortexd.bulk.jobs import Head, Made, Reading
from cortexd.bulk.translator import Translator, Visit
from cortexd.dialects.messages_to_chat.tokens import TokenSizes
from cortexd.dialects.routes import responses
from cortexd.dialects.wire.exchange import Exchange
from cortexd.dialects.wire.scan import LIGHT_BYTES
from cortexd.fleet.catalogue import Catalogue
from cortexd.gateway.answers import Answers
from cortexd.gateway.kept_state import KeptState
from cortexd.gateway.profiles import Profiles
from cortexd.telemetry.accounting import RequestRecord
from cortexd.upstream.first_polls import FirstPolls

TextsBefore = Callable[[str | None], Awaitable[Sequence[tuple[bytes, bytes]] | None]]
TextsOfItems = Callable[[Sequence[str]], Awaitable[Sequence[bytes]]]


class TranslatedResponse(NamedTuple):
    """A request for a response, ready for a node; ``pack`` returns its input as it is stored."""

    head: Head
    exchange: Exchange
    pack: Callable[[], bytes]


class LargeRequests:
    """Makes exchanges of large requests. A stopping gateway ends the wait by way of ``answers``."""

    def __init__(
        self,
        translator: Translator,
        answers: Answers,
        catalogue: Catalogue,
        profiles: Profiles,
        clock: IReactorTime,
        first_polls: FirstPolls,
        kept: KeptState,
    ) -> None:
        self._kept = kept
        self._first_polls = first_polls
        self._translator = translator
        self._answers = answers
        self._catalogue = catalogue
        self._profiles = profiles
        self._clock = clock

    async def exchange(
        self,
        reading: Reading,
        body: Parcel,
        record: RequestRecord,
        resolve: Callable[[str, Caller], str] | None = None,
    ) -> Exchange:
        """Return the exchange of a request; see ``Exchanges.make``. Raises CortexError."""

        async def make() -> Exchange:
            async with self._translator.visit(record.request_id) as visit:
                is_sized = reading.sizes is not None
                head = await visit.do(jobs.read, reading.function, is_sized, body)
                _, exchange = await self._made(visit, head, record, reading.sizes, resolve)
                return exchange

        return await self._answers.ask(make())

    async def response(
        self,
        body: Parcel,
        record: RequestRecord,
        sizes: Callable[[str], TokenSizes],
        texts_before: TextsBefore,
        texts_of_items: TextsOfItems,
    ) -> TranslatedResponse:
        """Return a request for a response, with the conversation before it. Raises CortexError.

        ``texts_before`` reads the conversation up to a response from the store, and
        ``texts_of_items`` the responses that have items of these ids.
        """

        async def make() -> TranslatedResponse:
            async with self._translator.visit(record.request_id) as visit:
                head: Head = await visit.do(jobs.read, responses.read_request, True, body)
                before = await texts_before(head.previous_id)
                named: list[str] = await visit.do(jobs.extend, before)
                if named:
                    await visit.do(jobs.resolve, await texts_of_items(named))
                made, exchange = await self._made(visit, head, record, sizes, None)
                return TranslatedResponse(head, exchange, lambda: made.input_items)

        return await self._answers.ask(make())

    async def _made(
        self,
        visit: Visit,
        head: Head,
        record: RequestRecord,
        sizes: Callable[[str], TokenSizes] | None,
        resolve: Callable[[str, Caller], str] | None,
    ) -> tuple[Made, Exchange]:
        record.streams = head.streams
        name, caller = head.model, record.caller
        if not self._first_polls.have_ended:  # else the wait would show whether it exists
            self._catalogue.check(name, caller)
        await self._first_polls.known(self._catalogue.target(name))
        record.model = model = (resolve or self._catalogue.resolve)(name, caller)
        if caller.name and head.session is not None:
            session = self._kept.session_at_nodes(head.session, caller.name, model)
            await visit.do(jobs.rename_session, session)
        profiles = list(self._profiles.of_model(model))
        made: Made = await visit.do(
            jobs.exchange,
            model,
            profiles,
            TokenSizes() if sizes is None else sizes(model),
            os.urandom(16).hex(),
            self._clock.seconds(),
            record.request_id,
        )
        return made, made.whole(profiles)

    async def response_count(
        self,
        body: Parcel,
        record: RequestRecord,
        sizes: Callable[[str], TokenSizes],
        texts_before: Callable[[str], Awaitable[Sequence[tuple[bytes, bytes]]]],
    ) -> bytes:
        """Return the answer to a request to count the tokens of a response. Raises CortexError."""

        async def count() -> bytes:
            async with self._translator.visit(record.request_id) as visit:
                model, previous_id = await visit.do(jobs.read_response_count, body)
                self._catalogue.check(model, record.caller)
                if previous_id is not None:
                    await visit.do(jobs.extend_count, await texts_before(previous_id))
                counted: bytes = await visit.do(jobs.estimate, sizes(model))
                return counted

        return await self._answers.ask(count())

    async def call(
        self, request_id: str, function: Callable[..., Any], text: bytes, *arguments: object
    ) -> Any:
        """Return the result of a function of a stored text, which a large text has elsewhere."""
        if len(text) <= LIGHT_BYTES:
            return function(text, *arguments)

        async def work() -> Any:
            async with self._translator.visit(request_id) as visit:
                return await visit.do(jobs.call, function, text, *arguments)

        return await self._answers.ask(work())
