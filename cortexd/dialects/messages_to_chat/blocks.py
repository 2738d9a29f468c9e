"""The content blocks of a Messages answer, made of the deltas of a chat answer.

A chat answer is one message whose parts grow side by side. A Messages answer is a row of content
blocks, of which one at a time is open. A block that was stopped is the client's: Claude Code runs a
stopped tool call even where an error follows (translation.md 0.5). So a block is stopped only when
the next one starts or the answer ends, and in a failure not at all.

What is open, and what comes, decide what becomes of the open block:

=============  =====================  ====================  ====================================
open           thinking comes         text comes            a call comes
=============  =====================  ====================  ====================================
none           START                  START                 START
thinking       EXTEND                 SWITCH                SWITCH
text           SWITCH                 EXTEND                SWITCH
tool_use       SWITCH_IF_WHOLE        SWITCH_IF_WHOLE       its own arguments extend it;
                                                            another's: QUEUE
=============  =====================  ====================  ====================================

START opens a block, SWITCH stops the open one first. SWITCH_IF_WHOLE does so where the arguments of
the call are complete, and else fails: the SDKs read half an object as an empty one, and the call
would be run so. QUEUE keeps the other call back until the open one is complete, then switches;
the end of the answer starts what is left, in the order of the indexes.

What is told of what comes:

- Empty deltas open nothing. White space at the beginning of a text is held back, and dropped where
  no other text follows.
- Text passes the scanner for stop sequences first. Where one is found the answer is over.
- Thinking is left out where the client did not ask for any; where it is to be withheld its block
  stays empty.
- A call starts once its name is known, and its id or arguments. Where the client wants one call
  only, the answer is over once the first is complete, and no other is told of.
- Arguments are told as they come, once they have begun an object: white space alone is none, and
  what is no object is told at the block's end, within one.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from cortexd.dialects.messages_to_chat.calls import RAW_ARGUMENTS, Call, CallDelta, Calls, Phase
from cortexd.dialects.messages_to_chat.stop import StopScanner
from cortexd.dialects.wire.json_extent import BLANKS, Extent
from cortexd.dialects.wire.json_values import encode
from cortexd.dialects.wire.profile import ThinkingWish
from cortexd.errors import BadGateway


class Delta(NamedTuple):
    """What one chunk brings."""

    thinking: str
    text: str
    calls: tuple[CallDelta, ...]


class Kind(Enum):
    """What a content block holds; the values are the dialect's words for it."""

    THINKING = "thinking"
    TEXT = "text"
    TOOL = "tool_use"


class BlockStarted(NamedTuple):
    """A block was opened; ``call_id`` and ``name`` are those of a tool call."""

    block_index: int
    kind: Kind
    call_id: str = ""
    name: str = ""


class BlockDelta(NamedTuple):
    """The open block grew by this text, or these arguments."""

    block_index: int
    kind: Kind
    text: str


class BlockStopped(NamedTuple):
    """The open block is complete."""

    block_index: int
    kind: Kind


BlockEvent = BlockStarted | BlockDelta | BlockStopped


class Move(Enum):
    """What becomes of the open block."""

    START = "start"
    EXTEND = "extend"
    SWITCH = "switch"
    SWITCH_IF_WHOLE = "switch_if_whole"
    QUEUE = "queue"


MOVES = {
    (None, Kind.THINKING): Move.START,
    (None, Kind.TEXT): Move.START,
    (None, Kind.TOOL): Move.START,
    (Kind.THINKING, Kind.THINKING): Move.EXTEND,
    (Kind.THINKING, Kind.TEXT): Move.SWITCH,
    (Kind.THINKING, Kind.TOOL): Move.SWITCH,
    (Kind.TEXT, Kind.THINKING): Move.SWITCH,
    (Kind.TEXT, Kind.TEXT): Move.EXTEND,
    (Kind.TEXT, Kind.TOOL): Move.SWITCH,
    (Kind.TOOL, Kind.THINKING): Move.SWITCH_IF_WHOLE,
    (Kind.TOOL, Kind.TEXT): Move.SWITCH_IF_WHOLE,
    (Kind.TOOL, Kind.TOOL): Move.QUEUE,
}


