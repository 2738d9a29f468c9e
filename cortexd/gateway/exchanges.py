"""Makes the exchange of a request: its model's name resolved, the body translated for its nodes."""

from __future__ import annotations

import os
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from cortexd.access.callers import Caller
from cortexd.dialects.routes.chat import ChatRequest
from cortexd.dialects.routes.responses import ResponsesRequest
from cortexd.dialects.wire.exchange import Exchange, ParsedRequest
from cortexd.fleet.catalogue import Catalogue
from cortexd.gateway.kept_state import KeptState
from cortexd.gateway.profiles import Profiles
from cortexd.telemetry.accounting import RequestRecord
from cortexd.upstream.first_polls import FirstPolls


class Exchanges:
    """Makes exchanges for the models of a ``catalogue``; ``clock`` counts Unix seconds.

    A request that comes before the ``first_polls`` have ended waits for them, because the catalogue
    is not complete yet.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        profiles: Profiles,
        clock: IReactorTime,
        first_polls: FirstPolls,
        kept: KeptState,
    ) -> None:
        self._catalogue = catalogue
        self._first_polls = first_polls
        self._profiles = profiles
        self._clock = clock
        self._kept = kept

    async def make(
        self,
        parsed: ParsedRequest,
        record: RequestRecord,
        resolve: Callable[[str, Caller], str] | None = None,
    ) -> Exchange:
        """Return the exchange of a request, and note its model in the record.

        ``resolve`` returns the model that a caller means by a name; by default the catalogue does.
        Raises CortexError. Cancelling ends the wait for the first polls.
        """
        record.streams = parsed.streams
        name, caller = parsed.model, record.caller
        if not self._first_polls.have_ended:  # else the wait would show whether it exists
            self._catalogue.check(name, caller)
        await self._first_polls.known(self._catalogue.target(name))
        record.model = model = (resolve or self._catalogue.resolve)(name, caller)
        if caller.name and isinstance(parsed, (ChatRequest, ResponsesRequest)) and parsed.session:
            session = self._kept.session_at_nodes(parsed.session, caller.name, model)
            parsed = parsed.in_session(session)
        return parsed.exchange(
            model,
            self._profiles.of_model(model),
            random_id=os.urandom(16).hex(),
            now=self._clock.seconds(),
            request_id=record.request_id,
        )
