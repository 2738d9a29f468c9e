"""Counts the tokens of a Messages request: a capable node counts them, else we estimate."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from cortexd.access.callers import ANYBODY, Caller
from cortexd.bulk import jobs
from cortexd.bulk.frames import Parcel
from cortexd.bulk.translator import Translator
from cortexd.dialects.messages_to_chat import tokens
from cortexd.dialects.messages_to_chat.tokens import TokenSizes
from cortexd.dialects.wire.exchange import PromptSize, Usage
from cortexd.dialects.wire.scan import is_light
from cortexd.dialects.wire.token_ratios import TokenRatios
from cortexd.engines.engine import Ask
from cortexd.errors import BadGateway, CortexError, NodeTimeout
from cortexd.fleet.catalogue import Catalogue
from cortexd.fleet.fleet import Fleet
from cortexd.logs import get_logger
from cortexd.telemetry.accounting import RequestRecord
from cortexd.upstream.client import NodeClient
from cortexd.upstream.first_polls import FirstPolls

ANSWER_SECONDS: Final = 5.0
"""How long a node may take to count: clients count often, and we can estimate at once."""

log = get_logger("cortexd.token_counts")


class TokenCounts:
    """Counts tokens, and learns better estimates from the nodes' counts.

    ``image_tokens`` maps a model to the tokens of one image, where they are known.
    """

    def __init__(
        self,
        fleet: Fleet,
        catalogue: Catalogue,
        clients: Mapping[str, NodeClient],
        image_tokens: Mapping[str, int],
        first_polls: FirstPolls,
        translator: Translator,
    ) -> None:
        self._translator = translator
        self._fleet = fleet
        self._catalogue = catalogue
        self._clients = clients
        self._image_tokens = image_tokens
        self._first_polls = first_polls
        self._ratios = TokenRatios()

    def reconfigure(self, image_tokens: Mapping[str, int]) -> None:
        """Take the tokens of images of another configuration; learned ratios stay."""
        self._image_tokens = image_tokens

    def sizes(self, name: str, caller: Caller = ANYBODY) -> TokenSizes:
        """Return a model's token sizes, by the caller's name for the model."""
        model = self._resolved(name, caller) or name
        return TokenSizes(
            self._ratios.of(model),
            self._image_tokens.get(model, tokens.IMAGE_TOKENS),
        )

    def learn(self, model: str, prompt: PromptSize | None, usage: Usage | None) -> None:
        """Learn the model's bytes per token from the prompt tokens that an answer reports."""
        if prompt is None or usage is None or prompt.has_media or usage.estimated:
            return
        self._ratios.note(model, prompt.text_bytes, usage.prompt_tokens)

    async def count(
        self, given: Parcel, headers: Mapping[str, str], record: RequestRecord
    ) -> tuple[bytes, Mapping[str, str]]:
        """Return the answer to a count request, and headers that name the source of the count.

        ``headers`` are the client's headers about its dialect. Never loads a model. Raises
        BadRequest, and Forbidden for a model that the record's caller may not use.
        """
        caller = record.caller
        body = given.take()
        if not is_light(body):
            parcel = Parcel(body)
            del body
            return await self._count_large(parcel, headers, record)
        request = tokens.read_count(body)
        self._catalogue.check(request.model, caller)
        await self._first_polls.known(self._catalogue.target(request.model))
        model = self._resolved(request.model, caller)
        node = None if model is None else self._counting_node(model)
        if model is not None and node is not None:
            try:
                client = self._clients[node]
                sent = {**headers, "X-Request-ID": record.request_id}
                ask = client.engine.count_tokens(request.fields, model, sent)
                count = await client.ask(ask, ANSWER_SECONDS)
                return tokens.count_answer(count), {"X-Cortex-Node": node}
            except (BadGateway, NodeTimeout, RecursionError) as error:
                log.info("count_failed", node=node, error=type(error).__name__)
        estimate = request.estimate(partial(self.sizes, caller=caller))
        return estimate, dict([tokens.COUNT_HEADER])

    async def _count_large(
        self, body: Parcel, headers: Mapping[str, str], record: RequestRecord
    ) -> tuple[bytes, Mapping[str, str]]:
        """Answer a large request, which another process reads; see ``count``."""
        request_id, caller = record.request_id, record.caller
        async with self._translator.visit(request_id) as visit:
            name = await visit.do(jobs.read_count, body)
            self._catalogue.check(name, caller)
            await self._first_polls.known(self._catalogue.target(name))
            model = self._resolved(name, caller)
            node = None if model is None else self._counting_node(model)
            ask: Ask[int] | None = None
            if node is not None:
                engine, sent = self._clients[node].engine, {**headers, "X-Request-ID": request_id}
                ask = await visit.do(jobs.ask_count, engine, model, sent)
            estimate: bytes = await visit.do(jobs.estimate, self.sizes(name, caller))
        if ask is not None and node is not None:
            try:
                count = await self._clients[node].ask(ask, ANSWER_SECONDS)
                return tokens.count_answer(count), {"X-Cortex-Node": node}
            except (BadGateway, NodeTimeout) as error:
                log.info("count_failed", node=node, error=type(error).__name__)
        return estimate, dict([tokens.COUNT_HEADER])

    def _counting_node(self, model: str) -> str | None:
        """Return a node that can count a model's tokens now, ``None`` where no node can."""
        for replica in self._fleet.replicas(model):
            node = replica.node.name
            if replica.answers and self._clients[node].engine.abilities.counts_tokens:
                return node
        return None

    def _resolved(self, name: str, caller: Caller) -> str | None:
        try:
            return self._catalogue.resolve(name, caller)
        except CortexError:
            return None
