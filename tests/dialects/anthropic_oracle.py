"""The anthropic SDK as an oracle: it must take every answer that we make."""

from typing import Any

import httpx2
from anthropic import Anthropic

from cortexd.dialects.wire.exchange import Responder

ASKED: dict[str, Any] = {
    "model": "claude-opus-4",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hi"}],
}


def client(responder: Responder, body: bytes) -> Anthropic:
    """Return a client whose server answers so to everything."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": responder.content_type}, content=body)

    transport = httpx2.MockTransport(answer)
    return Anthropic(api_key="none", max_retries=0, http_client=httpx2.Client(transport=transport))
