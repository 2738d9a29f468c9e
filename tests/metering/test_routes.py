"""The limits of a key on every route: refusals, headers, and what is given back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cortexd.access.keys import KeyLimits
from cortexd.dialects.wire.scan import LIGHT_BYTES
from tests.covers import covers
from tests.metering.keyed import NAME, KeyedTestCase, metered
from tests.support.conversations import cancel, respond, shown, status_of
from tests.support.fleets import MODEL, STARTED_AT, Client, InMemoryFleet
from tests.testing.client import CHAT

MESSAGES = "/v1/messages"
BACKGROUND = "/v1/responses (background)"
TURNS = [{"role": "user", "content": "hi"}]
LARGE = [{"role": "user", "content": "a" * LIGHT_BYTES}]
ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": TURNS}),
    "large chat": (CHAT, {"messages": LARGE}),
    "messages": (MESSAGES, {"messages": TURNS, "max_tokens": 9}),
    "completion": ("/v1/completions", {"prompt": "hi"}),
    "embedding": ("/v1/embeddings", {"input": "hi"}),
    "image": ("/v1/images/generations", {"prompt": "hi"}),
    "speech": ("/v1/audio/speech", {"input": "hi"}),
    "response": ("/v1/responses", {"input": "hi", "store": False}),
    "background": ("/v1/responses", {"input": "hi", "background": True}),
}
FREE = (
    ("POST", "/v1/messages/count_tokens", {"messages": TURNS}),
    ("POST", "/v1/responses/input_tokens", {"input": "hi"}),
    ("GET", "/v1/models", None),
    ("GET", f"/v1/models/{MODEL}", None),
)


def ask(fleet: InMemoryFleet, route: str, **fields: object) -> Client:
    """Send a request of a route."""
    path, body = ROUTES[route]
    return fleet.request("POST", path, json={"model": MODEL, **body, **fields})


def limits_in(client: Client) -> dict[str, str]:
    """Return the headers of limits in a response."""
    return {name: value for name, value in client.headers.items() if "ratelimit" in name}


class RefusalTests(KeyedTestCase):
    @covers("5 policy rate limit")
    def test_the_rate_of_requests_holds_on_every_route(self) -> None:
        """The second request gets 429 in the envelope of its route, with the time to retry."""
        fleet = self.keyed(self.node(), limits=KeyLimits())
        for route in ROUTES:
            self.limit(fleet, KeyLimits(requests_per_minute=1), route.replace(" ", "-"))
            began = self.clock.seconds()
            first = ask(fleet, route)
            fleet.advance(1)
            client = ask(fleet, route)

            assert first.status in (200, 400), (route, first.text())
            assert (429, "59") == (client.status, client.headers["retry-after"]), route
            name = route.replace(" ", "-")
            words = f"the key '{name}' may send 1 request per minute; try again in 59 s"
            if route == "messages":
                error = client.json()["error"]
                assert {"type": "rate_limit_error", "message": words} == error
                assert {
                    "anthropic-ratelimit-requests-limit": "1",
                    "anthropic-ratelimit-requests-remaining": "0",
                    "anthropic-ratelimit-requests-reset": reset_at(began + 60),
                } == limits_in(client)
            else:
                error = client.error
                assert (words, "rate_limit_error", "rate_limit_exceeded") == (
                    error["message"],
                    error["type"],
                    error["code"],
                ), route
                assert {
                    "x-ratelimit-limit-requests": "1",
                    "x-ratelimit-remaining-requests": "0",
                    "x-ratelimit-reset-requests": "59s",
                } == limits_in(client), route
            fleet.advance(59)
            assert 429 != ask(fleet, route).status

    @covers("5 budget")
    def test_a_budget_that_is_used_up(self) -> None:
        """It is 429 to OpenAI's clients and 402 to Anthropic's, and none of them retries."""
        fleet = self.keyed(self.node(), limits=KeyLimits(token_budget=4))
        fleet.chat()

        chat, messages = ask(fleet, "chat"), ask(fleet, "messages")
        assert (429, "insufficient_quota") == (chat.status, chat.error["code"])
        assert (402, "billing_error") == (messages.status, messages.json()["error"]["type"])
        for client in (chat, messages):
            assert "false" == client.headers["x-should-retry"]
            midnight = 86_400 - (STARTED_AT % 86_400)
            assert midnight == int(client.headers["retry-after"])
        assert "0" == chat.headers["x-ratelimit-remaining-tokens"]

    def test_what_needs_no_model_is_free(self) -> None:
        """Lists and counts of tokens are answered when the rate is used up, without headers."""
        fleet = self.keyed(self.node(), limits=KeyLimits(requests_per_minute=1))
        fleet.chat()

        for method, path, body in FREE:
            client = fleet.request(method, path, json=body and {"model": MODEL, **body})
            assert (200, {}) == (client.status, limits_in(client)), path
        assert 1 == metered(fleet).usage.requests

    def test_a_refusal_is_seen_in_log_and_metrics(self) -> None:
        """With the name of the key; it is no request that the key was admitted with."""
        fleet = self.keyed(self.node(), limits=KeyLimits(requests_per_minute=1))
        fleet.chat()
        fleet.chat()

        assert [(NAME, 200), (NAME, 429)] == [
            (line["key"], line["status"]) for line in fleet.events("request")
        ]
        refusals = fleet.sample("cortex_key_refusals_total", key=NAME, limit="requests")
        assert (1.0, 1.0) == (refusals, fleet.sample("cortex_key_requests_total", key=NAME))


class HeaderTests(KeyedTestCase):
    def test_every_answer_says_what_is_left(self) -> None:
        """A whole answer, a stream at its beginning, and an error of any other kind."""
        fleet = self.keyed(
            self.node(token_seconds=1),
            limits=KeyLimits(requests_per_minute=60, tokens_per_minute=60_000),
        )
        stream = fleet.stream()
        assert ("", "59", "1s") == (
            stream.ended,
            stream.headers["x-ratelimit-remaining-requests"],
            stream.headers["x-ratelimit-reset-requests"],
        )
        assert ("60000", "59000", "0ms") == (
            stream.headers["x-ratelimit-limit-tokens"],
            stream.headers["x-ratelimit-remaining-tokens"],
            stream.headers["x-ratelimit-reset-tokens"],
        )
        assert "58" == fleet.chat(model="no/such").headers["x-ratelimit-remaining-requests"]
        assert (
            "57"
            == fleet.request("POST", CHAT, body=b"no").headers["x-ratelimit-remaining-requests"]
        )
        message = ask(fleet, "messages")
        fleet.advance(10)
        assert "anthropic-ratelimit-tokens-remaining" in message.headers

    def test_a_key_without_limits_gets_no_headers(self) -> None:
        """And a limit on concurrency alone has none."""
        fleet = self.keyed(self.node(), limits=KeyLimits())
        for limits in (KeyLimits(), KeyLimits(max_concurrency=2)):
            self.limit(fleet, limits)
            client = fleet.chat()

            assert (200, {}) == (client.status, limits_in(client))
        assert 2 == metered(fleet).usage.requests

    def test_a_request_without_a_key_is_not_metered(self) -> None:
        """No series, no row, no headers."""
        fleet = self.fleet(self.node())
        client = fleet.chat()

        assert (200, {}) == (client.status, limits_in(client))
        assert [] == list(fleet.parts.meters.all)
        assert "cortex_key_requests_total{" not in fleet.metrics_text()
        assert [None] == [line["key"] for line in fleet.events("request")]


class ConcurrencyTests(KeyedTestCase):
    def busy(self, **settings: Any) -> InMemoryFleet:
        """Make a fleet in which a key may have one request in progress."""
        return self.keyed(self.node(token_seconds=1), limits=KeyLimits(max_concurrency=1))

    def test_a_stream_holds_its_place_to_the_end(self) -> None:
        """And gives it back then."""
        fleet = self.busy()
        stream = fleet.stream()
        refused = fleet.chat()
        fleet.advance(10)

        assert (429, "1") == (refused.status, refused.headers["retry-after"])
        assert "clean" == stream.ended
        assert 0 == metered(fleet).meter.running
        assert "" == fleet.stream().ended

    def test_a_client_that_leaves_gives_its_place_back(self) -> None:
        """At any point of its answer, and what it got counts as an estimate."""
        fleet = self.busy()
        fleet.leave(fleet.chat())
        assert 0 == metered(fleet).meter.running
        fleet.leave(fleet.stream())

        assert 0 == metered(fleet).meter.running
        usage = metered(fleet).usage
        assert (2, 0, 0) == (usage.requests, usage.prompt_tokens, usage.completion_tokens)
        assert usage.uncounted_tokens

    def test_a_client_that_leaves_before_the_first_token_pays(self) -> None:
        """The node has read its prompt, so leaving early is no way around a budget."""
        fleet = self.keyed(self.node(prompt_seconds=5), limits=KeyLimits(max_concurrency=1))
        fleet.leave(fleet.chat())

        usage = metered(fleet).usage
        assert (1, 0) == (usage.requests, usage.prompt_tokens)
        assert usage.uncounted_tokens

    def test_a_crash_gives_its_place_back(self) -> None:
        """A mistake of ours takes nothing from a key for good."""
        fleet = self.busy()

        async def crash(*arguments: object) -> None:
            raise RuntimeError("a mistake of ours")

        self.patch(fleet.relay, "serve", crash)
        assert 500 == fleet.chat().status
        assert 0 == metered(fleet).meter.running
        assert 1 == len(self.flushLoggedErrors(RuntimeError))

    def test_work_in_the_background_holds_one_place(self) -> None:
        """The request that orders it gives it its own, and it counts as one request."""
        fleet = self.busy()
        name = respond(fleet, "a b c", background=True).json()["id"]
        assert 1 == metered(fleet).meter.running
        refused = fleet.chat()
        assert 200 == shown(fleet, name).status
        fleet.advance(10)

        assert (429, "completed") == (refused.status, status_of(fleet, name))
        assert 0 == metered(fleet).meter.running
        usage = metered(fleet).usage
        assert 1 == usage.requests
        assert usage.completion_tokens

    def test_cancelled_work_in_the_background_gives_its_place_back(self) -> None:
        """As a client that leaves does."""
        fleet = self.busy()
        name = respond(fleet, "a b c", background=True).json()["id"]
        cancel(fleet, name)

        assert 0 == metered(fleet).meter.running

    def test_work_that_is_refused_at_once_gives_its_place_back(self) -> None:
        """It leaves no response, and no place in use."""
        node = self.node(token_seconds=1)
        fleet = self.keyed(node, limits=KeyLimits(max_concurrency=99), max_queue=1)
        runs = [fleet.stream()]
        while fleet.events("request") == []:
            runs.append(fleet.stream())
        before = metered(fleet).meter.running
        refused = respond(fleet, "one too many", background=True)

        assert (503, before) == (refused.status, metered(fleet).meter.running)
        fleet.advance(30)
        assert {200, 503} == {run.status for run in runs}
        assert 0 == metered(fleet).meter.running

    def test_a_stop_gives_all_places_back(self) -> None:
        """Also for requests that are cut."""
        fleet = self.busy()
        fleet.stream()
        fleet.answers.cut()
        fleet.flush()

        assert 0 == metered(fleet).meter.running


class TokenTests(KeyedTestCase):
    def test_tokens_count_at_the_end(self) -> None:
        """In both directions, as the node counts them, and the next request meets the limit."""
        fleet = self.keyed(self.node(), limits=KeyLimits(tokens_per_minute=3))
        client = fleet.chat()
        used = client.json()["usage"]
        refused = fleet.chat()

        usage = metered(fleet).usage
        assert (used["prompt_tokens"], used["completion_tokens"]) == (
            usage.prompt_tokens,
            usage.completion_tokens,
        )
        assert used["total_tokens"] > 3
        assert (429, "rate_limit_exceeded") == (refused.status, refused.error["code"])
        assert "may use 3 tokens per minute" in refused.error["message"]
        fleet.advance(int(refused.headers["retry-after"]))
        assert 200 == fleet.chat().status

    def test_a_refused_request_uses_no_tokens(self) -> None:
        """An unknown model counts as a request and gives its tokens back."""
        fleet = self.keyed(self.node(), limits=KeyLimits(tokens_per_minute=5_000))
        client = fleet.chat(model="no/such")
        after = fleet.chat()

        assert 404 == client.status
        assert (1, "5000") == (
            metered(fleet).usage.requests - 1,
            client.headers["x-ratelimit-limit-tokens"],
        )
        assert "4000" == after.headers["x-ratelimit-remaining-tokens"]

    def test_a_retry_at_another_node_is_the_same_request(self) -> None:
        """Only the answer that the client gets counts."""
        first, second = self.node("a"), self.node("b")
        fleet = self.keyed(first, second, limits=KeyLimits(requests_per_minute=9))
        first.faults.error_responses, first.faults.error_status = 1, 429
        fleet.chat()
        fleet.chat()

        assert [(200, 1), (200, 2)] == sorted(
            (line["status"], line["attempts"]) for line in fleet.events("request")
        )
        assert 2 == metered(fleet).usage.requests

    def test_other_limits_hold_at_once_and_keep_the_counts(self) -> None:
        """A reload forgives nothing."""
        fleet = self.keyed(self.node(), limits=KeyLimits(requests_per_minute=2))
        fleet.chat()
        self.limit(fleet, KeyLimits(requests_per_minute=1))

        assert 429 == fleet.chat().status

    def test_a_removed_key_is_forgotten(self) -> None:
        """Its meter and its series go with it, once its last request has ended."""
        fleet = self.keyed(self.node(token_seconds=1), limits=KeyLimits(max_concurrency=1))
        fleet.stream()
        fleet.parts.ring.take([])
        fleet.parts.usage_keeper.write()
        assert 1 == metered(fleet).meter.running
        assert f'key="{NAME}"' not in fleet.metrics_text()
        fleet.advance(30)

        assert [] == list(fleet.parts.meters.all)


def reset_at(seconds: float) -> str:
    """Return a time after the start of the gateway as RFC 3339 writes it."""
    return datetime.fromtimestamp(STARTED_AT + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
