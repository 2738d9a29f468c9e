"""The work on large requests, step by step."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bench.fuzz.asking import CHAT, MESSAGES, RESPONSES
from bench.fuzz.cases import Cases
from cortexd.bulk import jobs
from cortexd.bulk.frames import pack, unpack
from cortexd.bulk.jobs import MAX_REPEATED_BYTES, Desk
from cortexd.dialects.messages_to_chat.tokens import TokenSizes
from cortexd.dialects.nodes.mistralrs_state import kept_by_body
from cortexd.dialects.routes import chat, completions, embeddings, images, messages, responses
from cortexd.dialects.wire.exchange import Exchange
from cortexd.dialects.wire.json_values import encode
from cortexd.dialects.wire.profile import MISTRALRS
from cortexd.dialects.wire.scan import MAX_DEPTH, bounds
from cortexd.errors import BodyTooLarge, CortexError

READ: dict[str, Any] = {
    CHAT: chat.read_request,
    MESSAGES: messages.read_request,
    RESPONSES: responses.read_request,
}
GIVEN: Any = ("acme/chat", TokenSizes(), "0" * 32, 1.0, "req_1")


def by_desk(route: str, body: bytes, profiles: list[Any]) -> Exchange:
    """Return the exchange that the other process makes."""
    desk = Desk()
    jobs.read(desk, READ[route], route != CHAT, body)
    model, *given = GIVEN
    made = jobs.exchange(desk, model, unpack(*pack(profiles)), *given)
    whole: jobs.Made = unpack(*pack(made))
    return whole.whole(profiles)


def directly(route: str, body: bytes, profiles: list[Any]) -> Exchange:
    """Return the exchange that the reactor makes."""
    model, _, random_id, now, request_id = GIVEN
    made: Exchange = READ[route](body).exchange(
        model, profiles, random_id=random_id, now=now, request_id=request_id
    )
    return made


def described(exchange: Exchange) -> Any:
    """Return the parts of an exchange that can be compared."""
    taken = {
        profile: (
            each.method,
            each.path,
            each.body,
            each.headers,
            each.streams,
            each.approximations,
            each.whole and each.whole.body,
            type(each.make_responder()),
            each.make_responder().waiting(1.0),
        )
        for profile, each in exchange.translations.taken.items()
    }
    refused = {profile: vars(each) for profile, each in exchange.translations.refused.items()}
    begun = exchange.outcome and exchange.outcome.begun
    return (taken, refused, begun, exchange.prompt, exchange.follows, exchange.streams)


class ExchangeTests(SynchronousTestCase):
    def test_a_large_request_is_translated_like_any_other(self) -> None:
        """For every kind of node, with equal errors, whatever the body."""
        cases = Cases(7)
        for case in (cases[number] for number in range(150)):
            if case.route not in READ:
                continue
            profiles = [case.profile, MISTRALRS]
            if bounds(case.body).depth > MAX_DEPTH:
                continue
            expected, found = (
                self.result_of(make, case.route, case.body, profiles)
                for make in (directly, by_desk)
            )
            assert expected == found

    @staticmethod
    def result_of(make: Any, route: str, body: bytes, profiles: list[Any]) -> Any:
        try:
            return described(make(route, body, profiles))
        except CortexError as error:
            return type(error), vars(error)

    def test_responders_of_a_request_still_share_their_opening(self) -> None:
        """A keep-alive of one begins the stream for the next."""
        body = encode({"model": "m", "input": "a", "stream": True})
        first = by_desk(RESPONSES, body, [MISTRALRS]).first

        begun = first.make_responder().waiting(1.0)
        assert b"response.created" in begun
        assert b"response.created" not in first.make_responder().waiting(2.0)

    def test_the_outcome_is_that_of_the_responders(self) -> None:
        """The end of the answer is stored from it."""
        body = encode({"model": "m", "input": "a", "stream": True})
        exchange = by_desk(RESPONSES, body, [MISTRALRS])
        exchange.first.make_responder().fail(BodyTooLarge("x"))

        assert exchange.outcome is not None
        assert exchange.outcome.response is not None
        assert "failed" == exchange.outcome.response["status"]

    def test_a_response_repeats_only_so_much(self) -> None:
        """Each of its events would hold the reactor as long as a body of that size."""
        body = encode({"model": "m", "input": "a", "instructions": "a" * MAX_REPEATED_BYTES})
        with self.assertRaises(BodyTooLarge) as raised:
            by_desk(RESPONSES, body, [MISTRALRS])

        assert "1024 KiB" in raised.exception.message


class AnswerTests(SynchronousTestCase):
    def test_an_answer_is_what_the_reactor_would_have_made(self) -> None:
        """On every route whose nodes answer whole, with what a responder says about it."""
        message = {"role": "assistant", "content": "a"}
        choice = {"index": 0, "message": message, "text": "a", "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 2}
        answer = {"id": "1", "choices": [choice], "usage": usage}
        answer |= {"data": [{"embedding": [0.5], "b64_json": "AA"}]}
        for read, asked in (
            (chat.read_request, {"messages": [{"role": "user", "content": "a"}], "n": 2}),
            (completions.read_request, {"prompt": "a"}),
            (embeddings.read_request, {"input": "a", "encoding_format": "base64"}),
            (images.read_request, {"prompt": "a", "response_format": "url"}),
        ):
            parsed: Any = read(encode({"model": "m", **asked}))
            made = parsed.exchange(GIVEN[0], random_id="0" * 32, now=1.0)
            factory = made.first.make_responder
            directly, said = factory(), encode(answer)
            text = directly.take_body(said)
            given = unpack(*pack((factory, made.outcome, kept_by_body, said)))
            taken = unpack(*pack(jobs.take_answer(Desk(), *given)))

            assert (text, directly.usage, directly.upstream_id) == taken[:3]
            assert directly.content_chunks == taken.content_chunks
