"""The content blocks of a Messages answer, made from the deltas of a chat answer.

A chat answer is one message whose parts grow in parallel. A Messages answer is a sequence of
content blocks, of which one at a time is open. The client acts on a stopped block: Claude Code runs
a stopped tool call even if an error follows (translation.md 0.5). So a block is stopped only when
the next one starts or the answer ends, and never in a failure.

The open block and the next delta determine what happens to the open block:

=============  =====================  ====================  ====================================
open           thinking arrives       text arrives          a call arrives
=============  =====================  ====================  ====================================
none           START                  START                 START
thinking       EXTEND                 SWITCH                SWITCH
text           SWITCH                 EXTEND                SWITCH
tool_use       SWITCH_IF_WHOLE        SWITCH_IF_WHOLE       its own arguments extend it;
                                                            another's: QUEUE
=============  =====================  ====================  ====================================

START opens a block; SWITCH stops the open one first. SWITCH_IF_WHOLE does so if the arguments of
the call are complete, and otherwise fails: the SDKs read half an object as an empty one, and would
run the call with it. QUEUE holds the other call back until the open one is complete, then switches;
at the end of the answer, the remaining calls start in the order of their indexes.

The client gets the deltas as follows:

- Empty deltas open no block. White space at the beginning of a text is held back, and dropped if no
  other text follows.
- Text passes the scanner for stop sequences first. A match ends the answer.
- Thinking is left out if the client did not request it. If it is withheld, its block stays empty,
  and the end of the block carries it.
- A call starts once its name and either its id or its arguments are known. If the client allows
  only one call, the answer ends when the first call is complete, and the others are dropped.
- Arguments are sent as they arrive, once they have begun an object, and white space does not begin
  one. Arguments that are not an object are sent at the end of the block, inside an object.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from cortexd.dialects.messages_to_chat.calls import Call, CallDelta, Calls, Phase
from cortexd.dialects.messages_to_chat.stop import StopScanner
from cortexd.dialects.wire.arguments import RAW_ARGUMENTS
from cortexd.dialects.wire.json_extent import BLANKS, Extent
from cortexd.dialects.wire.json_values import encode
from cortexd.dialects.wire.profile import ThinkingWish
from cortexd.errors import BadGateway


class Delta(NamedTuple):
    """The content of one chunk."""

    thinking: str
    text: str
    calls: tuple[CallDelta, ...]


class Kind(Enum):
    """The kind of a content block; the values are the dialect's types."""

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
    """The open block gets more text or arguments."""

    block_index: int
    kind: Kind
    text: str


class BlockStopped(NamedTuple):
    """The open block is complete; ``hidden`` is thinking that was withheld from the client."""

    block_index: int
    kind: Kind
    hidden: str = ""


BlockEvent = BlockStarted | BlockDelta | BlockStopped


class Move(Enum):
    """What happens to the open block."""

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

    ``call_id_stem`` is the beginning of our ids for calls without an id of the upstream. With
    ``thinking_is_open``, a thinking block is already open as the first block, and is continued.
    ``is_over`` means that the answer is complete, even if the upstream sends more.
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
        self._hidden: list[str] = []
        self._events: list[BlockEvent] = []
        self.has_calls = False
        self.is_over = False

    @property
    def stop_sequence(self) -> str | None:
        """The stop sequence that ended the text, if one did."""
        return None if self._scanner is None else self._scanner.found

    def take(self, delta: Delta) -> list[BlockEvent]:
        """Return the block events for a delta. Raises BadGateway."""
        if delta.thinking and self._thinking is not ThinkingWish.NONE:
            self._enter(Kind.THINKING)
            if self._thinking is ThinkingWish.SHOWN:
                self._extend(delta.thinking)
            else:
                self._hidden.append(delta.thinking)
        if delta.text:
            self._take_text(delta.text)
        for call in delta.calls:
            if self.is_over:
                break
            self._take_call(self._calls.take(call))
        return self._told()

    def end(self) -> list[BlockEvent]:
        """Return the remaining block events of a complete answer. Raises BadGateway."""
        if not self.is_over:
            self._end_text()
            for call in self._calls.pending():
                if self._may_start() and _is_call(call):
                    self._start_call(call)
        self._stop()
        return self._told()

    def keep_alive(self) -> list[BlockEvent]:
        """Return a keep-alive for a client whose timeout is not reset by pings.

        It is an empty delta of the open block. If no block was opened yet, and the client requested
        thinking, it opens a thinking block.
        """
        if self._open is None and not self._index and self._thinking is not ThinkingWish.NONE:
            self._start(Kind.THINKING)
        if self._open is not None:
            self._extend("")
        return self._told()

    def _told(self) -> list[BlockEvent]:
        events, self._events = self._events, []
        return events

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
        """Return the extent of the open call's arguments, ``None`` without an open call."""
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
        self._events.append(BlockStopped(self._index, self._open, "".join(self._hidden)))
        self._hidden.clear()
        self._open = self._open_call = None
        self._index += 1


def _is_call(call: Call) -> bool:
    """Return whether a call has more than its index. Raises BadGateway for an incomplete call."""
    if call.name:
        return True
    if call.given_id or call.has_arguments:
        raise _bad("a tool call without a name")
    return False


def _bad(what: str) -> BadGateway:
    return BadGateway(f"the node sent {what}", elsewhere=True)
