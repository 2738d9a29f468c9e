"""What of a Messages request its answers depend on, on whatever node it is answered."""

from __future__ import annotations

from dataclasses import dataclass

from cortexd.dialects.wire.json_values import JsonObject


class Opening:
    """What of a stream its signs of life have told.

    A request may take several attempts, each with a responder of its own, and one more that keeps
    the client company in the queue. A sign of life begins the message, and may open a thinking
    block; what comes next must go on from there. So the responders of a request share this, which
    signs of life write and from which an attempt starts. Nothing else is shared: what an attempt
    tells of the answer may be thrown away where its node fails in the same breath, and once it was
    sent there is no other attempt.
    """

    def __init__(self) -> None:
        self.has_begun = False
        self.thinking_is_open = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a client asked for, as far as every answer depends on it.

    ``model`` is the name the client asked by, ``prompt_estimate`` the tokens of the prompt by our
    own reckoning, ``request_id`` what errors in the stream name. ``opening`` is what the responders
    of the request share. ``edits_context`` says that the client asked for edits of its context, and
    so is told which were made.
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
        """The fields of a message that say whose it is: ours, whatever the node called it."""
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
        }

    @property
    def edits(self) -> JsonObject:
        """The field that tells of edits of the context, where the client asked for some: none."""
        return {"context_management": {"applied_edits": []}} if self.edits_context else {}
