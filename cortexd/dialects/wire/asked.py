"""The parts of a Messages request that its answer depends on, on every kind of node."""

from __future__ import annotations

from dataclasses import dataclass

from cortexd.dialects.wire.json_values import JsonObject


class Opening:
    """The part of a stream that keep-alives have already sent.

    A request may have several attempts, each with a responder of its own, and another responder
    that sends keep-alives while the request waits in the queue. A keep-alive begins the message,
    and may open a thinking block; the next responder must continue from there. The responders of a
    request therefore share this object: keep-alives write it, and an attempt starts from it. They
    share nothing else: the output of an attempt may be discarded if its node fails immediately, and
    after it was sent there is no other attempt.
    """

    def __init__(self) -> None:
        self.has_begun = False
        self.thinking_is_open = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The parts of a request that every answer depends on.

    ``model`` is the name that the client used, ``prompt_estimate`` our estimate of the prompt's
    tokens, and ``request_id`` the id in errors inside the stream. The responders of the request
    share ``opening``. ``edits_context`` means that the client requested edits of its context, so
    that the answer lists the edits.
    """

    model: str
    streams: bool
    message_id: str
    prompt_estimate: int
    opening: Opening
    request_id: str | None = None
    edits_context: bool = False

    @property
    def head(self) -> JsonObject:
        """The identifying fields of a message: ours, not those of the node."""
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
        }

    @property
    def edits(self) -> JsonObject:
        """The field with the edits of the context, if the client requested any: always empty."""
        return {"context_management": {"applied_edits": []}} if self.edits_context else {}
