"""Which conversation a request belongs to."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.prefixes.sessions import (
    SESSION_HEADERS,
    session_key,
    session_of_chat,
    session_of_headers,
    session_of_messages,
    session_of_response,
)
from tests.covers import covers

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["user_id", "session_id", "id"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def of_headers(headers: dict[str, str]) -> str:
    return session_of_headers(lambda name: headers.get(name))


def of_user(user_id: object) -> str:
    return session_of_messages({"metadata": {"user_id": user_id}})


class SessionTests(SynchronousTestCase):
    @covers("11.1 headers")
    def test_headers(self) -> None:
        """The first of the known headers that says anything counts."""
        for name in SESSION_HEADERS:
            self.assertEqual("abc", of_headers({name: " abc "}))
        both = {"x-session-id": "  ", "session_id": "older", "x-claude-code-session-id": "newer"}
        self.assertEqual("newer", of_headers(both))
        self.assertEqual("", of_headers({}))

    @covers("11.1 conversation")
    def test_conversation(self) -> None:
        """A response's conversation is an id or an object with one, and comes before the key."""
        key = {"prompt_cache_key": "key"}
        self.assertEqual("conv_1", session_of_response({"conversation": "conv_1", **key}))
        self.assertEqual("conv_1", session_of_response({"conversation": {"id": "conv_1"}}))
        self.assertEqual("key", session_of_response({"conversation": None, **key}))

    @covers("11.1 session_id", "11.1 prompt_cache_key")
    def test_chat(self) -> None:
        """A chat names the session at a node, else the key of the vendor's cache."""
        fields = {"session_id": "s", "prompt_cache_key": "key"}
        self.assertEqual("s", session_of_chat(fields))
        self.assertEqual("key", session_of_chat({"prompt_cache_key": "key"}))
        self.assertEqual("", session_of_chat({"prompt_cache_key": 7}))

    @covers("11.1 metadata.user_id")
    def test_user_id(self) -> None:
        """Claude Code's user has the session in JSON or at the end; another user has none."""
        self.assertEqual("54c1", of_user('{"device_id":"d","account_uuid":"","session_id":"54c1"}'))
        self.assertEqual("57a1", of_user("user_0f_account__session_57a1"))
        for other in ("somebody", "{not json", "{}", "[1]", None, 7):
            self.assertEqual("", of_user(other))
        self.assertEqual("", session_of_messages({"metadata": "x"}))

    @given(VALUES)
    def test_any_value(self, value: Any) -> None:
        """Whatever clients send, the name is a text, and no error."""
        names = ("metadata", "session_id", "prompt_cache_key", "conversation")
        for name in names:
            for read in (session_of_chat, session_of_messages, session_of_response):
                self.assertIsInstance(read({name: value}), str)

    def test_key(self) -> None:
        """A key is short, the same in each process, and another one for each requester."""
        key = session_key("alice", "s" * 10_000)
        self.assertEqual(32, len(key))
        self.assertNotEqual(key, session_key("bob", "s" * 10_000))
        self.assertNotEqual(session_key("a", "bc"), session_key("ab", "c"))
        self.assertEqual("9402217c2cacc6fd6c428360df60ee4a", session_key("alice", "s"))
        self.assertEqual("", session_key("alice", ""))
