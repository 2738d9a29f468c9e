"""Bodies of Messages requests, and what is sent upstream for them."""

import json
from typing import Any

from hypothesis import strategies as st

from cortexd.dialects.messages_to_chat.answer import MessageAggregate
from cortexd.dialects.messages_to_chat.reading import AnswerTerms
from cortexd.dialects.messages_to_chat.stream import MessageStream
from cortexd.dialects.routes.messages import MessagesRequest, read_request
from cortexd.dialects.wire.profile import MISTRALRS, Profile
from cortexd.errors import BadRequest
from tests.dialects import bodies

HELLO: list[Any] = [{"role": "user", "content": "hi"}]
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
IMAGE = {"type": "image", "source": PNG}
IMAGE_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
WEATHER = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
NEEDED: dict[str, Any] = {"max_tokens": 100, "messages": HELLO}


def text(words: str, **fields: object) -> dict[str, Any]:
    return {"type": "text", "text": words, **fields}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def assistant(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def call(call_id: str, given: object = None, name: str = "weather") -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": given or {}}


def result(call_id: str, *content: Any, **fields: object) -> dict[str, Any]:
    """Return the result of a call: its content is what is given, or absent."""
    block = {"type": "tool_result", "tool_use_id": call_id, **fields}
    return block | ({"content": list(content)} if content else {})


def parsed(**fields: object) -> MessagesRequest:
    body = {"model": "claude-local", **NEEDED, **fields}
    return read_request(json.dumps(body).encode())


def terms(profile: Profile = MISTRALRS, /, **fields: object) -> AnswerTerms:
    """Return what of the request its answer depends on."""
    exchange = parsed(**fields).exchange("m", [profile], random_id="x", now=0)
    responder = exchange.first.make_responder()
    assert isinstance(responder, MessageAggregate | MessageStream)
    return responder.terms


def sent(profile: Profile = MISTRALRS, /, **fields: object) -> Any:
    """Return the body a node is sent, less its model."""
    return bodies.upstream_body(read_request, profile, **NEEDED | fields)


def sent_messages(*messages: Any, profile: Profile = MISTRALRS, **fields: object) -> Any:
    return sent(profile, messages=list(messages), **fields)["messages"]


def noted(profile: Profile = MISTRALRS, /, **fields: object) -> set[str]:
    """Return what is approximated, but for what the absence of ``thinking`` means."""
    exchange = parsed(**fields).exchange("m", [profile], random_id="x", now=0)
    return set(exchange.first.approximations) - {"thinking_absent"}


def refused(profile: Profile = MISTRALRS, /, **fields: object) -> BadRequest:
    return bodies.refusal(read_request, profile, **NEEDED | fields)


def refused_messages(*messages: Any, profile: Profile = MISTRALRS) -> BadRequest:
    return refused(profile, messages=list(messages))


# Any good conversation.

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
_TEXTS = st.builds(text, WORDS)
_USER_BLOCKS = st.lists(_TEXTS | st.just(IMAGE), max_size=3)
_RESULTS = st.lists(_TEXTS | st.just(IMAGE), max_size=2)
_INPUTS = st.dictionaries(WORDS, st.integers() | WORDS | st.lists(WORDS, max_size=2), max_size=2)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Return turns as Messages allows them: rows of one role, each call with its one result."""
    turns: list[dict[str, Any]] = []
    calls = 0
    for _ in range(draw(st.integers(0, 3))):
        turns.append(user(*draw(_USER_BLOCKS)))
        if draw(st.booleans()):
            turns.append({"role": "system", "content": draw(WORDS)})
        if draw(st.booleans()):
            turns.append(user(*draw(_USER_BLOCKS)))
        said: list[Any] = draw(st.lists(_TEXTS, max_size=2))
        if draw(st.booleans()):
            said.insert(0, {"type": "thinking", "thinking": draw(WORDS), "signature": ""})
        open_calls = [f"toolu_{calls + number}" for number in range(draw(st.integers(0, 3)))]
        calls += len(open_calls)
        said += [call(call_id, draw(_INPUTS)) for call_id in open_calls]
        split = draw(st.integers(0, len(said)))
        turns += [assistant(*said[:split]), assistant(*said[split:])]
        answers = [
            result(call_id, *draw(_RESULTS), is_error=draw(st.booleans()))
            for call_id in draw(st.permutations(open_calls))
        ]
        if draw(st.booleans()):
            turns.append({"role": "system", "content": draw(WORDS)})
        split = draw(st.integers(0, len(answers)))
        turns += [user(*draw(_USER_BLOCKS), *answers[:split]), user(*answers[split:])]
    turns.append(user(text("and now?")))
    return turns


CONVERSATIONS = conversations()
