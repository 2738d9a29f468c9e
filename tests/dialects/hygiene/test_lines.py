"""Lines that clients change at the front of a prompt, and what becomes of them."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.hygiene.lines import BILLING, COUNTDOWN, clean_system, cleaned
from cortexd.dialects.routes import chat, messages, responses
from cortexd.dialects.wire.exchange import ParsedRequest, Translation
from cortexd.dialects.wire.json_values import decode, encode
from cortexd.dialects.wire.profile import MidSystem, Profile, Speaks
from tests.covers import covers

BILLED = "x-anthropic-billing-header: cc_version=2.1.177.01c; cc_entrypoint=cli; cch=36ee5;"
LEFT = "<total_tokens>14999436 tokens left</total_tokens>"
RULES = "You are a coding agent.\nBe brief."
FRAGMENTS = st.lists(
    st.sampled_from([BILLED, LEFT, RULES, "\n", " ", "", "<total_tokens>", "x-anthropic-", "é"]),
    max_size=8,
).map("".join)


def sent(parsed: ParsedRequest, **profile: Any) -> Translation:
    """Give what a node of this profile gets."""
    return parsed.exchange("m", [Profile(**profile)], random_id="1", now=0.0).first


def read_chat(*turns: tuple[str, str]) -> ParsedRequest:
    each = [{"role": role, "content": content} for role, content in turns]
    return chat.read_request(encode({"model": "m", "messages": each}))


def read_messages(system: Any, *turns: tuple[str, str]) -> ParsedRequest:
    each = [{"role": role, "content": content} for role, content in turns]
    body = {"model": "m", "max_tokens": 9, "system": system, "messages": each}
    return messages.read_request(encode(body))


class CleanedTests(SynchronousTestCase):
    @covers("11.2 billing-line")
    def test_billing_line(self) -> None:
        """Billing lines at the very front go; a line further behind is the user's."""
        for text, rest in (
            (f"{BILLED}\n{RULES}", RULES),
            (f"{BILLED}\n{BILLED}\n{RULES}", RULES),
            (BILLED, ""),
        ):
            self.assertEqual((rest, (BILLING,)), cleaned(text))
        for text in (f"{RULES}\n{BILLED}", f" {BILLED}", RULES, ""):
            self.assertEqual((text, ()), cleaned(text))

    @covers("11.2 token-countdown")
    def test_countdown(self) -> None:
        """Whole lines of the countdown go, wherever they are; a mention within a line stays."""
        self.assertEqual((RULES, (COUNTDOWN,)), cleaned(f"{LEFT}\n{RULES}"))
        self.assertEqual((f"{RULES}\n", (COUNTDOWN,)), cleaned(f"{RULES}\n{LEFT}\n{LEFT}"))
        for text in (f"Write {LEFT}", f"{LEFT}.", "<total_tokens>many tokens left</total_tokens>"):
            self.assertEqual((text, ()), cleaned(text))

    def test_both(self) -> None:
        """Both kinds are named, the billing line first."""
        self.assertEqual(("", (BILLING, COUNTDOWN)), cleaned(f"{BILLED}\n{LEFT}"))

    @given(FRAGMENTS)
    def test_idempotent(self, text: str) -> None:
        """What is clean stays as it is."""
        rest = cleaned(text).text
        self.assertEqual((rest, ()), cleaned(rest))

    @given(FRAGMENTS)
    def test_other_lines(self, text: str) -> None:
        """All lines but those left out stay byte for byte, in their order."""

        def others(lines: str) -> list[str]:
            kept = [line for line in lines.split("\n") if line != LEFT]
            while kept and kept[0].startswith("x-anthropic-billing-header:"):
                del kept[0]
            return kept

        rest = cleaned(text).text
        self.assertTrue(
            text == rest
            or [each for each in others(text) if each] == [each for each in others(rest) if each]
        )
        self.assertTrue(cleaned(text).names or text == rest)

    def test_long(self) -> None:
        """The time is linear: a megabyte of near misses is read once."""
        text = "<total_tokens>1 tokens left</total_tokens> \n" * 25_000
        self.assertEqual((text, ()), cleaned(text))
        self.assertEqual("", cleaned(f"{BILLED}\n" * 10_000).text)

    @settings(max_examples=50)
    @given(
        st.none()
        | FRAGMENTS
        | st.lists(
            st.builds(lambda text: {"type": "text", "text": text}, FRAGMENTS)
            | st.just({"type": "image"})
            | st.integers(),
            max_size=4,
        )
    )
    def test_blocks(self, system: Any) -> None:
        """A system prompt of any shape is cleaned once, and the client's is not modified."""
        given = copy.deepcopy(system)
        fields = {"system": system}
        names = clean_system(fields)
        self.assertEqual(given, system)
        self.assertTrue(names or fields == {"system": given})
        self.assertEqual((), clean_system(fields))


class RouteTests(SynchronousTestCase):
    """Prompts of each dialect, for nodes of each dialect."""

    @covers("11.2 billing-line")
    def test_same_bytes(self) -> None:
        """Two billing lines that differ make the same request, in each combination."""
        for speaks in Speaks:
            for make in (
                lambda line: read_messages(f"{line}\n{RULES}", ("user", "hi")),
                lambda line: read_messages([{"type": "text", "text": line}], ("user", "hi")),
                lambda line: read_chat(("system", f"{line}\n{RULES}"), ("user", "hi")),
                lambda line: responses.read_request(
                    encode({"model": "m", "instructions": f"{line}\n{RULES}", "input": "hi"})
                ),
            ):
                one, other = make(BILLED), make(BILLED.replace("36ee5", "0aaa9"))
                first = sent(one, speaks=speaks)
                self.assertEqual(first.body, sent(other, speaks=speaks).body)
                self.assertEqual(first.prefixes, sent(other, speaks=speaks).prefixes)
                self.assertEqual((BILLING,), first.left_out)
                self.assertNotIn(b"billing", first.body)
                as_it_is = sent(one, speaks=speaks, hygiene=False)
                self.assertIn(b"billing", as_it_is.body)
                self.assertEqual((), as_it_is.left_out)

    @covers("11.2 token-countdown")
    def test_countdown_in_its_turn(self) -> None:
        """A countdown that stays in its turn stays; moved to the front, it is left out."""
        turns = [("user", "hi"), ("assistant", "yes"), ("user", "go on"), ("system", LEFT)]
        for parsed in (read_messages(RULES, *turns), read_chat(("system", RULES), *turns)):
            for policy in (MidSystem.USER, MidSystem.PASS):
                found = sent(parsed, mid_system=policy)
                self.assertIn(LEFT, found.body.decode())
                self.assertEqual((), found.left_out)
            hoisted = sent(parsed, mid_system=MidSystem.HOIST)
            self.assertEqual(RULES, decode(hoisted.body)["messages"][0]["content"])
            self.assertEqual((COUNTDOWN,), hoisted.left_out)
