"""What only the old majors of the SDKs do; ``make test`` runs this with them, and by its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx  # type: ignore[import-not-found] # comes with the old SDKs alone
import pytest

from tests.covers import covers
from tests.engine.processes import RunningNode
from tests.live.sdk.anthropic_sdk import Served, only_text, serving
from tests.live.sdk.clients import said
from tests.live.sdk.majors import lose_a_chat, lose_a_message, majors


@pytest.fixture(scope="module")
def served(fast_node: RunningNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run a daemon before a simulated node, and an anthropic client of it."""
    with serving(tmp_path_factory.mktemp("old"), fast_node) as told:
        yield told


def test_the_sdks_are_the_old_ones() -> None:
    """This run has the majors before."""
    assert {"openai": 1, "anthropic": 0} == majors()


@covers("T42", "2.1 anthropic-version")
@pytest.mark.parametrize("beta", [False, True])
def test_it_speaks_of_the_older_version_and_has_a_query(served: Served, beta: bool) -> None:
    """The version is of 2023, and the beta resource tells itself by its query."""
    messages: Any = served.sdk.beta.messages if beta else served.sdk.messages
    raw = messages.with_raw_response.create(
        model=served.model, max_tokens=20, messages=said("hello there")
    )
    assert "2023-06-01" == raw.http_request.headers["anthropic-version"]
    assert ("/v1/messages", b"beta=true" if beta else b"") == (
        raw.http_request.url.path,
        raw.http_request.url.query,
    )
    assert "You said: hello there" == only_text(raw.parse())


def test_the_query_is_served_for_a_count(served: Served) -> None:
    """A count of the beta resource is that of the other."""
    asked: Any = {"model": served.model, "messages": said("hello there")}
    raw: Any = served.sdk.beta.messages.with_raw_response.count_tokens(**asked)
    assert b"beta=true" == raw.http_request.url.query
    assert served.sdk.messages.count_tokens(**asked).input_tokens == raw.parse().input_tokens


@covers("2.1 temperature and top_p", "2.1 top_k")
def test_sampling_has_parameters(served: Served) -> None:
    """They are served, and what makes no sense among them is a bad request."""
    asked: Any = {"model": served.model, "max_tokens": 20, "messages": said("hello there")}
    sampling: Any = {"temperature": 0.5, "top_p": 0.9, "top_k": 5}
    raw = served.sdk.messages.with_raw_response.create(**asked, **sampling)
    assert sampling.items() <= json.loads(raw.http_request.content).items()
    assert "You said: hello there" == only_text(raw.parse())
    with pytest.raises(anthropic.BadRequestError) as raised:
        served.sdk.messages.create(**asked, **{**sampling, "top_k": -1})
    assert "top_k" in raised.value.message


def test_text_completions_are_not_found(served: Served) -> None:
    """The resource that this major still has is served by nobody, and is told so."""
    completions: Any = served.sdk
    with pytest.raises(anthropic.NotFoundError) as raised:
        completions.completions.create(
            model=served.model, max_tokens_to_sample=4, prompt="\n\nHuman: hi\n\nAssistant:"
        )
    assert "/v1/complete" in raised.value.message


def test_openai_does_not_wrap_a_lost_connection(tmp_path: Path) -> None:
    """A stream whose connection is lost raises the error of the HTTP client that the SDK uses."""
    with pytest.raises(httpx.RemoteProtocolError):
        lose_a_chat(tmp_path)


def test_anthropic_does_not_wrap_a_lost_connection(tmp_path: Path) -> None:
    """Nor does the other's."""
    with pytest.raises(httpx.RemoteProtocolError):
        lose_a_message(tmp_path)
