"""Conversations of Claude Code, before a node with a prefix cache: what must be read again."""

from __future__ import annotations

from typing import Any

from tests.support.fleets import MODEL, FleetTestCase, InMemoryFleet

LONG = "Follow these rules. " * 60


class HygieneTests(FleetTestCase):
    def said(self, fleet: InMemoryFleet, check: str, *texts: str) -> Any:
        """Give the answer to a turn of a conversation; each turn has another billing line."""
        line = f"x-anthropic-billing-header: cc_version=2.1.177; cch={check};"
        body = {
            "model": MODEL,
            "max_tokens": 20,
            "system": [{"type": "text", "text": line}, {"type": "text", "text": LONG}],
            "messages": [
                {"role": "assistant" if place % 2 else "user", "content": text}
                for place, text in enumerate(texts)
            ],
        }
        return fleet.request("POST", "/v1/messages", json=body)

    def test_a_changing_line_is_left_out_and_named(self) -> None:
        """The next turn finds the system prompt in the node's cache; header and log say why."""
        fleet = self.fleet(self.node(version="0.9.5"))
        self.said(fleet, "36ee5", "hi")
        answer = self.said(fleet, "0aaa9", "hi", "yes", "go on")
        assert 150 < answer.json()["usage"]["cache_read_input_tokens"]
        assert "billing-line" == answer.headers["x-cortex-hygiene"]
        assert "billing-line" == fleet.events("request")[-1]["hygiene"]

    def test_an_operator_keeps_prompts_as_they_are(self) -> None:
        """With `prompt_hygiene = "off"` the node gets the line, and reads everything again."""
        fleet = self.fleet(self.node(version="0.9.5"), prompt_hygiene="off")
        self.said(fleet, "36ee5", "hi")
        answer = self.said(fleet, "0aaa9", "hi", "yes", "go on")
        assert 0 == answer.json()["usage"]["cache_read_input_tokens"]
        assert "x-cortex-hygiene" not in answer.headers
        assert fleet.events("request")[-1].get("hygiene") is None
