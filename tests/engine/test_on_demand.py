"""A daemon before a node that cannot hold both of its chat models: each comes when it is asked for.

Nothing here says which model is to be loaded: only requests for them do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from tests.engine.conftest import KINDS
from tests.engine.contract import ANSWER_SECONDS, Caller, Json, Stream, read, wait_until
from tests.engine.processes import RunningNode, engine_node, simulated_node
from tests.live.daemons import Daemon, running_daemon

CHAT = "/v1/chat/completions"
RELOAD, UNLOAD = "/v1/models/reload", "/v1/models/unload"
ROUNDS = 3
CLIENTS = 6
MAX_WAIT = 0.1
CROWD = 20
TOKENS = 12


@dataclass(frozen=True)
class TightNode:
    """A node with room for one of its chat models, and what there is to know of its memory."""

    running: RunningNode
    memory_mb: int
    sizes_mb: Mapping[str, int]


@dataclass(frozen=True)
class Served:
    """A daemon, the node behind it, and a client of each: ``client`` asks only the daemon."""

    daemon: Daemon
    node: Caller
    client: Caller

    @property
    def models(self) -> tuple[str, ...]:
        """The two chat models."""
        return self.node.node.chat_models

    def asked(self, path: str, model: str) -> Counter[str]:
        """Return how many requests of a path for a model the node has answered, by status.

        It counts each after its answer has gone out, which is waited for: let none be under way.
        """

        def samples(name: str) -> list[tuple[str, int]]:
            found = _samples(f"{self.node.node.base_url}/metrics", f"http_requests_{name}")
            return [
                (labels.get("status", ""), int(value))
                for labels, value in found
                if (path, model) == (labels["path"], labels["model"])
            ]

        self.wait_for(lambda: not any(value for _, value in samples("in_flight")), "the count")
        counts: Counter[str] = Counter()
        for status, value in samples("total"):
            counts[status] += value
        return counts

    def gauge(self, name: str, **labels: str) -> float:
        """Return the sum of a gauge of the daemon over all samples that have these labels."""
        samples = _samples(f"{self.daemon.metrics_url}/metrics", name)
        return sum(value for found, value in samples if labels.items() <= found.items())

    def queued(self, model: str) -> float:
        """Return how many requests wait for a model."""
        return self.gauge("cortex_queue_depth", model=model)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds, which it must within 20 seconds."""
        assert wait_until(condition), f"{what} did not happen: {self.daemon.log()}"

    def listed(self, model: str) -> str:
        """Return the status of a model in the daemon's list."""
        entries = self.client.http.get("/v1/models").json()["data"]
        [status] = [entry["status"] for entry in entries if entry["id"] == model]
        return str(status)


def _samples(url: str, name: str) -> Iterator[tuple[Mapping[str, str], float]]:
    for family in text_string_to_metric_families(httpx2.get(url).text):
        yield from ((each.labels, each.value) for each in family.samples if each.name == name)


@pytest.fixture(scope="module", params=KINDS)
def quick_node(request: pytest.FixtureRequest, tiny_models: dict[str, Path]) -> Iterator[TightNode]:
    """Run a node of either kind that loads and answers quickly."""
    if request.param == "simulated":
        sizes_mb = {"acme/chat": 6_144, "acme/thinker": 6_144, "acme/embed": 1_024}
        with simulated_node(fast=True, memory_mb=8_192, cold=["acme/thinker"]) as running:
            yield TightNode(running, 8_192, sizes_mb)
    else:
        with tight_engine(tiny_models) as node:
            yield node


@pytest.fixture(scope="module")
def engine(tiny_models: dict[str, Path]) -> Iterator[TightNode]:
    """Run an engine node."""
    with tight_engine(tiny_models) as node:
        yield node


@contextmanager
def tight_engine(models: Mapping[str, Path]) -> Iterator[TightNode]:
    sizes_mb = {"tiny/alpha": 60, "tiny/beta": 60, "tiny/embedding": 10}
    with engine_node(models, memory_mb=100, sizes_mb=sizes_mb, cold=["tiny/beta"]) as running:
        yield TightNode(running, 100, sizes_mb)


