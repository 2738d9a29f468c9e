"""Streams of responses: a node's events as clients know them, and signs of life between them."""

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd import sse
from cortexd.dialects.wire.exchange import Responder, Usage
from cortexd.dialects.wire.json_values import encode
from cortexd.errors import (
    BadGateway,
    BadRequest,
    CortexError,
    ModelNotFound,
    NodeError,
    NodeTimeout,
)
from cortexd.sse import SseDecoder
from tests.dialects.node_answers import fed
from tests.dialects.response_events import (
    CREATED,
    DELTA,
    WHOLE,
    event,
    exchange,
    read,
    responder,
    response,
)

LIFECYCLE = ("response.created", "response.in_progress", "response.completed")


def failed(found: Responder, error: CortexError) -> dict[str, Any]:
    """Return the event by which a responder tells of an error."""
    (told,) = read(found.fail(error))
    assert ("response.failed", "failed") == (told["type"], told["response"]["status"])
    return told


def lines(*kinds: str) -> list[bytes]:
    """Return a node's events, numbered as they come."""
    numbered = []
    for number, kind in enumerate(kinds):
        about = {"response": response("x")} if kind in LIFECYCLE else {}
        numbered.append(event(kind, sequence_number=number, **about))
    return numbered


class StreamTests(SynchronousTestCase):
    def test_events_are_passed_on_under_their_names(self) -> None:
        """Byte by byte what the node sent; id, usage and content are learnt on the way."""
        found = responder()

        assert WHOLE == fed(found, WHOLE)
        assert (True, "resp_1", Usage(3, 2), 2) == (
            found.done,
            found.upstream_id,
            found.usage,
            found.content_chunks,
        )
        assert b"" == found.finish()

    @settings(max_examples=200)
    @given(st.lists(st.integers(0, len(WHOLE)), max_size=8))
    def test_any_chunking(self, cuts: list[int]) -> None:
        """However the bytes are cut, the same bytes go out."""
        edges = [0, *sorted(cuts), len(WHOLE)]
        pieces = [WHOLE[start:end] for start, end in itertools.pairwise(edges)]

        assert WHOLE == fed(responder(), *pieces)

    def test_the_id_is_known_at_once(self) -> None:
        """With the first event, so that a client may cancel what it is being told."""
        found = responder()
        fed(found, CREATED)

        assert ("resp_1", False) == (found.upstream_id, found.done)

    def test_each_end(self) -> None:
        """Three events end a response; nothing after them goes out."""
        for kind in ("response.completed", "response.failed", "response.incomplete"):
            last = event(kind, response=response("x"))
            found = responder()
            assert CREATED + last == fed(found, CREATED + last + b"data: [DONE]\n\n" + DELTA)
            assert (True, "resp_1", None) == (found.done, found.upstream_id, found.usage)

    def test_without_names(self) -> None:
        """An event without a name is what its data say, and goes out without one."""
        bare = b"".join(
            b"data: " + line.removeprefix(b"data: ") + b"\n\n"
            for line in WHOLE.split(b"\n")
            if line.startswith(b"data: ")
        )
        found = responder()

        assert bare == fed(found, bare)
        assert (True, "resp_1", 2) == (found.done, found.upstream_id, found.content_chunks)

    def test_events_of_the_node_alone(self) -> None:
        """Names that OpenAI does not have are passed on too, whatever their data are."""
        progress = sse.encode(b'{"round": 1}', b"agentic_tool_call_progress")

        assert progress == fed(responder(), progress)

    def test_broken_off(self) -> None:
        """A stream that ends without its last event is broken, [DONE] or not."""
        for end in (b"", b"data: [DONE]\n\n"):
            found = responder()
            with self.assertRaises(BadGateway) as caught:
                fed(found, CREATED + DELTA + end)
                found.finish()
            assert caught.exception.elsewhere

    def test_errors_of_the_node(self) -> None:
        """An error event, which Codex ignores, is an error here, in the node's words."""
        words = "sampling went wrong"
        for data in (
            {"type": "error", "sequence_number": 1, "error": {"code": "x", "message": words}},
            {"type": "error", "error_type": "x", "message": words},
        ):
            for name in (b"error", None):
                with self.assertRaises(NodeError) as caught:
                    fed(responder(), CREATED + sse.encode(encode(data), name))
                assert words == caught.exception.message
        with self.assertRaises(NodeError) as caught:
            fed(responder(), CREATED + sse.encode(words.encode()))
        assert words == caught.exception.message
        with self.assertRaises(NodeError) as caught:
            fed(responder(), sse.encode(encode({"error": {"message": words}})))
        assert words == caught.exception.message

    def test_errors_of_the_request(self) -> None:
        """What a node lays to the request is the client's mistake; Codex does not repeat it."""
        words = "the model has no chat template"
        for data in (
            {"type": "error", "error": {"code": "validation_error", "message": words}},
            {"type": "error", "code": "invalid_request", "message": words, "param": None},
        ):
            found = responder()
            with self.assertRaises(BadRequest) as caught:
                fed(found, CREATED + sse.encode(encode(data), b"error"))
            assert words == caught.exception.message
            assert not caught.exception.elsewhere
            told = failed(found, caught.exception)
            assert "invalid_prompt" == told["response"]["error"]["code"]
        with self.assertRaises(NodeError):
            fed(responder(), CREATED + sse.encode(b'["validation_error"]', b"error"))

    def test_shapes_nobody_knows(self) -> None:
        """What cannot be understood is the node's fault, and another may do better."""
        for data, name in (
            (b"[1]", None),
            (b"{}", None),
            (b'{"type": 7}', None),
            (b'{"response": 1}', b"response.created"),
            (b"{}", b"response.completed"),
            (b"[]", b"response.completed"),
            (b"\xff", b"agentic_tool_call_progress"),
            (b"{}", b"resp\xefnse.created"),
            (b"{}", b"response.in_pr\xb3ogress"),
        ):
            with self.assertRaises(BadGateway) as caught:
                fed(responder(), sse.encode(data, name))
            assert caught.exception.elsewhere

    def test_a_failure_in_the_middle(self) -> None:
        """It is the response of before, failed, with code and words, and the next number."""
        found = responder()
        fed(found, CREATED + DELTA)

        told = failed(found, NodeTimeout("node a sent nothing for 600 s"))
        assert 2 == told["sequence_number"]
        assert (
            response(
                "failed",
                instructions="be kind",
                error={"code": "timeout", "message": "node a sent nothing for 600 s"},
            )
            == (told["response"])
        )

    def test_a_failure_before_anything(self) -> None:
        """It has what every response has, as far as it is known."""
        told = failed(responder(), ModelNotFound("gone"))

        assert 0 == told["sequence_number"]
        assert ("org/target", 7, [], "model_not_found") == (
            told["response"]["model"],
            told["response"]["created_at"],
            told["response"]["output"],
            told["response"]["error"]["code"],
        )

    def test_items_are_told_of_as_clients_know_them(self) -> None:
        """Events inside an item say which; a call begins without the arguments that follow."""
        message = {"id": "msg_1", "type": "message", "content": []}
        call = {
            "id": "fc_1",
            "type": "function_call",
            "call_id": "call-1",
            "name": "f",
            "arguments": "{}",
            "status": "completed",
        }
        of_call = {"output_index": 1, "call_id": "call-1"}
        told = read(
            fed(
                responder(),
                CREATED,
                event("response.output_item.added", output_index=0, item=message),
                event("response.output_text.delta", output_index=0, content_index=0, delta="x"),
                event("response.output_text.done", output_index=0, item_id="own", text="x"),
                event("response.output_item.added", output_index=1, item=call),
                event("response.function_call_arguments.delta", **of_call, delta="{}"),
                event("response.function_call_arguments.done", **of_call, arguments="{}"),
                event("response.output_item.done", output_index=1, item=call),
            )
        )

        assert ["msg_1", "own", "fc_1", "fc_1"] == [
            data["item_id"] for data in told if "item_id" in data
        ]
        assert ([], "f") == (told[2]["logprobs"], told[6]["name"])
        assert call | {"arguments": "", "status": "in_progress"} == told[4]["item"]
        assert call == told[7]["item"]

    def test_a_call_without_a_name(self) -> None:
        """Nobody can make such a call; another node may be newer, this one would do so again."""
        message = event("response.output_item.added", output_index=0, item={"type": "message"})
        for before in (CREATED, CREATED + message):
            found = responder()
            with self.assertRaises(BadRequest) as caught:
                fed(
                    found,
                    before,
                    event("response.function_call_arguments.delta", output_index=0, delta="{}"),
                )
            assert caught.exception.elsewhere
            told = failed(found, caught.exception)
            assert "invalid_prompt" == told["response"]["error"]["code"], "Codex asks no more"
            assert "without naming it" in caught.exception.message


