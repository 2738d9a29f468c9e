"""A chat for nodes that do not speak chat."""

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.routes.chat import read_request
from cortexd.dialects.wire.json_values import decode
from cortexd.dialects.wire.profile import MidSystem, Profile, Speaks
from tests.dialects.bodies import (
    assert_read_or_refused,
    refusal,
    upstream_body,
)

HELLO = [{"role": "user", "content": "hi"}]


def sent(**fields: object) -> Any:
    return upstream_body(read_request, **{"messages": HELLO} | fields)


class OtherNodeTests(SynchronousTestCase):
    def test_images_that_nodes_would_fetch(self) -> None:
        """Where the operator does not let nodes fetch images, those by address are refused."""
        strict = Profile(fetches_images=False)

        def asked(url: object) -> dict[str, Any]:
            parts = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": url}]
            return {"messages": [{"role": "user", "content": parts}]}

        address = {"url": "https://images/cat.png"}
        for url in (address["url"], address):
            found = refusal(read_request, strict, **asked(url))
            assert "messages[0].content[1].image_url" == found.param
            assert (
                asked(address)["messages"] == upstream_body(read_request, **asked(url))["messages"]
            )
        for field in ("audio_url", "video_url"):
            part = {"type": field, field: {"url": "http://files/cat"}}
            found = refusal(read_request, strict, messages=[{"role": "user", "content": [part]}])
            assert f"messages[0].content[0].{field}" == found.param
        data = asked({"url": "data:image/png;base64,AA=="})
        assert data["messages"] == upstream_body(read_request, strict, **data)["messages"]

    def test_a_node_that_speaks_messages(self) -> None:
        """A node that speaks Messages alone is asked in its dialect, always for a stream."""
        on_messages = Profile(speaks=Speaks.MESSAGES)
        fields = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "seed": 1}
        for streams in (True, False):
            body = json.dumps({"model": "x", "stream": streams} | fields).encode()
            found = read_request(body).exchange("m", [on_messages], random_id="x", now=0).first
            sent = decode(found.body)
            assert ("m", True, 9) == (sent["model"], sent["stream"], sent["max_tokens"])
            assert "user" == sent["messages"][0]["role"]
            assert ("/v1/messages", True, ("seed",)) == (
                found.path,
                found.streams,
                found.approximations,
            )
            assert (("anthropic-version", "2023-06-01"),) == found.headers
            assert streams == found.make_responder().streams

    def test_system_turns_in_messages(self) -> None:
        """A system turn in the middle of Messages is asked for by the beta that has such turns."""
        system = {"role": "system", "content": "be brief"}
        hi = {"role": "user", "content": "hi"}
        on_messages = Profile(speaks=Speaks.MESSAGES, mid_system=MidSystem.PASS)
        for messages, betas in (
            ([system, hi], []),
            ([hi, system, hi], [("anthropic-beta", "mid-conversation-system-2026-04-07")]),
        ):
            body = json.dumps({"model": "x", "messages": messages}).encode()
            found = read_request(body).exchange("m", [on_messages], random_id="x", now=0).first
            assert [("anthropic-version", "2023-06-01"), *betas] == list(found.headers)

    def test_any_depth_in_messages(self) -> None:
        """What is read can be sent in Messages too: no depth is too deep for only the second."""
        for depth in range(880, 1_000, 3):
            nest = b"[" * depth + b"]" * depth
            tools = b'"tools":[{"type":"function","function":{"name":"f","parameters":{"a":'
            body = b'{"model":"m","messages":[{"role":"user","content":"hi"}],' + tools
            profiles = [Profile(speaks=Speaks.MESSAGES)]
            assert_read_or_refused(read_request, body + nest + b"}}}]}", profiles)
