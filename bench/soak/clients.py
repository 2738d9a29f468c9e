"""The clients of the soak: the requests that they send, and the ending of each request."""

from __future__ import annotations

import json
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.iweb import IResponse

from bench.simulator.fleets import seeded
from bench.simulator.traces import zipf_shares
from bench.soak.fleet import EMBEDDING, QUEUE_SECONDS
from cortexd.sse import SseDecoder

ZIPF_EXPONENT = 1.2
FAVOURED_SECONDS = 40.0
"""How long the favourites stay the same."""

TEXT = "a few words to be said again"
MOST_TOKENS = 80
LONGEST_THOUGHT = 1.5
STREAMING_SHARE = 0.65
LEAVING_SHARE = 0.08
LONGEST_PATIENCE = 10.0
# After the longest wait in a queue an answer takes some seconds, and a second attempt as many.
ENDLESS_SECONDS = QUEUE_SECONDS + 30.0


class Popularity:
    """The popularity of models: Zipf's law, with new favourites at intervals."""

    def __init__(self, models: Sequence[str], seed: object) -> None:
        self._models = models
        self._seed = seed
        self._shares = zipf_shares(len(models), ZIPF_EXPONENT)

    def choose(self, at: float, chance: float) -> str:
        """Return the model for a request at a time in seconds; `chance` is from 0 to below 1."""
        ranks = list(self._models)
        seeded("favourites", self._seed, int(at // FAVOURED_SECONDS)).shuffle(ranks)
        return ranks[bisect(self._shares, chance)]


@dataclass(frozen=True, slots=True)
class Ending:
    """The ending of a request: `answered`, `refused`, `broken`, `left` or `endless`, and why."""

    kind: str
    reason: str = ""


ANSWERED, LEFT, ENDLESS = Ending("answered"), Ending("left"), Ending("endless")
CUT_SHORT = Ending("broken", "cut short")
WITHOUT_A_WORD = Ending("broken", "without a word")


def ending_of(status: int, body: bytes, *, streams: bool, is_whole: bool) -> Ending:
    """Judge an answer; `is_whole` states whether its last byte arrived, by HTTP's framing.

    An error before any content refuses the request, either by the status or in the stream that kept
    the client waiting; an error after some content breaks the answer. A stream that ends with
    neither an error nor `[DONE]` is broken silently.
    """
    if status != 200:
        return Ending("refused", _error_code(body) or f"status {status}")
    if not streams:
        return ANSWERED if is_whole else CUT_SHORT
    has_content = False
    for event in SseDecoder().feed(body):
        if event.data == b"[DONE]":
            return ANSWERED if is_whole else CUT_SHORT
        code = _error_code(event.data)
        if code:
            return Ending("broken" if has_content else "refused", code)
        has_content = True
    return WITHOUT_A_WORD


def _error_code(body: bytes) -> str:
    """Return the code in an error's envelope, "" for what is none."""
    with suppress(ValueError):
        value = json.loads(body)
        if isinstance(value, dict) and isinstance(value.get("error"), dict):
            return str(value["error"].get("code") or value["error"].get("type"))
    return ""


class _Body(Protocol):
    """Collects an answer's body; `done` fires at its end with whether it is whole."""

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        self.done: Deferred[bool] = Deferred(lambda _: self.transport.loseConnection())

    def dataReceived(self, data: bytes) -> None:
        """Collect."""
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell how the body ended."""
        if not self.done.called:
            self.done.callback(reason.check(ResponseDone) is not None)


class Client:
    """A client that sends one request at a time, with a short pause between requests.

    Each request has an id of its own, which begins with the client's `name`. `endings` counts the
    endings of its requests.
    """

    def __init__(
        self,
        reactor: Any,
        http: HTTPClient,
        url: str,
        popularity: Popularity,
        dice: Random,
        name: str = "client",
    ) -> None:
        self._reactor = reactor
        self._http = http
        self._url = url
        self._popularity = popularity
        self._dice = dice
        self._name = name
        self._sent = 0
        self.endings: Counter[Ending] = Counter()

    async def ask(self, seconds: float) -> None:
        """Send requests repeatedly for `seconds` seconds."""
        began = self._reactor.seconds()
        while True:
            await deferLater(self._reactor, self._dice.uniform(0, LONGEST_THOUGHT))
            now = self._reactor.seconds() - began
            if now >= seconds:
                return
            model = self._popularity.choose(now, self._dice.random())
            self.endings[await self._ending(model)] += 1

    async def _ending(self, model: str) -> Ending:
        dice = self._dice
        leaves = dice.random() < LEAVING_SHARE
        patience = dice.uniform(0, LONGEST_PATIENCE) if leaves else ENDLESS_SECONDS
        if model.startswith(EMBEDDING):
            answering = self._answer("/v1/embeddings", {"model": model, "input": TEXT})
        else:
            chat = {
                "model": model,
                "messages": [{"role": "user", "content": TEXT}],
                "max_tokens": dice.randint(1, MOST_TOKENS),
                "ignore_eos": True,
                "stream": dice.random() < STREAMING_SHARE,
            }
            answering = self._answer("/v1/chat/completions", chat)
        answered = Deferred.fromCoroutine(answering)
        timer = self._reactor.callLater(patience, answered.cancel)
        try:
            ending = await answered
        except CancelledError:
            ending = LEFT
        # What was cancelled may fail in another way than by saying so.
        if not timer.active():
            return LEFT if leaves else ENDLESS
        timer.cancel()
        return ending

    async def _answer(self, path: str, body: dict[str, object]) -> Ending:
        self._sent += 1
        headers: dict[bytes | str, bytes | str] = {"X-Request-ID": f"{self._name}-{self._sent}"}
        try:
            response: IResponse = await self._http.post(
                self._url + path, json=body, headers=headers, unbuffered=True
            )
        except CancelledError:
            raise
        except Exception as error:
            return Ending("broken", f"no status: {type(error).__name__}")
        content = _Body()
        response.deliverBody(content)
        is_whole = await content.done
        return ending_of(
            response.code,
            bytes(content.received),
            streams=bool(body.get("stream")),
            is_whole=is_whole,
        )
