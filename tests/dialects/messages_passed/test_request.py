import json
from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.messages_passed.answer import PassedAggregate, PassedStream
from cortexd.dialects.routes.messages import read_request
from cortexd.dialects.wire.exchange import Translation
from cortexd.dialects.wire.json_values import decode
from cortexd.dialects.wire.profile import Profile, Speaks
from tests.covers import covers
from tests.dialects import bodies
from tests.dialects.anthropic_bodies import HELLO, IMAGE, NEEDED, call, result, text, user
from tests.dialects.messages_to_chat.test_any_body import BODIES

NATIVE = Profile(speaks=Speaks.BOTH)
ADAPTIVE = {"type": "adaptive"}
URL_IMAGE = {"type": "image", "source": {"type": "url", "url": "http://images/cat.png"}}


def passed(
    profile: Profile = NATIVE, /, headers: Mapping[str, str] = {}, **fields: Any
) -> Translation:
    body = json.dumps({"model": "claude-local", **NEEDED, **fields}).encode()
    return read_request(body, headers).exchange("m", [profile], random_id="x", now=0).first


class PassOnTests(SynchronousTestCase):
    def test_as_it_is(self) -> None:
        """All that the client said goes up, under the model's id and as a stream."""
        fields: dict[str, Any] = {
            "system": [text("you are helpful"), text("be brief")],
            "thinking": {"type": "adaptive"},
            "some_new_field": {"a": [1, None]},
            "temperature": None,
        }
        for speaks in (Speaks.BOTH, Speaks.MESSAGES):
            for streams in (True, False):
                found = passed(Profile(speaks=speaks), stream=streams, **fields)
                expected = {**NEEDED, **fields, "model": "m", "stream": True}
                assert expected == decode(found.body)
                assert ("/v1/messages", True, ()) == (
                    found.path,
                    found.streams,
                    found.approximations,
                )
                kind = PassedStream if streams else PassedAggregate
                assert isinstance(found.make_responder(), kind)

    @covers("11.2 billing-line")
    def test_billing_line(self) -> None:
        """A billing line does not go up, unless the operator wants it to."""
        system = [text("x-anthropic-billing-header: cch=1;"), text("be brief")]
        for speaks in (Speaks.BOTH, Speaks.MESSAGES):
            found = passed(Profile(speaks=speaks), system=system)
            assert [text("be brief")] == decode(found.body)["system"]
            assert ("billing-line",) == found.left_out
            as_it_is = passed(Profile(speaks=speaks, hygiene=False), system=system)
            assert system == decode(as_it_is.body)["system"]
            assert () == as_it_is.left_out
        assert "system" not in decode(passed(system=system[:1]).body)

    def test_headers(self) -> None:
        """The client's own version and betas go up; without them a version that all know."""
        assert {"anthropic-version": "2023-06-01"} == dict(passed().headers)
        given = {"anthropic-version": "2026-10-21", "anthropic-beta": "effort-2025-11-24"}
        assert given == dict(passed(headers=given).headers)

    def test_limit(self) -> None:
        """An answer longer than the model's is not asked for, and the client is told."""
        found = passed(Profile(speaks=Speaks.BOTH, max_output=50), max_tokens=100)

        assert 50 == decode(found.body)["max_tokens"]
        assert ("max_tokens",) == found.approximations

    def test_budget_of_a_shorter_answer(self) -> None:
        """Thinking may take less than the whole answer: a budget goes down with its limit.

        Where there is no room for the least that the API takes, the model does not think.
        """
        for most, budget, expected, words in (
            (5_000, 4_000, {"type": "enabled", "budget_tokens": 4_000}, ("max_tokens",)),
            (
                5_000,
                5_000,
                {"type": "enabled", "budget_tokens": 4_999},
                ("max_tokens", "thinking_budget"),
            ),
            (1_024, 2_000, {"type": "disabled"}, ("max_tokens", "thinking_budget")),
        ):
            thinking = {"type": "enabled", "budget_tokens": budget}
            profile = Profile(speaks=Speaks.MESSAGES, max_output=most)
            found = passed(profile, max_tokens=9_000, thinking=thinking)

            assert expected == decode(found.body)["thinking"]
            assert words == found.approximations

    def test_what_is_no_message(self) -> None:
        """What is no message at all is the node's to judge, and is not left out."""
        found = passed(messages=[*HELLO, None])

        assert [*HELLO, None] == decode(found.body)["messages"]
        assert () == found.approximations

    @covers("T45")
    def test_thinking_of_ours(self) -> None:
        """Thinking that no node signed is left out, as one that signs would refuse it.

        What a node has signed stays, and a turn of which nothing is left goes.
        """

        def thought(signature: str) -> dict[str, Any]:
            return {"type": "thinking", "thinking": "hm", "signature": signature}

        spoken = {"role": "assistant", "content": [thought("EqQB"), text("hello")]}
        ours = {"role": "assistant", "content": [thought("cortex"), text("hello")]}
        alone = {"role": "assistant", "content": [thought("")]}
        found = passed(messages=[*HELLO, spoken, *HELLO, ours, *HELLO, alone, *HELLO])

        assert [
            *HELLO,
            spoken,
            *HELLO,
            {"role": "assistant", "content": [text("hello")]},
            *HELLO,
            *HELLO,
        ] == decode(found.body)["messages"]
        assert ("unsigned_thinking",) == found.approximations

    def test_thinking_of_ours_before_a_call(self) -> None:
        """Where a call has lost its thinking, none is asked of a server that wants it before one.

        A mistral.rs node wants none there.
        """
        thought = {"type": "thinking", "thinking": "hm", "signature": "cortex"}
        asked: dict[str, Any] = {
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "messages": [
                *HELLO,
                {"role": "assistant", "content": [thought, call("t")]},
                user(result("t", text("sunny"))),
            ],
        }
        found = passed(Profile(speaks=Speaks.MESSAGES), **asked)
        assert {"type": "disabled"} == decode(found.body)["thinking"]
        assert ("unsigned_thinking", "thinking") == found.approximations

        unasked = passed(Profile(speaks=Speaks.MESSAGES), **asked | {"thinking": ADAPTIVE})
        assert ADAPTIVE == decode(unasked.body)["thinking"]
        assert asked["thinking"] == decode(passed(NATIVE, **asked).body)["thinking"]

    def test_images_for_a_model_without_vision(self) -> None:
        """A user's image is refused; one that a tool brought is told of, and the turns go on.

        A tool's may stand beside its result too.
        """
        for speaks in (Speaks.BOTH, Speaks.MESSAGES):
            blind = Profile(speaks=speaks, vision=False)
            refusal = bodies.refusal(
                read_request, blind, **NEEDED | {"messages": [user(text("see"), IMAGE)]}
            )
            assert "messages[0].content[1]" == refusal.param

            messages = [
                *HELLO,
                {"role": "assistant", "content": [call("t")]},
                user(result("t", text("a cat"), IMAGE), text("and?")),
            ]
            found = passed(blind, messages=messages)
            told = text("[image omitted: model has no vision]")
            expected = [*messages[:-1], user(result("t", text("a cat"), told), text("and?"))]
            assert expected == decode(found.body)["messages"]
            assert ("tool_result_image",) == found.approximations

            beside = [*messages[:-1], user(result("t", text("a cat")), IMAGE)]
            found = passed(blind, messages=beside)
            expected = [*messages[:-1], user(result("t", text("a cat")), told)]
            assert expected == decode(found.body)["messages"]
            assert ("tool_result_image",) == found.approximations

    def test_what_nodes_would_fetch(self) -> None:
        """Where the operator does not let nodes fetch files, those by address are refused."""
        document = {"type": "document", "source": {"type": "url", "url": "http://internal/a.pdf"}}
        album = {"type": "document", "source": {"type": "content", "content": [URL_IMAGE]}}
        strict = Profile(speaks=Speaks.BOTH, fetches_images=False)
        inside = [*HELLO, {"role": "assistant", "content": [call("t")]}]
        for messages, param in (
            ([user(text("see"), URL_IMAGE)], "messages[0].content[1].source"),
            ([*inside, user(result("t", URL_IMAGE))], "messages[2].content[0].content[0].source"),
            ([user(document)], "messages[0].content[0].source"),
            ([*inside, user(result("t", document))], "messages[2].content[0].content[0].source"),
            ([user(album)], "messages[0].content[0].source.content[0].source"),
        ):
            fields = NEEDED | {"messages": messages}
            assert param == bodies.refusal(read_request, strict, **fields).param
            assert passed(messages=messages).body
        assert passed(strict, messages=[user(IMAGE)]).body

    def test_refused_before_a_model_is_loaded_for_it(self) -> None:
        """What no node could answer is refused at once."""
        for fields, param in (
            ({"messages": []}, "messages"),
            ({"messages": "hi"}, "messages"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"thinking": "yes"}, "thinking"),
        ):
            assert param == bodies.refusal(read_request, NATIVE, **NEEDED | fields).param

    @settings(max_examples=300)
    @given(BODIES)
    def test_any_body(self, body: bytes) -> None:
        """Any body is a request that can be sent, or a mistake of the client's."""
        bodies.assert_read_or_refused(read_request, body, [NATIVE])