@contextmanager
def serving(
    folder: Path,
    node: TightNode,
    *,
    gateway: Mapping[str, object] | None = None,
    sizes_are_told: bool = True,
) -> Iterator[Served]:
    """Run a daemon before a node on which no chat model is loaded, until the block is left.

    Then its log must hold nothing worse than news, and the node must have refused nothing. The
    daemon is told what the models take, unless ``sizes_are_told`` is off. A request waits for
    MAX_WAIT seconds at most before the other model has to go for it.
    """
    told = node.sizes_mb.items() if sizes_are_told else ()
    sizes = "".join(f'[[models]]\nid = "{model}"\nvram_mb = {mb}\n' for model, mb in told)
    with Caller(node.running) as direct:
        for model in node.running.chat_models:
            direct.operate("unload", model)
        refused = _refused(direct)
        with (
            running_daemon(
                folder,
                {"node": node.running.base_url},
                # What the headers tell is to be seen however slow the machine is.
                gateway={"hold_seconds": 60.0, **(gateway or {})},
                extra=f"[scheduling]\nmax_wait = {MAX_WAIT}\n{sizes}",
                vram_mb=node.memory_mb,
            ) as daemon,
            Caller(replace(node.running, base_url=daemon.base_url)) as client,
        ):
            yield Served(daemon, direct, client)
        assert [] == daemon.alarms()
        assert refused == _refused(direct)
        # None is stuck, which would list it twice, and no more are loaded than fit.
        states = sorted(state for id_ in node.running.chat_models for state in direct.listed(id_))
        assert ["loaded", "unloaded"] == states


def _refused(node: Caller) -> float:
    samples = _samples(f"{node.node.base_url}/metrics", "http_requests_total")
    return sum(value for labels, value in samples if labels["status"] != "200")


def assert_whole(answer: Json, model: str) -> str:
    """Check that an answer of TOKENS tokens is all there; return its text."""
    [choice] = answer["choices"]
    assert (model, "length") == (answer["model"], choice["finish_reason"])
    usage = answer["usage"]
    assert TOKENS == usage["completion_tokens"]
    assert 0 < usage["prompt_tokens"] == usage["total_tokens"] - TOKENS
    return _text([choice["message"]])


def assert_whole_stream(stream: Stream, model: str) -> str:
    """Check that a stream of TOKENS tokens, with usage, is all there; return its text."""
    assert (["length"], [], True) == (finish_reasons(stream), stream.plain_lines, stream.done)
    assert {model} == {chunk["model"] for chunk in stream.chunks}
    assert [TOKENS] == [chunk["usage"]["completion_tokens"] for chunk in stream.chunks[-1:]]
    return _text([choice["delta"] for choice in choices(stream)])


def choices(stream: Stream) -> list[Json]:
    """Return the choices of all chunks: the last chunk has usage instead."""
    return [choice for chunk in stream.chunks for choice in chunk["choices"]]


def finish_reasons(stream: Stream) -> list[str]:
    return [choice["finish_reason"] for choice in choices(stream) if choice["finish_reason"]]


def _text(pieces: Sequence[Json]) -> str:
    kinds = ("reasoning_content", "content")
    return "|".join("".join(piece.get(kind) or "" for piece in pieces) for kind in kinds)


def body_for(model: str, **fields: Any) -> Json:
    return {
        "model": model,
        "messages": [{"role": "user", "content": "hello there"}],
        "temperature": 0,
        "max_tokens": TOKENS,
        "ignore_eos": True,
        **fields,
    }


