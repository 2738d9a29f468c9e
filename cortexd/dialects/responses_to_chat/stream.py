"""A response as a stream of events, made from a node's chunks.

The responders of a request share an Opening: keep-alives write it, and an attempt starts from it.

========  ===========================  ===========================================================
phase     ends with                    output to the client
========  ===========================  ===========================================================
waiting   the first chunk              none, until a keep-alive begins the response; then
                                       ``response.in_progress`` as keep-alives
running   a finish reason, or an       the beginning of the response, if it was not sent yet, and
          early end of the answer      the events of its items (``output``)
finished  ``[DONE]`` or the end of     none: the usage may still arrive
          the stream
ended     --                           the end of the last item, and ``response.completed`` or
                                       ``response.incomplete``; no more after that
failed    --                           ``response.failed``; no more after that
========  ===========================  ===========================================================

A stream that ends while its answer is waiting or running has failed. Codex ignores ``error``
events, and aborts after 300 s without an event, for which comments do not count
(translation.md 1.4.5).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from cortexd import sse
from cortexd.dialects.messages_to_chat.blocks import BlockDelta, BlockEvent, BlockStarted, Kind
from cortexd.dialects.messages_to_chat.reading import TEXT_KEYS, read_delta
from cortexd.dialects.nodes.chat_stream import InPieces
from cortexd.dialects.responses_to_chat import objects
from cortexd.dialects.responses_to_chat.answer import ResponseReader, ResponseTerms, whole_factory
from cortexd.dialects.wire.exchange import Responder
from cortexd.dialects.wire.frames import Numbers, learn
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.errors import CortexError
from cortexd.sse import ServerSentEvent

_CREATED: Final = "response.created"
_IN_PROGRESS: Final = "response.in_progress"
_FAILED: Final = "response.failed"

_REPEATED_IN_A_SIGN: Final = (
    "id",
    "object",
    "created_at",
    "model",
    "status",
    "output",
    "parallel_tool_calls",
)
"""The fields in a keep-alive; what it repeats of the request may be long."""

_EMPTY: Final = b'""'
_NO_TEXT: Final = b'"delta":' + _EMPTY


def responder_factory(terms: ResponseTerms) -> Callable[[], Responder]:
    """Return the factory of the responders of one request.

    Each attempt needs its own responder, and so does the wait in the queue. In a stream, each of
    them continues the output of the previous ones.
    """
    return partial(ResponseStream, terms) if terms.answer.asked.streams else whole_factory(terms)


class ResponseStream(InPieces, ResponseReader):
    """Makes the events of a response from a node's chunks, for one attempt."""

    fails_in_order = True

    def __init__(self, terms: ResponseTerms) -> None:
        super().__init__(terms)
        self.mould = None
        self._opening = terms.opening
        self._begun = terms.begun
        self._numbers = Numbers()
        self._has_begun = False
        self._has_failed = False
        self._frame: tuple[bytes, bytes] | None = None

    def feed(self, event: ServerSentEvent) -> bytes:
        """Return the events for a node's event; see Responder."""
        if self.done or self._has_failed:
            return b""
        mould = self.mould
        if mould is not None and event.name == b"message":
            cast = mould.cast(sse.encode(event.data))
            if cast is not None:
                self.content_chunks += 1
                return cast
        chunk = self.take_chunk(event)
        if chunk is None:
            return self._end() if self.done else b""
        blocks = self.read_events(chunk)  # before the beginning, which a failure would lose
        begun = self._begin()
        out = begun + b"".join([self._told(block) for block in blocks])
        if self.cut_short:
            return out + self._end()
        self._learn(event.data, chunk, blocks)
        return out

    def finish(self) -> bytes:
        """Return the end of the stream, unless ``[DONE]`` has already caused it."""
        return b"" if self.done or self._has_failed else self._end()

    def fail(self, error: CortexError) -> bytes:
        """Return the event of a failed response, unless the response has ended; see Responder."""
        if self.done or self._has_failed:
            return b""
        begun = self._begin()
        self._has_failed = True
        response = objects.failed(self._begun, error, self._output.items)
        self._response_terms.outcome.response = response
        return begun + self._tell({"type": _FAILED, "response": response})

    def waiting(self, elapsed: float, words: str = "") -> bytes:
        """Return a keep-alive: the beginning of the response, or an event without effect."""
        if self.done or self._has_failed:
            return b""
        sign = self._begin()
        if not sign:
            response = {name: self._begun[name] for name in _REPEATED_IN_A_SIGN}
            response |= {"tool_choice": "auto", "tools": []}
            sign = self._tell({"type": _IN_PROGRESS, "response": response})
        self._opening.has_begun = True
        self._opening.events = self._numbers.next
        return sign

    def _begin(self) -> bytes:
        """Return the beginning of the response, if it was not sent yet."""
        if self._has_begun:
            return b""
        self._has_begun = True
        if self._opening.has_begun:
            self._numbers.next = self._opening.events
            return b""
        return b"".join(
            self._tell({"type": kind, "response": self._begun}) for kind in (_CREATED, _IN_PROGRESS)
        )

    def _end(self) -> bytes:
        events, response = self.close_response()  # likewise
        begun = self._begin()
        events.append({"type": f"response.{response['status']}", "response": response})
        return begun + b"".join(map(self._tell, events))

    def _told(self, block: BlockEvent) -> bytes:
        frame = self._frame
        if frame is not None and isinstance(block, BlockDelta):
            self._output.texts.append(block.text)
            before, after = frame
            return b"%b%b%b%d}\n\n" % (before, encode(block.text), after, self._numbers.take())
        told = b"".join([self._tell(event) for event in self._output.take(block)])
        if isinstance(block, BlockStarted):
            self._frame = self._frame_of_deltas()
        return told

    def _frame_of_deltas(self) -> tuple[bytes, bytes] | None:
        """Return the bytes before and after the text of the open item's deltas.

        Nothing else in them changes but the number at the end. ``None`` for an item without deltas.
        """
        event = self._output.delta_event("")
        if event is None:
            return None
        data = encode({**event, "sequence_number": 0})
        before, key, after = sse.encode(data, event["type"].encode()).partition(_NO_TEXT)
        return before + key[: -len(_EMPTY)], after.removesuffix(b"0}\n\n")

    def _tell(self, event: JsonObject) -> bytes:
        """Return an event with its number, which is last: ``frames.NumberedMould`` needs that."""
        event["sequence_number"] = self._numbers.take()
        return sse.encode(encode(event), event["type"].encode())

    def _learn(self, data: bytes, chunk: JsonObject, blocks: list[BlockEvent]) -> None:
        """Learn the frame of a chunk that has only text for the open item."""
        if self.finished or len(blocks) != 1 or not isinstance(blocks[0], BlockDelta):
            self.mould = None  # another item needs another mould
            return
        if self.mould is not None and not self.mould.has_fitted:
            return  # the last mould fitted no chunk, and neither would the next
        _, kind, text = blocks[0]
        frame = self._frame
        if frame is None or not _is_alone(chunk, kind, text) or self.node_usage is not None:
            return
        before, after = frame

        def render(chunk: JsonObject) -> bytes:
            delta = read_delta(chunk["choices"][0]["delta"])
            return b"%b%b%b0}\n\n" % (before, encode(delta.text or delta.thinking), after)

        for key in TEXT_KEYS[kind]:
            mould = learn(data, key, text, render)
            if mould is not None:
                self.mould = mould.numbered(self._numbers, self._output.texts)
                return


def _is_alone(chunk: JsonObject, kind: Kind, text: str) -> bool:
    """Return whether a chunk has only this text."""
    if len(chunk["choices"]) != 1:
        return False
    thinking, said, calls = chunk["choices"][0]["delta"]
    if kind is Kind.TEXT:
        return said == text and not (thinking or calls)
    return thinking == text and not (said or calls)