class WaitingTests(SynchronousTestCase):
    def test_before_the_node_has_begun(self) -> None:
        """One that nobody keeps is begun, once; the client of another hears comments."""
        found = responder(store=False)
        first, second = read(found.waiting(5.0) + found.waiting(15.0))
        assert ["response.created", "response.in_progress"] == [first["type"], second["type"]]
        assert ("resp_x", 7, "org/target") == tuple(
            first["response"][key] for key in ("id", "created_at", "model")
        )
        assert first["response"] == second["response"]

        sign = responder().waiting(5.0)
        assert sign.startswith(b":")
        assert [] == SseDecoder().feed(sign)

    def test_once_the_node_has_begun(self) -> None:
        """What goes on is the node's response, in short, whether it is kept or not."""
        for is_kept in (True, False):
            found = responder(store=is_kept)
            fed(found, CREATED + DELTA)
            (told,) = read(found.waiting(5.0))

            assert ("response.in_progress", 2) == (told["type"], told["sequence_number"])
            assert ("resp_1", "in_progress") == (told["response"]["id"], told["response"]["status"])
            assert "instructions" not in told["response"]
            assert [3] == [data["sequence_number"] for data in read(found.waiting(9.0))]

    def test_after_the_end(self) -> None:
        """There is nothing more to say, not even that it failed."""
        found = responder(store=False)
        fed(found, WHOLE)

        assert b"" == found.waiting(5.0) == found.fail(NodeTimeout("late"))

    def test_the_node_goes_on_from_it(self) -> None:
        """It is one response to the client: begun once, under one id, its events in order."""
        make = exchange(store=False).first.make_responder
        waiting, found = make(), make()
        signs = waiting.waiting(5.0) + waiting.waiting(15.0)
        node = lines("response.created", "response.in_progress", "response.completed")
        told = read(signs + fed(found, *node))

        assert ["created", "in_progress", "in_progress", "completed"] == [
            data["type"].removeprefix("response.") for data in told
        ]
        assert [0, 1, 2, 3] == [data["sequence_number"] for data in told]
        assert {"resp_x"} == {data["response"]["id"] for data in told}
        assert ("resp_1", True) == (found.upstream_id, found.done)

    def test_a_failure_goes_on_from_it(self) -> None:
        """Whether or not the node has said something meanwhile."""
        for node in (b"", CREATED):
            make = exchange(store=False).first.make_responder
            make().waiting(5.0)
            found = make()
            fed(found, node)

            told = failed(found, NodeTimeout("slow"))
            assert ("resp_x", 1) == (told["response"]["id"], told["sequence_number"])

    @settings(max_examples=200)
    @given(
        st.lists(st.integers(0, 3), min_size=1, max_size=4),
        st.lists(st.booleans(), max_size=6),
        st.booleans(),
    )
    def test_any_wait(self, waits: list[int], pauses: list[bool], is_kept: bool) -> None:
        """However often a request waits, in the queue and in attempts that come to nothing."""
        make = exchange(store=is_kept).first.make_responder
        out = b""
        for number, count in enumerate(waits):
            found = make()
            out += b"".join(found.waiting(1.0) for _ in range(count))
            if number < len(waits) - 1:
                fed(found, CREATED)  # thrown away with the attempt
        kinds = ("response.created", "response.in_progress", *["response.x.delta"] * 3)
        pauses_after = itertools.chain(pauses, itertools.repeat(False))
        node = lines(*kinds, "response.completed")
        for line, is_pause in zip(node, pauses_after, strict=False):
            out += fed(found, line) + (found.waiting(1.0) if is_pause else b"")
        told = read(out)

        assert list(range(len(told))) == [data["sequence_number"] for data in told]
        types = [data["type"] for data in told]
        assert ("response.created", 1) == (types[0], types.count("response.created"))
        assert "response.completed" == types[-1]
        assert 1 == len({data["response"]["id"] for data in told if "response" in data})
