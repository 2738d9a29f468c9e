"""Aliases for names and ids of tools that an upstream does not accept.

The alias depends only on the name, so that it is the same in each turn.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from cortexd.dialects.wire.exchange import Responder, Usage
from cortexd.dialects.wire.frames import Mould
from cortexd.dialects.wire.json_values import NOT_JSON, JsonObject, decode, encode
from cortexd.dialects.wire.profile import ToolIdFormat
from cortexd.errors import CortexError
from cortexd.sse import ServerSentEvent

_TAKEN_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""The names of functions that the OpenAI reference allows."""

_NOT_TAKEN = re.compile(r"[^A-Za-z0-9_-]")
_KEPT_CHARACTERS: Final = 47
_DIGEST_CHARACTERS: Final = 16

_MESSAGES_ID = re.compile(r"[A-Za-z0-9_-]+")
"""The ids of calls that the Messages API accepts."""

_MISTRAL_ID = re.compile(r"[A-Za-z0-9]{9}")
_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def upstream_name(name: str) -> str:
    """Return the upstream's name of a tool: the tool's own name, if the upstream accepts it."""
    if _TAKEN_NAME.fullmatch(name):
        return name
    readable = _NOT_TAKEN.sub("_", name)[:_KEPT_CHARACTERS]
    return f"{readable}_{hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_CHARACTERS]}"


def upstream_id(call_id: str, id_format: ToolIdFormat) -> str:
    """Return the upstream's id of a tool call."""
    if id_format is ToolIdFormat.ANY or _MISTRAL_ID.fullmatch(call_id):
        return call_id
    number = int.from_bytes(hashlib.sha256(call_id.encode()).digest())
    digits = []
    for _ in range(9):
        number, digit = divmod(number, len(_BASE62))
        digits.append(_BASE62[digit])
    return "".join(digits)


def messages_id(call_id: str, id_format: ToolIdFormat) -> str:
    """Return the id for an upstream that speaks Messages, whose API limits the characters."""
    if id_format is ToolIdFormat.ANY and not _MESSAGES_ID.fullmatch(call_id):
        return f"call_{hashlib.sha256(call_id.encode()).hexdigest()[:_DIGEST_CHARACTERS]}"
    return upstream_id(call_id, id_format)


def renaming_factory(
    make_responder: Callable[[], Responder], names: Mapping[str, str]
) -> Callable[[], Responder]:
    """Return a factory of responders whose calls have the client's names of the tools.

    ``names`` maps the upstream's name of a tool to the client's, if the two differ.
    """
    return partial(_make_renaming, make_responder, names) if names else make_responder


def _make_renaming(
    make_responder: Callable[[], Responder], names: Mapping[str, str]
) -> RenamingResponder:
    return RenamingResponder(make_responder(), names)


class RenamingResponder:
    """Restores the client's names of the tools in a node's answer, before ``inner`` reads it.

    See ``renaming_factory``.
    """

    def __init__(self, inner: Responder, names: Mapping[str, str]) -> None:
        self._inner = inner
        self._names = names
        self._traces = [name.encode() for name in names]
        self.content_type = inner.content_type
        self.streams = inner.streams
        self.done = inner.done
        self.cut_short = inner.cut_short
        self.fails_in_order = inner.fails_in_order
        self.finished = inner.finished
        self.mould: Mould | None = None  # any event may contain a name to restore
        self.content_chunks = inner.content_chunks
        self.usage: Usage | None = inner.usage
        self.upstream_id: str | None = inner.upstream_id

    def feed(self, event: ServerSentEvent) -> bytes:
        """Process one upstream event; see Responder."""
        event = event._replace(data=self._renamed(event.data, "delta"))
        return self._told(self._inner.feed(event))

    def take_body(self, body: bytes) -> bytes:
        """Process a whole upstream body; see Responder."""
        return self._told(self._inner.take_body(self._renamed(body, "message")))

    def finish(self) -> bytes:
        """Process the end of the upstream stream; see Responder."""
        return self._told(self._inner.finish())

    def fail(self, error: CortexError) -> bytes:
        """Return the error in the dialect's format; see Responder."""
        return self._inner.fail(error)

    def waiting(self, elapsed: float, words: str = "") -> bytes:
        """Return the dialect's keep-alive; see Responder."""
        return self._told(self._inner.waiting(elapsed, words))

    def _told(self, downstream: bytes) -> bytes:
        inner = self._inner
        self.done, self.cut_short, self.finished = inner.done, inner.cut_short, inner.finished
        self.content_chunks = inner.content_chunks
        self.usage, self.upstream_id = inner.usage, inner.upstream_id
        return downstream

    def _renamed(self, data: bytes, said: str) -> bytes:
        """Return a chunk, or a whole answer, with the client's names.

        ``said`` is the field of a choice that contains the calls. Data without choices is
        unchanged; ``inner`` checks it.
        """
        if not any(trace in data for trace in self._traces):
            return data
        try:
            chunk = decode(data)
        except NOT_JSON:
            return data
        for choice in _objects(chunk, "choices"):
            for call in _objects(choice.get(said), "tool_calls"):
                function = call.get("function")
                if isinstance(function, dict):
                    name = function.get("name")
                    if isinstance(name, str):
                        function["name"] = self._names.get(name, name)
        return encode(chunk)


def _objects(parent: object, field: str) -> list[JsonObject]:
    found = parent.get(field) if isinstance(parent, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