def ask(served: Served, model: str, *, stream: bool) -> tuple[httpx2.Headers, str]:
    """Ask a model through the daemon, streamed or not; return headers and text of the answer."""
    if not stream:
        response = served.client.post(CHAT, **body_for(model))
        assert 200 == response.status_code, response.text
        return response.headers, assert_whole(response.json(), model)
    body = body_for(model, stream=True, stream_options={"include_usage": True})
    with served.client.http.stream("POST", CHAT, json=body) as response:
        assert 200 == response.status_code
        lines = (line for line in response.iter_lines() if line.startswith("data:"))
        events = (line.removeprefix("data:").strip() for line in lines)
        return response.headers, assert_whole_stream(read(events), model)


def test_a_request_for_an_unloaded_model(tmp_path: Path, quick_node: TightNode) -> None:
    """It is answered after its load, which its headers tell; the next finds the model there."""
    with serving(tmp_path, quick_node) as served:
        model = served.models[0]
        assert "unloaded" == served.listed(model)
        headers, text = ask(served, model, stream=True)
        again, same = ask(served, model, stream=False)
        served.wait_for(lambda: "loaded" == served.listed(model), "the listing")
        assert text == same == served_directly(served, model)

    assert (model, "loaded") == (headers["x-cortex-model"], headers["x-cortex-decision"])
    load_ms, queue_ms = int(headers["x-cortex-load-ms"]), int(headers["x-cortex-queue-ms"])
    assert 0 < load_ms <= queue_ms
    found = [again[f"x-cortex-{name}"] for name in ("decision", "queue-ms", "load-ms")]
    assert ["resident", "0", "0"] == found


def served_directly(served: Served, model: str) -> str:
    """Return what a model answers when the node itself is asked, which must have it loaded."""
    assert ["loaded"] == served.node.listed(model)
    return assert_whole(served.node.post(CHAT, **body_for(model)).json(), model)


@pytest.mark.parametrize("sizes_are_told", [True, False], ids=["known", "unknown"])
def test_two_models_that_do_not_fit_together(
    tmp_path: Path, quick_node: TightNode, sizes_are_told: bool
) -> None:
    """They take turns for as long as they are asked for in turn, and each answer is whole."""
    with serving(tmp_path, quick_node, sizes_are_told=sizes_are_told) as served:
        ask(served, served.models[1], stream=False)
        texts: dict[str, set[str]] = {model: set() for model in served.models}
        before = loads(served)
        for turn in range(ROUNDS):
            for model in served.models:
                headers, text = ask(served, model, stream=turn % 2 == 0)
                assert "swapped" == headers["x-cortex-decision"]
                assert 0 < int(headers["x-cortex-load-ms"]) <= int(headers["x-cortex-queue-ms"])
                texts[model].add(text)
        assert dict.fromkeys(served.models, ROUNDS) == loads(served) - before
    assert [1, 1] == [len(found) for found in texts.values()]


def test_clients_that_disagree(tmp_path: Path, quick_node: TightNode) -> None:
    """Clients of one model and of the other, all at once, are all answered in full."""
    with serving(tmp_path, quick_node) as served:
        before = loads(served)

        def ask_again_and_again(number: int) -> set[str]:
            model = served.models[number % 2]
            asked = range(number, number + ROUNDS)
            return {ask(served, model, stream=turn % 2 == 0)[1] for turn in asked}

        with ThreadPoolExecutor(CLIENTS) as pool:
            texts = list(pool.map(ask_again_and_again, range(CLIENTS)))
        loaded = loads(served) - before
    assert [1] * CLIENTS == [len(found) for found in texts]
    assert all(1 <= loaded[model] <= CLIENTS / 2 * ROUNDS for model in served.models)


def loads(served: Served) -> Counter[str]:
    """Return how often each chat model was reloaded, by the node's own count."""
    return Counter({model: served.asked(RELOAD, model).total() for model in served.models})


