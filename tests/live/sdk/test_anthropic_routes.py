"""The anthropic SDK's headers, its ways to routes, and what it is told off them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.covers import covers
from tests.engine.processes import RunningNode
from tests.live.daemons import Daemon
from tests.live.sdk.anthropic_sdk import Served, only_text, serving
from tests.live.sdk.clients import said


@pytest.fixture(scope="module")
def served(fast_node: RunningNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run a daemon before a simulated node. It takes bodies of 1 MiB."""
    folder = tmp_path_factory.mktemp("anthropic-routes")
    with serving(folder, fast_node, gateway={"max_body_mb": 1}) as told:
        yield told


def asked(served: Served) -> Any:
    """Return a request that is answered with what it says."""
    return {"model": served.model, "max_tokens": 20, "messages": said("hello there")}


@covers("T42", "2.1 anthropic-version")
@pytest.mark.parametrize("version", ["2026-10-21", "2023-06-01", "a-version-to-come"])
def test_any_version_is_served(served: Served, version: str) -> None:
    """The answer is the same whatever version of the API the client speaks of."""
    headers = {"anthropic-version": version}
    raw = served.sdk.messages.with_raw_response.create(**asked(served), extra_headers=headers)
    assert version == raw.http_request.headers["anthropic-version"]
    assert "You said: hello there" == only_text(raw.parse())


@covers("T42", "2.1 anthropic-version", "T16")
def test_no_version_and_no_key_are_served(served: Served) -> None:
    """A body alone, without any header of the SDK's and without ``stream``, gets a message."""
    answer = served.daemon.http.post("/v1/messages", json=asked(served))
    assert (200, "application/json") == (answer.status_code, answer.headers["content-type"])
    assert ("message", "You said: hello there") == (
        answer.json()["type"],
        answer.json()["content"][0]["text"],
    )


@covers("T43")
def test_the_root_is_there_without_a_key(served: Served) -> None:
    """Clients look whether anybody is there before they send a key."""
    answer = served.daemon.http.head("/")
    assert (200, b"") == (answer.status_code, answer.content)
    assert "authorization" not in answer.request.headers


@covers("2.1 anthropic-beta header")
def test_betas_are_accepted_whatever_they_are(served: Served) -> None:
    """The SDK's beta calls, with betas known or made up, are served by the same route."""
    for betas in (["context-management-2025-06-27"], ["no-such-beta-2031-01-01", "another"]):
        message = served.sdk.beta.messages.create(**asked(served), betas=betas)
        assert "You said: hello there" == only_text(message)


def test_the_query_of_the_beta_resource_is_served(served: Served) -> None:
    """``?beta=true`` changes nothing, of the answer as of a count."""
    query = {"beta": "true"}
    message = served.sdk.messages.create(**asked(served), extra_query=query)
    assert "You said: hello there" == only_text(message)
    few: Any = {"model": served.model, "messages": said("hello there")}
    counts: list[Any] = [
        served.sdk.messages.count_tokens(**few),
        served.sdk.messages.count_tokens(**few, extra_query=query),
        served.sdk.beta.messages.count_tokens(**few),
    ]
    assert 1 == len({count.input_tokens for count in counts})


def bad_json(daemon: Daemon) -> Any:
    return daemon.http.post("/v1/messages", content=b'{"model": ')


def too_large(daemon: Daemon) -> Any:
    return daemon.http.post("/v1/messages", content=b"x" * (1024 * 1024 + 1))


def no_such_route(daemon: Daemon) -> Any:
    return daemon.http.get("/v1/messages/batches")


def wrong_method(daemon: Daemon) -> Any:
    return daemon.http.get("/v1/messages")


@covers("T41", "5 malformed", "5 too large", "5 unknown model or route", "5 method")
@pytest.mark.parametrize(
    ("ask", "status", "kind"),
    [
        (bad_json, 400, "invalid_request_error"),
        (too_large, 413, "request_too_large"),
        (no_such_route, 404, "not_found_error"),
        (wrong_method, 405, "invalid_request_error"),
    ],
)
def test_its_envelope_is_used_for_every_fault(
    served: Served, ask: Any, status: int, kind: str
) -> None:
    """What fails before any route is asked has the Anthropic envelope too, and names itself."""
    answer = ask(served.daemon)
    told = json.loads(answer.content)
    assert (status, "error", kind) == (answer.status_code, told["type"], told["error"]["type"])
    assert told["error"]["message"]
    assert told["request_id"] == answer.headers["request-id"]


def test_a_route_that_is_not_served_is_not_found(served: Served) -> None:
    """What the SDK asks of such a route raises its NotFoundError, with the type and the words."""
    with pytest.raises(anthropic.NotFoundError) as raised:
        served.sdk.messages.batches.list()
    assert "not_found_error" == raised.value.type
    assert "/v1/messages/batches" in raised.value.message
