"""Stop sequences: the scanner, and the reporting of translation.md 4.3."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.messages_to_chat.stop import StopScanner
from cortexd.dialects.wire.exchange import Usage
from cortexd.dialects.wire.profile import MISTRALRS, Profile
from tests.covers import covers
from tests.dialects.message_answers import (
    ESTIMATE,
    calls,
    check,
    content_of,
    ending_of,
    events_of,
    factory,
    gathered,
    streamed,
)
from tests.dialects.node_answers import USAGE, chat_chunk, event, relay, stream, tool_call

END = chat_chunk(finish="stop", usage=USAGE)

# Few letters, so that sequences overlap, repeat themselves and contain each other.
_WORDS = st.text("ab", min_size=1, max_size=5)


def scanned(pieces: list[str], sequences: tuple[str, ...]) -> tuple[str, str | None]:
    scanner = StopScanner(sequences)
    visible = "".join([scanner.feed(piece) for piece in pieces])
    return visible + scanner.flush(), scanner.found


def expected(text: str, sequences: tuple[str, ...]) -> tuple[str, str | None]:
    """Return what is found by looking at every beginning of the text."""
    for end in range(1, len(text) + 1):
        found = [sequence for sequence in sequences if text[:end].endswith(sequence)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


class ScannerTests(SynchronousTestCase):
    def test_found(self) -> None:
        """The text ends before the sequence that is complete first, the longest of several."""
        for pieces, sequences, found in (
            (["one END two"], ("END",), ("one ", "END")),
            (["one E", "N", "D two"], ("END",), ("one ", "END")),
            (["aab"], ("ab", "aab"), ("", "aab")),
            (["abc"], ("abc", "b"), ("a", "b")),
            (["aaab"], ("aab",), ("a", "aab")),
            (["EN"], ("END",), ("EN", None)),
            (["EN", "EX"], ("END",), ("ENEX", None)),
        ):
            assert found == scanned(pieces, sequences)

    def test_held_back(self) -> None:
        """Only what may begin a sequence is held back, and let go once it does not."""
        scanner = StopScanner(("END",))

        assert ["one ", "", "EN", "ENX"] == [
            scanner.feed(piece) for piece in ("one E", "N", "EN", "X")
        ]

    def test_flush(self) -> None:
        """What was held back comes out at the end, and a sequence does not go on after it."""
        scanner = StopScanner(("END",))

        assert ("", "EN") == (scanner.feed("EN"), scanner.flush())
        assert ("D", None) == (scanner.feed("D"), scanner.found)

    def test_nothing_after_it(self) -> None:
        """What follows a sequence is not shown."""
        scanner = StopScanner(("END",))
        scanner.feed("END")

        assert "" == scanner.feed("more") + scanner.flush()

    @given(st.lists(_WORDS, max_size=12), st.lists(_WORDS, min_size=1, max_size=3))
    def test_any_cutting(self, pieces: list[str], sequences: list[str]) -> None:
        """However a text is cut the same is found, that which a plain search finds."""
        assert expected("".join(pieces), tuple(sequences)) == scanned(pieces, tuple(sequences))

    @covers("4.3 stop_sequence")
    @given(st.lists(_WORDS, max_size=12), st.lists(_WORDS, min_size=1, max_size=3))
    def test_never_holds_too_much(self, pieces: list[str], sequences: list[str]) -> None:
        """Never more is held back than the longest sequence less one character."""
        scanner = StopScanner(tuple(sequences))
        fed = shown = 0
        for piece in pieces:
            fed += len(piece)
            shown += len(scanner.feed(piece))
            if scanner.found is not None:
                break
            assert fed - shown <= max(map(len, sequences)) - 1

    def test_repeating_text_costs_no_square(self) -> None:
        """A long sequence of one letter is followed through a long text of it in one go."""
        scanner = StopScanner(("a" * 50_000 + "b",))
        text = "a" * 49_999 + "c"

        assert 20 * len(text) == sum(len(scanner.feed(text)) for _ in range(20))


class ReportingTests(SynchronousTestCase):
    @covers("4.3 stop_sequence")
    def test_reported(self) -> None:
        """The text is cut before the sequence, which is named, and the node is hung up on."""
        responder = factory(stop=["END", "##"])()
        out = responder.feed(event(chat_chunk("one E")))
        assert not responder.done
        out += responder.feed(event(chat_chunk("ND two")))
        events = events_of(out)
        check(events)

        assert "one " == content_of(events)[0]["text"]
        assert ({"stop_reason": "stop_sequence", "stop_sequence": "END"}, ESTIMATE, 2) == (
            ending_of(events)[0],
            ending_of(events)[1]["input_tokens"],
            ending_of(events)[1]["output_tokens"],
        )
        assert (True, True) == (responder.done, getattr(responder, "cut_short", None))
        assert Usage(ESTIMATE, 2, estimated=True) == responder.usage

    def test_gathered(self) -> None:
        """A whole message is cut and ends there too."""
        responder = factory(streams=False, stop=["END"])()
        responder.feed(event(chat_chunk("one END two")))
        assert responder.done
        responder.feed(event(chat_chunk("three")))
        message = json.loads(responder.finish())

        assert ("one ", "stop_sequence", "END") == (
            message["content"][0]["text"],
            message["stop_reason"],
            message["stop_sequence"],
        )

    def test_in_the_last_chunk(self) -> None:
        """A sequence in the node's last chunk leaves time for the node's own counts."""
        responder = factory(stop=["END"])()
        late = {"choices": [], "usage": USAGE}
        events = events_of(relay(responder, stream(chat_chunk("a END", finish="length"), late)))

        assert ("stop_sequence", 8) == (
            ending_of(events)[0]["stop_reason"],
            ending_of(events)[1]["output_tokens"],
        )
        assert False is getattr(responder, "cut_short", None)

    @covers("4.3 stop_sequence")
    def test_only_in_visible_text(self) -> None:
        """Neither thinking nor arguments are searched, and text around a call is not joined."""
        events = streamed(
            chat_chunk(reasoning_content="END"),
            chat_chunk("E"),
            calls(tool_call("f", '{"a":"END"}')),
            chat_chunk("ND"),
            END,
            stop=["END"],
        )

        assert ["END", "E", '{"a":"END"}', "ND"] == [
            block.get("thinking") or block.get("text") or block["input"]
            for block in content_of(events)
        ]
        assert None is ending_of(events)[0]["stop_sequence"]

    def test_no_calls_after_it(self) -> None:
        """Calls beside the sequence, or still in the queue, are not told of."""
        beside = chat_chunk("a END", tool_calls=[tool_call("f", "{}")])
        assert ["text"] == [
            block["type"] for block in content_of(streamed(beside, END, stop=["END"]))
        ]
        queued = calls(tool_call("f", ""), tool_call("g", "{}", 1))
        events = streamed(queued, chat_chunk("a END", finish="stop"), stop=["END"])
        assert ["tool_use", "text"] == [block["type"] for block in content_of(events)]

    def test_held_back_to_the_end(self) -> None:
        """What looked like the beginning of a sequence is shown at the end."""
        assert "one E" == content_of(streamed(chat_chunk("one E"), END, stop=["END"]))[0]["text"]

    def test_white_space_sequences(self) -> None:
        """Of leading white space nothing is shown, but a sequence in it is met."""
        events = streamed(chat_chunk("\n"), chat_chunk("\nmore"), END, stop=["\n\n"])

        assert ([], "\n\n") == (content_of(events), ending_of(events)[0]["stop_sequence"])

    @covers("4.3 stop_sequence")
    def test_upstream_says_which(self) -> None:
        """Where the sequences go upstream, one that names the one it met is believed."""
        profile = Profile(forward_stop=True)
        for said, found in (("END", "END"), ("other", None), (7, None), (["END"], None)):
            last = chat_chunk("a END b", finish="stop", usage=USAGE)
            last["choices"][0]["stop_reason"] = said
            events = streamed(last, stop=["END"], profile=profile)
            assert ("a END b", found) == (
                content_of(events)[0]["text"],
                ending_of(events)[0]["stop_sequence"],
            )
        assert "end_turn" == self.reason_of(gathered(END, stop=["END"], profile=profile))

    @staticmethod
    def reason_of(message: Any) -> Any:
        return message["stop_reason"]

    def test_no_sequences(self) -> None:
        """Without sequences nothing is searched."""
        assert "end_turn" == self.reason_of(gathered(chat_chunk("END"), END, profile=MISTRALRS))
