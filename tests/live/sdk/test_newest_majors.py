"""What only the newest majors of the SDKs do; the others' run has ``old_majors`` instead."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx2
import openai
import pytest

from tests.covers import covers
from tests.engine.processes import RunningNode
from tests.live.sdk.anthropic_sdk import Served, only_text, serving
from tests.live.sdk.clients import said
from tests.live.sdk.majors import lose_a_chat, lose_a_message, majors


@pytest.fixture(scope="module")
def served(fast_node: RunningNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run a daemon before a simulated node, and an anthropic client of it."""
    with serving(tmp_path_factory.mktemp("newest"), fast_node) as told:
        yield told


def test_the_sdks_are_the_newest() -> None:
    """This run has the majors of today, or later ones."""
    found = majors()
    assert found["openai"] >= 3
    assert found["anthropic"] >= 2


@covers("T42", "2.1 anthropic-version")
def test_it_speaks_of_the_newer_version_and_has_no_query(served: Served) -> None:
    """The version is of 2026, and the beta resource has the path of the other."""
    for messages in (served.sdk.messages, served.sdk.beta.messages):
        raw = messages.with_raw_response.create(
            model=served.model, max_tokens=20, messages=said("hello there")
        )
        assert "2026-10-21" == raw.http_request.headers["anthropic-version"]
        assert ("/v1/messages", b"") == (raw.http_request.url.path, raw.http_request.url.query)
        assert "You said: hello there" == only_text(raw.parse())


@covers("2.1 temperature and top_p", "2.1 top_k")
def test_sampling_is_asked_for_beside_its_parameters(served: Served) -> None:
    """It has no parameters for it; what goes into the body by hand is served all the same."""
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 5}
    assert not sampling.keys() & inspect.signature(served.sdk.messages.create).parameters.keys()
    raw = served.sdk.messages.with_raw_response.create(
        model=served.model, max_tokens=20, messages=said("hello there"), extra_body=sampling
    )
    assert sampling.items() <= json.loads(raw.http_request.content).items()
    assert "You said: hello there" == only_text(raw.parse())


def test_its_tool_runner_goes_on_without_a_thread(served: Served) -> None:
    """It would have the server keep the conversation; told that none can, it sends all of it."""

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """Tell the weather of a city."""
        return f"sunny in {city}"

    runner = served.sdk.beta.messages.tool_runner(
        model=served.model, max_tokens=50, tools=[weather], messages=said("call:weather Rome")
    )
    called, told = runner
    assert "tool_use" == called.stop_reason
    assert "The tool said: sunny in Rome" == only_text(told)


def test_openai_wraps_a_lost_connection(tmp_path: Path) -> None:
    """A stream whose connection is lost raises the SDK's own error."""
    with pytest.raises(openai.APIConnectionError):
        lose_a_chat(tmp_path)


def test_anthropic_does_not_wrap_a_lost_connection(tmp_path: Path) -> None:
    """Such a stream raises the error of the HTTP client that the SDK uses."""
    with pytest.raises(httpx2.RemoteProtocolError):
        lose_a_message(tmp_path)
