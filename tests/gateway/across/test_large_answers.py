"""Whole answers of nodes that are too large for the reactor: they are read elsewhere."""

import base64
import json
from typing import Any

from twisted.web.server import Request

from cortexd.dialects.nodes.answers import LIGHT_BYTES, MAX_CONTAINERS
from cortexd.errors import Overloaded
from tests.support.fleets import MODEL
from tests.support.relays import DONE, RelayTestCase, chunk, refusal_of
from tests.support.scripted import ScriptedNode

EMBEDDINGS = "/v1/embeddings"
TEXT = "b" * LIGHT_BYTES
NO_CALL = {"message": "Tool choice was required but no tools were called.", "type": "server_error"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def choices(**more: Any) -> dict[str, Any]:
    """Return a whole chat with one large choice."""
    message = {"role": "assistant", "content": TEXT}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "n-1", "object": "chat.completion", "choices": [choice], "usage": USAGE} | more


def say(node: ScriptedNode, answer: object) -> Request:
    """Have the node answer its newest request whole; other bytes than an object go as they are."""
    request = node.requests[-1]
    request.setHeader("Content-Type", "application/json")
    request.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
    request.finish()
    return request


class RouteTests(RelayTestCase):
    def test_a_large_answer_is_read_elsewhere(self) -> None:
        """With the id, the token counts and the text that the reactor would have given it."""
        fleet, node = self.alone()
        client = fleet.chat(n=2)
        say(node, choices())
        fleet.flush()

        assert ["take_answer"] == fleet.helper.jobs
        assert (200, "n-1") == (client.status, client.headers["x-cortex-upstream-id"])
        assert TEXT == client.json()["choices"][0]["message"]["content"]
        assert MODEL == client.json()["model"]
        assert USAGE == client.json()["usage"]
        self.assert_at_rest(fleet)

    def test_embeddings_become_base64_elsewhere(self) -> None:
        """A batch of them has as many numbers as a large body."""
        fleet, node = self.alone()
        client = fleet.request(
            "POST", EMBEDDINGS, json={"model": MODEL, "input": "a", "encoding_format": "base64"}
        )
        say(node, {"data": [{"index": 0, "embedding": [0.5] * 60_000}], "usage": USAGE})
        fleet.flush()

        assert ["take_answer"] == fleet.helper.jobs
        encoded = client.json()["data"][0]["embedding"]
        assert 4 * 60_000 == len(base64.b64decode(encoded))

    def test_small_answers_and_sound_are_not_sent_elsewhere(self) -> None:
        """They would wait behind large ones, and nobody decodes sound."""
        fleet, node = self.alone()
        fleet.chat(n=2)
        say(node, choices(choices=[]))
        fleet.flush()
        client = fleet.request("POST", "/v1/audio/speech", json={"model": MODEL, "input": "a"})
        request = node.requests[-1]
        request.setHeader("Content-Type", "audio/wav")
        request.write(b"RIFF" + bytes(2 * LIGHT_BYTES))
        request.finish()
        fleet.flush()

        assert (200, []) == (client.status, fleet.helper.jobs)

    def test_others_are_served_meanwhile(self) -> None:
        """The node's time limit no longer counts, and a client that leaves holds nobody up."""
        fleet, node = self.alone()
        fleet.worker.is_held = True
        clients = [fleet.chat(n=2), fleet.chat(n=2)]
        for _ in clients:
            node.requests.insert(0, say(node, choices()))
            node.requests.pop()
            fleet.flush()
        health = fleet.get("/health")
        fleet.advance(500)
        assert 200 == health.status
        assert [None, None] == [client.status for client in clients]
        fleet.leave(clients[0])
        fleet.worker.release()
        fleet.flush()

        assert 200 == clients[1].status
        self.assert_at_rest(fleet)


class FaultTests(RelayTestCase):
    def test_faults_are_those_of_the_node(self) -> None:
        """What cannot be read, or takes too much memory, goes to another node."""
        many = b'{"choices":[' + b"{}," * MAX_CONTAINERS + b"{}]}"
        without: Any = choices(choices=None, x=TEXT)
        fleet, node = self.bad_and_good()
        for answer in (b"[" * LIGHT_BYTES * 2, many, TEXT.encode() * 2, without):
            client = fleet.chat(n=2)
            say(node, answer)
            fleet.advance(30)

            assert (200, "good") == (client.status, client.headers["x-cortex-node"])
            self.assert_at_rest(fleet)

    def test_the_end_of_the_other_process_is_not_the_nodes(self) -> None:
        """It is told as 503, no node is asked again, and the next answer is read."""

        def end(job: Any, arguments: Any) -> None:
            raise Overloaded("the process was ended", retry_after=2.0)

        fleet, node = self.bad_and_good()
        do = fleet.helper.do
        self.patch(fleet.helper, "do", end)
        client = fleet.chat(n=2)
        say(node, choices())
        fleet.advance(30)
        assert (503, "2") == (client.status, client.headers["retry-after"])
        assert 1 == len(node.requests)
        self.patch(fleet.helper, "do", do)
        client = fleet.chat(n=2)
        say(node, choices())
        fleet.flush()

        assert 200 == client.status
        self.assert_at_rest(fleet)

    def test_a_large_answer_is_not_given_in_pieces(self) -> None:
        """A call that had to be asked whole, of which a stream may have begun, is 1 MiB at most."""
        fleet, node = self.alone()
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        client = fleet.chat(stream=True, tools=[tool], tool_choice="required")
        node.stream(b"data: " + json.dumps({"error": NO_CALL}).encode() + b"\n\n", DONE, end=True)
        fleet.flush()
        assert "stream" not in node.newest_body
        say(node, choices())
        fleet.flush()

        assert (502, []) == (client.status, fleet.helper.jobs)
        assert "too large" in refusal_of(client)["message"]


class GatheredTests(RelayTestCase):
    def test_text_that_is_given_whole_has_a_limit(self) -> None:
        """On each route; a response that streams fails in its end, and the node is not ejected."""
        fleet = self.fleet(node := self.scripted("bad"), eject_after=1)
        turns = [{"role": "user", "content": "a"}]
        long = "c" * 2**20
        for path, more in (
            ("/v1/chat/completions", {"messages": turns}),
            ("/v1/messages", {"messages": turns, "max_tokens": 10**7}),
            ("/v1/responses", {"input": "a", "store": False}),
            ("/v1/responses", {"input": "a", "store": False, "stream": True}),
        ):
            client = fleet.request("POST", path, json={"model": MODEL, **more})
            said = [chunk(long) for _ in range(3)]
            node.stream(*said, chunk("", finish_reason="stop"), DONE, end=True)
            fleet.advance(5)

            assert (200 if "stream" in more else 502) == client.status, path
            assert "characters, which is the limit" in client.text(), path
        self.assert_at_rest(fleet)
