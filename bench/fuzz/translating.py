"""The translation alone: it parses the request, renders the node's request and the answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bench.fuzz.answers import NodeAnswer
from bench.fuzz.asking import CLIENT_HEADERS, COUNT_TOKENS, MESSAGES, RESPONSES, Asked
from bench.fuzz.cases import Case
from bench.fuzz.judging import check_asked, expected_of, outcome_of
from bench.fuzz.refusals import refusal_of
from bench.fuzz.verdicts import Answered, check
from cortexd.bulk import jobs
from cortexd.dialects.messages_to_chat import tokens
from cortexd.dialects.messages_to_chat.tokens import TokenSizes
from cortexd.dialects.nodes.errors import read_error
from cortexd.dialects.routes import chat, messages, responses
from cortexd.dialects.wire.envelopes import error_response, request_id_headers
from cortexd.dialects.wire.exchange import Exchange, ParsedRequest, Responder
from cortexd.errors import BadGateway, CortexError
from cortexd.sse import SseDecoder
from tests.support.bulk import InlineHelper

_LONG_SECONDS = 1_000.0

_AS_LARGE = 4
"""Each body with a number divisible by this is translated as if it were large."""

_MODEL, _RANDOM_ID, _NOW = "acme/chat", "0" * 32, 1_790_000_000.0


def translate(case: Case) -> str:
    """Run a case through the dialects, as gateway and relay do; return its outcome.

    Raises Wrong, and any exception of a dialect except CortexError.
    """
    said: NodeAnswer | None = None
    node_refused = False
    try:
        if case.route == COUNT_TOKENS:
            body = tokens.read_count(case.body).estimate()
            answered = Answered(200, {"content-type": "application/json"}, body)
        else:
            exchange = _exchange(case)
            sent = exchange.first
            asked = Asked(sent.path, sent.body, dict(sent.headers))
            check_asked(case, [asked], has_first_profile=case.has_first_profile)
            refusal = refusal_of(asked, case.speaks)
            node_refused = refusal is not None
            said = refusal or case.answers[sent.streams]
            answered = _respond(exchange, said, has_silences=case.has_silences)
    except CortexError as error:
        answered = _refused(case, error)
    may_refuse = not (
        case.has_first_profile or (case.is_passed_on and case.profile.vision)  # or takes no images
    )
    check(answered, expected_of(case, said, node_refused=node_refused, may_refuse=may_refuse))
    return outcome_of(answered)


def _exchange(case: Case) -> Exchange:
    read, is_sized = _reading(case)
    if case.number % _AS_LARGE:
        return read(case.body).exchange(_MODEL, [case.profile], random_id=_RANDOM_ID, now=_NOW)
    helper = InlineHelper()
    helper.do(jobs.read, [read, is_sized, case.body])
    given = [_MODEL, [case.profile], TokenSizes(), _RANDOM_ID, _NOW, "req_0"]
    made: jobs.Made = helper.do(jobs.exchange, given)
    return made.whole([case.profile])


def _reading(case: Case) -> tuple[Callable[..., ParsedRequest], bool]:
    """Return how the body is read, and whether the function takes token sizes."""
    if case.route == MESSAGES:
        return partial(messages.read_request, headers=CLIENT_HEADERS), True
    if case.route == RESPONSES:
        return responses.read_request, True
    return chat.read_request, False


def _refused(case: Case, error: CortexError) -> Answered:
    status, headers, body = error_response(case.route, error, "req_0")
    headers |= request_id_headers(case.route, "req_0")
    return Answered(status, {name.lower(): value for name, value in headers.items()}, body)


def _respond(exchange: Exchange, said: NodeAnswer, *, has_silences: bool) -> Answered:
    if said.status != 200:
        raise read_error(said.status, b"".join(said.pieces))
    responder = exchange.first.make_responder()
    headers = {"content-type": responder.content_type}
    if not exchange.first.streams:
        return Answered(200, headers, responder.take_body(b"".join(said.pieces)))
    if said.content_type != "text/event-stream":
        raise read_error(500, b"".join(said.pieces))
    out: list[bytes] = []
    if has_silences:  # as in the queue, where another responder keeps the client company
        out.append(exchange.first.make_responder().waiting(_LONG_SECONDS))
    try:
        _feed(responder, said, out, has_silences=has_silences)
    except CortexError as error:
        if not any(out):
            raise
        out.append(responder.fail(error))
        return Answered(200, headers, b"".join(out), is_cut=not responder.fails_in_order)
    return Answered(200, headers, b"".join(out))


def _feed(responder: Responder, said: NodeAnswer, out: list[bytes], *, has_silences: bool) -> None:
    decoder = SseDecoder()
    for piece in said.pieces:
        if has_silences:
            out.append(responder.waiting(_LONG_SECONDS))
        for event in decoder.feed(piece):
            out.append(responder.feed(event))
            if responder.done:
                break
        if responder.done:
            break
    if said.breaks_off and not responder.done:
        raise BadGateway("the node broke off", elsewhere=True)
    if not responder.done or not responder.streams:
        out.append(responder.finish())
