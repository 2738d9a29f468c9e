"""The keys of what a prompt begins with."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.prefixes.keys import (
    FIRST_KEPT,
    LAST_KEPT,
    LEAST_BYTES,
    MOST_BYTES,
    chat_keys,
    keys_for,
    messages_keys,
    response_keys,
    text_keys,
)

SYSTEM = {"role": "system", "content": "Be brief. " * 60}
TOOLS = [{"type": "function", "function": {"name": "look"}}]
TURNS = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["user", "assistant"]),
        st.text(max_size=5),
    ),
    min_size=1,
    max_size=20,
)


def turn(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text * LEAST_BYTES}


class KeysTests(SynchronousTestCase):
    def test_beginnings(self) -> None:
        """Tools and system prompt make the shortest beginning, each turn a longer one."""
        keys = chat_keys({"messages": [SYSTEM, turn("a"), turn("b")], "tools": TOOLS})
        self.assertEqual(3, len(set(keys)))
        self.assertEqual(
            keys[:2], chat_keys({"tools": TOOLS, "messages": [SYSTEM, turn("a"), turn("c")]})[:2]
        )
        others = chat_keys({"messages": [SYSTEM, turn("a"), turn("b")], "tools": TOOLS * 2})
        self.assertEqual(set(), set(keys) & set(others))

    def test_no_head(self) -> None:
        """Without tools and system prompt the first turn is the shortest beginning."""
        self.assertEqual(1, len(chat_keys({"messages": [turn("a")], "tools": []})))
        self.assertEqual((), chat_keys({"messages": []}))

    @settings(max_examples=50)
    @given(TURNS, TURNS)
    def test_continued(self, before: list[Any], more: list[Any]) -> None:
        """A conversation that goes on finds the longest beginning that it had, of up to 8 keys."""
        earlier = chat_keys({"messages": [SYSTEM, *before]})
        later = chat_keys({"messages": [SYSTEM, *before, *more]})
        self.assertLessEqual(len(later), FIRST_KEPT + LAST_KEPT)
        if len(more) < LAST_KEPT:
            self.assertIn(earlier[-1], later)
        self.assertEqual(earlier[:FIRST_KEPT], later[: min(FIRST_KEPT, len(earlier))])

    @settings(max_examples=50)
    @given(TURNS, TURNS)
    def test_unequal(self, one: list[Any], other: list[Any]) -> None:
        """Equal keys mean equal beginnings: prompts with an equal longest key are equal."""
        keys = [chat_keys({"messages": [SYSTEM, *each]}) for each in (one, other)]
        equal = keys[0][-1] == keys[1][-1]
        self.assertEqual(one == other, equal)

    def test_cache_marks(self) -> None:
        """The marks of the vendor's cache, which move from turn to turn, change no key."""
        text = {"type": "text", "text": "hi" * LEAST_BYTES}
        marked = {**text, "cache_control": {"type": "ephemeral"}}
        plain: dict[str, Any] = {
            "system": [text],
            "tools": [{"name": "look"}],
            "messages": [{"role": "user", "content": [text]}],
        }
        marks = {
            "system": [marked],
            "tools": [{"name": "look", "cache_control": {"type": "ephemeral"}}],
            "messages": [{"role": "user", "content": [marked]}],
        }
        self.assertEqual(messages_keys(plain), messages_keys(marks))
        self.assertEqual(2, len(messages_keys(plain)))

    def test_other_routes(self) -> None:
        """Responses have instructions as their head; a text has beginnings that double."""
        self.assertEqual(2, len(response_keys({"instructions": "x" * LEAST_BYTES, "input": "hi"})))
        self.assertEqual(2, len(response_keys({"input": [turn("hi")] * 2})))
        long = "x" * 5_000
        self.assertEqual(text_keys(long)[:2], text_keys(long + "y")[:2])
        self.assertNotEqual(text_keys(long)[2:], text_keys(long + "y")[2:])
        self.assertEqual((), text_keys(["x"]))

    def test_short(self) -> None:
        """A beginning that is too short for a node's cache has no key."""
        hello = {"role": "user", "content": "hi"}
        self.assertEqual((), chat_keys({"messages": [hello]}))
        self.assertEqual(1, len(chat_keys({"messages": [hello, turn("a")]})))
        self.assertEqual((), text_keys("hi"))

    def test_bounded(self) -> None:
        """Beginnings longer than a mebibyte have no key."""
        huge = {"role": "user", "content": "x" * MOST_BYTES}
        self.assertEqual(1, len(chat_keys({"messages": [SYSTEM, huge, turn("a")]})))

    def test_requesters(self) -> None:
        """Each requester and each model has keys of its own, the same in each process."""
        keys = chat_keys({"messages": [turn("a")]})
        alice = keys_for("alice", "m", keys)
        others = (keys_for("bob", "m", keys), keys_for("alice", "n", keys), keys)
        self.assertNotIn(alice, others)
        self.assertEqual((0xB5625B07F71680DB,), keys_for("alice", "m", (1,)))
        self.assertTrue(all(0 <= key < 1 << 64 for key in keys_for("alice", "m", ((1 << 64) - 1,))))
        self.assertEqual((), keys_for("alice", "m", ()))