class Blocks:
    """Makes the blocks of one answer.

    ``call_id_stem`` begins the ids of calls to which the upstream gave none. With
    ``thinking_is_open`` a thinking block was opened before, as the first, and is gone on with.
    ``is_over`` says that the answer is complete, whatever the upstream goes on to say.
    """

    def __init__(
        self,
        *,
        thinking: ThinkingWish,
        stop_sequences: tuple[str, ...],
        one_tool_call: bool,
        call_id_stem: str,
        thinking_is_open: bool = False,
    ) -> None:
        self._thinking = thinking
        self._scanner = StopScanner(stop_sequences) if stop_sequences else None
        self._one_tool_call = one_tool_call
        self._calls = Calls(call_id_stem)
        self._open: Kind | None = Kind.THINKING if thinking_is_open else None
        self._index = 0
        self._open_call: Call | None = None
        self._held_blanks: list[str] = []
        self._events: list[BlockEvent] = []
        self.has_calls = False
        self.is_over = False

    @property
    def stop_sequence(self) -> str | None:
        """The stop sequence at which the text has ended, if it has."""
        return None if self._scanner is None else self._scanner.found

    def take(self, delta: Delta) -> list[BlockEvent]:
        """Return what the client is told of a delta. Raises BadGateway."""
        if delta.thinking and self._thinking is not ThinkingWish.NONE:
            self._enter(Kind.THINKING)
            if self._thinking is ThinkingWish.SHOWN:
                self._extend(delta.thinking)
        if delta.text:
            self._take_text(delta.text)
        for call in delta.calls:
            if self.is_over:
                break
            self._take_call(self._calls.take(call))
        return self._told()

    def end(self) -> list[BlockEvent]:
        """Return what is left to be told once the answer is complete. Raises BadGateway."""
        if not self.is_over:
            self._end_text()
            for call in self._calls.pending():
                if self._may_start() and _is_call(call):
                    self._start_call(call)
        self._stop()
        return self._told()

    def keep_alive(self) -> list[BlockEvent]:
        """Return what keeps a client from giving up that does not count pings as life.

        That is an empty delta of the open block. Where nothing was told yet, and the client asked
        for thinking, a thinking block is opened for it.
        """
        if self._open is None and not self._index and self._thinking is not ThinkingWish.NONE:
            self._start(Kind.THINKING)
        if self._open is not None:
            self._extend("")
        return self._told()

    def _told(self) -> list[BlockEvent]:
        told, self._events = self._events, []
        return told

    # Text.

    def _take_text(self, text: str) -> None:
        if self._scanner is None:
            self._say(text)
        else:
            self._say(self._scanner.feed(text))
            self.is_over = self._scanner.found is not None

    def _say(self, text: str) -> None:
        if not text:
            return
        if self._open is not Kind.TEXT:
            if text.isspace():
                self._held_blanks.append(text)
                return
            text = "".join([*self._held_blanks, text])
            self._held_blanks.clear()
            self._enter(Kind.TEXT)
        self._extend(text)

    def _end_text(self) -> None:
        if self._scanner is not None:
            self._say(self._scanner.flush())
        self._held_blanks.clear()

    # Tool calls.

    def _take_call(self, call: Call) -> None:
        if call.phase is Phase.CLOSED:
            if call.take_arguments().strip(BLANKS):
                raise _bad("arguments for a tool call that had ended")
            return
        if call is self._open_call:
            self._extend_call(call)
        while self._may_start() and (waiting := self._calls.next_to_start()) is not None:
            if self._extent() in (Extent.BLANK, Extent.INSIDE):
                break
            self._start_call(waiting)
        self.is_over = self._one_tool_call and self._extent() is Extent.WHOLE

    def _may_start(self) -> bool:
        return not (self._one_tool_call and self.has_calls)

    def _extent(self) -> Extent | None:
        """Return how far the arguments of the open call have come, ``None`` without one."""
        return None if self._open_call is None else self._open_call.extent

    def _start_call(self, call: Call) -> None:
        self._enter(Kind.TOOL, call)
        self._extend_call(call)

    def _extend_call(self, call: Call) -> None:
        if call.has_part_of_object:
            self._extend(call.take_arguments())

    def _end_call(self, call: Call) -> None:
        if call.extent is Extent.NO_OBJECT:
            self._extend(encode({RAW_ARGUMENTS: call.take_arguments()}).decode())
        call.phase = Phase.CLOSED

    # Blocks.

    def _enter(self, kind: Kind, call: Call | None = None) -> None:
        """Make the open block one of ``kind``, by the table above."""
        if kind is not Kind.TEXT:
            self._end_text()
        move = MOVES[self._open, kind]
        if move is Move.EXTEND:
            return
        if move is Move.SWITCH_IF_WHOLE and self._extent() is Extent.INSIDE:
            raise _bad(f"{kind.value} in the middle of a tool call")
        self._stop()
        self._start(kind, call)

    def _start(self, kind: Kind, call: Call | None = None) -> None:
        self._open, self._open_call = kind, call
        if call is None:
            self._events.append(BlockStarted(self._index, kind))
        else:
            self._calls.start(call)
            self.has_calls = True
            self._events.append(BlockStarted(self._index, kind, call.id, call.name))

    def _extend(self, text: str) -> None:
        kind = self._open
        if kind is not None:
            self._events.append(BlockDelta(self._index, kind, text))

    def _stop(self) -> None:
        if self._open is None:
            return
        if self._open_call is not None:
            self._end_call(self._open_call)
        self._events.append(BlockStopped(self._index, self._open))
        self._open = self._open_call = None
        self._index += 1


def _is_call(call: Call) -> bool:
    """Tell whether anything came of a call but its index. Raises BadGateway for half a call."""
    if call.name:
        return True
    if call.given_id or call.has_arguments:
        raise _bad("a tool call without a name")
    return False


def _bad(what: str) -> BadGateway:
    return BadGateway(f"the node sent {what}", elsewhere=True)
