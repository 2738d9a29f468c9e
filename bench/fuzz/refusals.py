"""The refusals of nodes: of a mistral.rs node, and of a node with the full Messages API."""

from __future__ import annotations

import json

from bench.fuzz.answers import JSON, NodeAnswer
from bench.fuzz.asking import CHAT, COUNT_TOKENS, MESSAGES, RESPONSES, Asked
from cortexd.dialects.wire.profile import Speaks
from cortexd.testing.answering import requests
from tests.doubles.messages_api.requests import MessagesRequest, chat_of, envelope
from tests.doubles.messages_api.rules import checked
from tests.doubles.native_responses.requests import ResponsesRequest

TOO_DEEP = NodeAnswer(400, "text/plain", (b"recursion limit exceeded",), is_fault=False)
"""How a node refuses what is nested deeper than it reads; the gateway need not know how deep."""


def refusal_of(asked: Asked, speaks: Speaks) -> NodeAnswer | None:
    """Return the refusal of a request by a node that ``speaks`` this, ``None`` if it accepts it."""
    if asked.path == MESSAGES and speaks is Speaks.BOTH:
        return _refusal_in_messages(asked)
    if asked.path in (MESSAGES, COUNT_TOKENS) and speaks is Speaks.MESSAGES:
        return _refusal_in_full_messages(asked)
    if speaks is Speaks.MESSAGES:
        return _in_envelope(404, "Not found")
    if asked.path == CHAT:
        return chat_refusal_of(asked.body)
    if asked.path == RESPONSES:
        return _refusal_of_response(asked.body)
    return NodeAnswer(404, "text/plain", (b"",), is_fault=False)


def chat_refusal_of(body: bytes) -> NodeAnswer | None:
    """Return a mistral.rs node's refusal of a chat body, ``None`` if it accepts the body."""
    try:
        chat = requests.decode(body, JSON, requests.ChatRequest)
        chat.turns()
        chat.token_limit()
        chat.thinking()
    except requests.BodyRefusedError as error:
        return _in_text(error)
    except requests.RequestRefusedError as error:
        said = json.dumps({"message": str(error)}).encode()
        return NodeAnswer(error.status, JSON, (said,), is_fault=True)
    except RecursionError:
        return TOO_DEEP
    return None


def _refusal_of_response(body: bytes) -> NodeAnswer | None:
    try:
        requests.decode(body, JSON, ResponsesRequest).as_chat(())
    except requests.BodyRefusedError as error:
        return _in_text(error)
    except RecursionError:
        return TOO_DEEP
    return None


def _refusal_in_messages(asked: Asked) -> NodeAnswer | None:
    try:
        request = requests.decode(asked.body, JSON, MessagesRequest)
        thinks = request.wants_thinking()
        chat_of(request, tool_choice_any="auto", enable_thinking=thinks).thinking()
    except requests.BodyRefusedError as error:
        return _in_text(error)
    except requests.RequestRefusedError as error:
        return _in_envelope(400, str(error))
    except RecursionError:
        return TOO_DEEP
    return None


def _refusal_in_full_messages(asked: Asked) -> NodeAnswer | None:
    headers = {name.lower(): value for name, value in asked.headers.items()}
    if "anthropic-version" not in headers:
        return _in_envelope(400, "anthropic-version: header is required")
    try:
        request = requests.decode(asked.body, JSON, MessagesRequest)
        betas = headers.get("anthropic-beta", "")
        checked(request, betas=betas, generates=asked.path == MESSAGES)
    except (requests.BodyRefusedError, requests.RequestRefusedError) as error:
        return _in_envelope(400, str(error))
    except RecursionError:
        return TOO_DEEP
    return None


def _in_text(error: requests.BodyRefusedError) -> NodeAnswer:
    return NodeAnswer(error.status, "text/plain", (str(error).encode(),), is_fault=False)


def _in_envelope(status: int, words: str) -> NodeAnswer:
    said = {**envelope(status, words), "request_id": "req_1"}
    return NodeAnswer(status, JSON, (json.dumps(said).encode(),), is_fault=False)
