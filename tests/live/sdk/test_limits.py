"""Both SDKs with a key that has limits: the error that they raise, and how long they wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.access.making import Given, given
from tests.engine.processes import RunningNode
from tests.live.daemons import Daemon, running_daemon
from tests.live.sdk.clients import ANSWER_SECONDS, said

MODEL = "default"
STRICT, PATIENT, SPENT = given("strict"), given("patient"), given("spent")
LIMITS = {
    "strict": "requests_per_minute = 1",
    "patient": "requests_per_minute = 30",
    "spent": "token_budget = 1",
}


@pytest.fixture(scope="module")
def running(fast_node: RunningNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run a daemon that requires keys, before a simulated node."""
    folder = tmp_path_factory.mktemp("limits")
    keys = folder / "keys.toml"
    keys.write_text("\n".join(map(table, (STRICT, PATIENT, SPENT))), encoding="utf-8")
    keys.chmod(0o600)
    auth = f'[auth]\nkeys_file = "{keys}"'
    with running_daemon(folder, {"node": fast_node.base_url}, extra=auth) as daemon:
        yield daemon


def table(key: Given) -> str:
    """Return a key's table in the keys file."""
    name = key.key.name
    return (
        f'[[keys]]\nname = "{name}"\nid = "{key.key.id}"\nhash = "{key.key.hash}"\n{LIMITS[name]}'
    )


def of_openai(daemon: Daemon, key: Given, retries: int, times: int = 1) -> Any:
    """Ask the openai SDK for short answers; return the last response with its headers."""
    with openai.OpenAI(
        base_url=f"{daemon.base_url}/v1",
        api_key=key.text,
        timeout=ANSWER_SECONDS,
        max_retries=retries,
    ) as sdk:
        for _ in range(times):
            answer = sdk.chat.completions.with_raw_response.create(
                model=MODEL, max_tokens=1, messages=said("hi")
            )
        return answer


def of_anthropic(daemon: Daemon, key: Given, retries: int) -> Any:
    """Ask the anthropic SDK in the same way."""
    with anthropic.Anthropic(
        base_url=daemon.base_url, api_key=key.text, timeout=ANSWER_SECONDS, max_retries=retries
    ) as sdk:
        return sdk.messages.with_raw_response.create(model=MODEL, max_tokens=1, messages=said("hi"))


def test_a_limit_is_the_error_of_a_limit(running: Daemon) -> None:
    """In both SDKs, with the headers of each; what is left is in the answers too."""
    answer = of_openai(running, STRICT, 0)
    with pytest.raises(openai.RateLimitError) as of_chat:
        of_openai(running, STRICT, 0)
    with pytest.raises(anthropic.RateLimitError) as of_message:
        of_anthropic(running, STRICT, 0)

    assert ("1", "0") == (
        answer.headers["x-ratelimit-limit-requests"],
        answer.headers["x-ratelimit-remaining-requests"],
    )
    assert "rate_limit_exceeded" == of_chat.value.code
    for error, reset in (
        (of_chat.value, "x-ratelimit-reset-requests"),
        (of_message.value, "anthropic-ratelimit-requests-reset"),
    ):
        assert 1 <= int(error.response.headers["retry-after"]) <= 60
        assert error.response.headers[reset]


def test_the_sdks_wait_as_long_as_they_are_told(running: Daemon) -> None:
    """A retry at that time is admitted: one retry is enough, however often the limit is met."""
    with pytest.raises(openai.RateLimitError) as met:
        of_openai(running, PATIENT, 0, times=100)
    assert int(met.value.response.headers["retry-after"]) <= 2

    for ask in (of_openai, of_anthropic):
        answer = ask(running, PATIENT, 1)
        assert 1 == answer.retries_taken


def test_a_budget_that_is_used_up_is_not_retried(running: Daemon) -> None:
    """It would be refused again until midnight."""
    of_openai(running, SPENT, 0)
    with pytest.raises(openai.RateLimitError) as of_chat:
        of_openai(running, SPENT, 5)
    with pytest.raises(anthropic.APIStatusError) as of_message:
        of_anthropic(running, SPENT, 5)

    assert "insufficient_quota" == of_chat.value.code
    assert 402 == of_message.value.status_code