def test_many_first_requests(tmp_path: Path, engine: TightNode) -> None:
    """However many ask for a model that is not loaded, it is loaded once, and all are answered."""
    with serving(tmp_path, engine) as served:
        for model, decision in zip(served.models, ("loaded", "swapped"), strict=True):
            reloads, chats = served.asked(RELOAD, model), served.asked(CHAT, model)

            def ask_one(number: int, model: str = model) -> tuple[httpx2.Headers, str]:
                return ask(served, model, stream=number % 2 == 0)

            def all_wait(model: str = model) -> bool:
                return served.queued(model) == CROWD

            with ThreadPoolExecutor(CROWD) as pool:
                with engine.running.loads_held():
                    asking = [pool.submit(ask_one, number) for number in range(CROWD)]
                    served.wait_for(all_wait, "the queueing of all")
                answers = [answer.result() for answer in asking]

            assert Counter({"200": 1}) == served.asked(RELOAD, model) - reloads
            assert Counter({"200": CROWD}) == served.asked(CHAT, model) - chats
            assert {decision} == {headers["x-cortex-decision"] for headers, _ in answers}
            assert 1 == len({text for _, text in answers})
        started = [line["model"] for line in served.daemon.lines("load_started")]
    assert list(engine.running.chat_models) == started


def test_a_stream_is_never_cut(tmp_path: Path, engine: TightNode) -> None:
    """A swap that is due waits for its end, and who asks for its model meanwhile for the swap."""
    other, streaming = engine.running.chat_models
    with serving(tmp_path, engine) as served, ThreadPoolExecutor(2) as pool:
        body = body_for(streaming, stream_options={"include_usage": True})
        with (
            engine.running.answers_held() as let_go,
            served.client.streaming(body) as events,
        ):
            first = next(events)
            waiting = pool.submit(ask, served, other, stream=True)
            served.wait_for(
                lambda: served.gauge("cortex_node_replicas", state="draining") == 1, "the draining"
            )
            late = pool.submit(ask, served, streaming, stream=False)
            served.wait_for(lambda: served.queued(streaming) == 1, "the queueing")
            unloads = served.asked(UNLOAD, streaming)
            assert ["loaded"] == served.node.listed(streaming)
            assert 1 == served.node.in_flight(streaming)
            let_go()
            stream = read(chain([first], events))
        assert_whole_stream(stream, streaming)
        headers = [waiting.result()[0], late.result()[0]]
        assert Counter({"200": 1}) == served.asked(UNLOAD, streaming) - unloads
        gone = [line["model"] for line in served.daemon.lines("unload_started")]
    assert ["swapped", "swapped"] == [each["x-cortex-decision"] for each in headers]
    assert MAX_WAIT * 1000 < int(headers[0]["x-cortex-queue-ms"])
    assert [streaming, other] == gone


def test_the_openai_sdk(tmp_path: Path, engine: TightNode) -> None:
    """It takes turns with two models too; a stream that waits for a load shows signs of life."""
    waited_for, here = engine.running.chat_models
    gateway = {"hold_seconds": 0.1, "keepalive_seconds": 0.1}
    messages: Any = [{"role": "user", "content": "hello there"}]
    with (
        serving(tmp_path, engine, gateway=gateway) as served,
        OpenAI(
            base_url=f"{served.daemon.base_url}/v1",
            api_key="sk-any",
            max_retries=0,
            timeout=ANSWER_SECONDS,
        ) as sdk,
    ):
        chats = sdk.chat.completions.with_raw_response
        whole = chats.create(model=here, messages=messages, max_tokens=TOKENS)
        with engine.running.loads_held():
            streamed = chats.create(
                model=waited_for, messages=messages, max_tokens=TOKENS, stream=True
            )
        chunks = list(streamed.parse())
        back = chats.create(model=here, messages=messages, max_tokens=TOKENS)
    assert ["loaded", "swapped"] == [each.headers["x-cortex-decision"] for each in (whole, back)]
    # The headers went out before there was anything to tell in them.
    assert "x-cortex-decision" not in streamed.headers
    for answer in (whole.parse(), back.parse()):
        assert answer.choices[0].finish_reason in ("stop", "length")
        assert answer.usage is not None
        assert 0 < answer.usage.completion_tokens <= TOKENS
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons[-1] in ("stop", "length")
    assert [None] * (len(reasons) - 1) == reasons[:-1]
