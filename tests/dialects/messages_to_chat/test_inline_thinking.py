from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.messages_to_chat.inline_thinking import Passage, ThinkingSplitter
from cortexd.dialects.messages_to_chat.stream import MessageStream
from cortexd.dialects.wire.profile import Profile, ThinkingWish
from tests.dialects.message_answers import (
    calls,
    content_of,
    ending_of,
    events_of,
    gathered,
    streamed,
    terms,
)
from tests.dialects.node_answers import USAGE, chat_chunk, event, relay, stream, tool_call

INLINE = Profile(inline_thinking=True)
END = chat_chunk(finish="stop", usage=USAGE)
_PIECES = st.lists(
    st.text("<think>/a ", max_size=8)
    | st.sampled_from(["<think>", "</think>", "<thi", "nk>", "\n", "<think>a</think>"]),
    max_size=10,
)


def split(pieces: list[str]) -> list[Passage]:
    """Return what pieces are split into, passages of one kind in a row joined."""
    splitter = ThinkingSplitter()
    passages = [passage for piece in pieces for passage in splitter.feed(piece)]
    passages += splitter.flush()
    assert all(passage.text for passage in passages)
    joined: list[Passage] = []
    for passage in passages:
        if joined and joined[-1].is_thinking == passage.is_thinking:
            joined[-1] = Passage(passage.is_thinking, joined[-1].text + passage.text)
        else:
            joined.append(passage)
    return joined


def expected(text: str) -> list[Passage]:
    """Return the same for a whole text, found by a plain search."""
    found: list[Passage] = []
    is_thinking = False
    while text:
        passage, _, rest = text.partition("</think>" if is_thinking else "<think>")
        if passage.strip() and not is_thinking:
            passage, rest = text, ""
        if passage:
            if found and found[-1].is_thinking == is_thinking:
                passage = found.pop().text + passage
            found.append(Passage(is_thinking, passage))
        text = rest
        is_thinking = not is_thinking
    return found


class SplitterTests(SynchronousTestCase):
    def test_split(self) -> None:
        """What is between the tags is thinking, also where a tag comes in pieces or never ends."""
        think, say = (lambda text: Passage(True, text)), (lambda text: Passage(False, text))
        for pieces, passages in (
            (["<think>a</think>b"], [think("a"), say("b")]),
            (["<th", "ink>a</", "think>b"], [think("a"), say("b")]),
            (
                ["\n<think>a</think>", "\n", "<think>b"],
                [say("\n"), think("a"), say("\n"), think("b")],
            ),
            (["<think></think>a"], [say("a")]),
            (["a </think> b"], [say("a </think> b")]),
            (["a <thin", "g>"], [say("a <thing>")]),
            (["a <"], [say("a <")]),
            ([], []),
        ):
            assert passages == split(pieces)

    def test_a_tag_in_the_midst(self) -> None:
        """A tag after something was said is a word: models write of tags, and quote them."""
        for pieces in (
            ["Put it between `<think>` and `</think>`, like so."],
            ["a", "<think>", "b"],
            ["<thin", "g> <think>b"],
        ):
            assert [Passage(False, "".join(pieces))] == split(pieces)
        told = [Passage(True, "a"), Passage(False, "b<think>c</think>")]
        assert told == split(["<think>a</think>b<think>c</think>"])

    @settings(max_examples=300)
    @given(_PIECES)
    def test_any_cutting(self, pieces: list[str]) -> None:
        """However a text is cut the same is found, that which a plain search finds."""
        assert expected("".join(pieces)) == split(pieces)

    @given(_PIECES)
    def test_never_holds_a_tag(self, pieces: list[str]) -> None:
        """Never more is held back than a tag less one character."""
        splitter = ThinkingSplitter()
        for piece in pieces:
            splitter.feed(piece)
            held = splitter.flush()
            assert sum(len(passage.text) for passage in held) < len("</think>")


class AnswerTests(SynchronousTestCase):
    CHUNKS = (chat_chunk("<thi"), chat_chunk("nk>hm</think>"), chat_chunk("a <"), END)

    def test_blocks(self) -> None:
        """By a profile that says so it is a block of thinking, streamed or not, signed as any."""
        thinking = {"type": "thinking", "thinking": "hm", "signature": "cortex"}
        for content in (
            content_of(streamed(*self.CHUNKS, profile=INLINE)),
            gathered(*self.CHUNKS, profile=INLINE)["content"],
        ):
            assert [thinking, {"type": "text", "text": "a <"}] == content
        assert ["<think>hm</think>a <"] == [
            block["text"] for block in content_of(streamed(*self.CHUNKS))
        ]

    def test_unasked(self) -> None:
        """Who did not ask for thinking gets none of it."""
        wishes = {"profile": INLINE, "thinking": ThinkingWish.NONE}

        assert [{"type": "text", "text": "a <"}] == content_of(streamed(*self.CHUNKS, **wishes))

    def test_beside_calls(self) -> None:
        """What may be a tag is told before a call that follows it, in the same chunk too."""
        chunk = chat_chunk("<think>hm</think>a <", tool_calls=[tool_call("f", "{}")])
        content = content_of(streamed(chunk, END, profile=INLINE))

        assert ["thinking", "text", "tool_use"] == [block["type"] for block in content]
        assert "a <" == content[1]["text"]
        later = content_of(
            streamed(chat_chunk("a <"), calls(tool_call("f", "{}")), END, profile=INLINE)
        )
        assert ["a <", "f"] == [block.get("text") or block["name"] for block in later]

    def test_stop_sequences(self) -> None:
        """Only what is said is searched for stop sequences, and nothing follows one."""
        chunk = chat_chunk("<think>END</think>a END b<think>c")
        events = streamed(chunk, profile=INLINE, stop=["END"])

        assert ["thinking", "text"] == [block["type"] for block in content_of(events)]
        assert "a " == content_of(events)[1]["text"]
        assert "END" == ending_of(events)[0]["stop_sequence"]

    def test_a_quoted_tag(self) -> None:
        """An answer that quotes a tag is whole, also for who did not ask for thinking."""
        chunks = (chat_chunk("<think>hm</think>Write "), chat_chunk("<think> first."), END)
        wishes = {"profile": INLINE, "thinking": ThinkingWish.NONE}

        (block,) = content_of(streamed(*chunks, **wishes))
        assert "Write <think> first." == block["text"]

    def test_the_short_way(self) -> None:
        """Text that may hold tags is read, however alike its chunks are; what follows need not."""
        responder = MessageStream(terms(profile=INLINE))
        texts = ("<think>", "a", "b", "c", "</think>", "d", "e", "<think>", "f")
        out = b"".join(responder.feed(event(chat_chunk(text))) for text in texts)
        assert responder.mould is not None
        assert responder.mould.has_fitted
        blocks = content_of(events_of(out + relay(responder, stream(END))))

        assert ["abc", "de<think>f"] == [block.get("text") or block["thinking"] for block in blocks]
