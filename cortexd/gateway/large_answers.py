"""Whole answers too large for the reactor: another process rewrites them, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cortexd.bulk import jobs
from cortexd.bulk.frames import Parcel
from cortexd.bulk.jobs import Taken
from cortexd.bulk.translator import Translator
from cortexd.dialects.wire.exchange import Outcome, Responder
from cortexd.errors import BadGateway
from cortexd.fleet.affinity import Kept


class LargeAnswers:
    """Makes our answers of large whole answers of nodes; requests wait in the same queue."""

    def __init__(self, translator: Translator) -> None:
        self._translator = translator

    async def take(
        self,
        responder: Responder,
        make_responder: Callable[[], Responder],
        outcome: Outcome | None,
        kept_by_body: Callable[[bytes], Sequence[Kept]],
        body: Parcel,
        request_id: str,
    ) -> tuple[bytes, Sequence[Kept]]:
        """Return our answer, and the state that the node's answer names; see Responder.

        ``responder`` has not begun to answer, and learns what its twin in the other process has
        found. Raises CortexError: Overloaded where that process has ended. Cancelling leaves the
        queue.
        """
        if responder.streams:
            # Its keep-alives, which may have begun the stream, are not known to a twin.
            refused = BadGateway("the node's answer is too large to be given in pieces")
            refused.is_node_fault = False
            raise refused
        async with self._translator.visit(request_id) as visit:
            taken: Taken = await visit.do(
                jobs.take_answer, make_responder, outcome, kept_by_body, body
            )
        responder.usage, responder.upstream_id = taken.usage, taken.upstream_id
        responder.content_chunks = taken.content_chunks
        responder.done = responder.finished = True
        return taken.text, taken.kept
