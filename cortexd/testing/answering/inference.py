"""Inference for all routes: from a request to a model's answer."""

import hashlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.web.server import Request

from cortexd.testing.answering.answers import Answer
from cortexd.testing.answering.generation import Engine
from cortexd.testing.answering.prefixes import CachedPrompt
from cortexd.testing.answering.prompt import EngineRefusedError
from cortexd.testing.answering.replies import json_reply
from cortexd.testing.answering.requests import EngineFailedError, RequestRefusedError
from cortexd.testing.answering.streams import Collector, EventStream, StreamEnding
from cortexd.testing.answering.wire import Heading, Shape
from cortexd.testing.kept import EngineDroppedError
from cortexd.testing.model import AmbiguousAdapterError, SimulatedModel
from cortexd.testing.process import Process
from cortexd.testing.server import Server

BACKTRACE = "\n   0: mistralrs_core::engine::add_request\n   1: tokio::runtime::task::harness"
"""The lines after an error's first one on a node that was started with RUST_BACKTRACE=1."""

# More calls than the prompt of any test requests.
MOST_TOOL_CALLS = 64

Make = Callable[[SimulatedModel], tuple[Answer, ...]]
Work = Callable[[EventStream], Coroutine[Any, Any, None]]


class Inference:
    """Passes a request to the engine of a node, and the answer to the client."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def routed(self, name: str) -> str:
        """Return the model of an adapter that a request names, and any other name as it is.

        Raises RequestRefusedError for an alias of several models.
        """
        try:
            return self._server.running_process.models.base_of(name)
        except AmbiguousAdapterError as error:
            raise RequestRefusedError(422, str(error)) from error

    def heading(self, process: Process, model: str) -> Heading:
        """Return the common fields of every object of the next answer, of a `model` so named."""
        return Heading(
            id=process.next_answer_id(),
            created=self._server.unix_time(),
            model=model,
            version=self._server.version,
        )

    def digests(self, heading: Heading) -> list[str]:
        """Return 32 hexadecimal digits for each tool call of an answer, globally unique."""
        seed = f"{self._server.name} {self._server.running_process.number} {heading.id}"
        return [
            hashlib.sha256(f"{seed} {number}".encode()).hexdigest()[:32]
            for number in range(MOST_TOOL_CALLS)
        ]

    def fail_if_told(self) -> None:
        """Raise EngineFailedError if the faults let this request fail."""
        faults = self._server.faults
        if faults.take_error_response():
            raise EngineFailedError(faults.error_status, faults.error_message)

    async def generate(
        self,
        request: Request,
        *,
        model: str,
        stream: bool,
        make: Make,
        shape: Callable[[Heading], Shape],
        named: str | None = None,
        work: Work | None = None,
    ) -> bytes | None:
        """Answer an inference request; None if the answer was streamed.

        The answer calls its model `named`, by default by its id. `work` is the work of the node
        itself before its model answers; the stream is open by then. The handler's own errors come
        first, then the load of an unloaded model, then the engine's errors, which are sent inside
        the stream if there is one.
        """
        self.fail_if_told()
        process = self._server.running_process
        configured = process.models.configured(process.models.resolve(model))
        answers: tuple[Answer, ...] = ()
        refusal: EngineRefusedError | None = None
        try:
            answers = make(configured)
        except EngineRefusedError as error:
            refusal = error
        engine = await process.engine_for(configured.id)
        heading = self.heading(process, named or configured.id)
        if stream:
            await self._stream(request, process, engine, shape(heading), answers, refusal, work)
            return None
        if refusal is not None:
            kind = RequestRefusedError if refusal.status == 422 else EngineFailedError
            raise kind(refusal.status, self._words(refusal)) from refusal
        collector = Collector()
        answers = self._submit(process, engine, collector, heading.model, answers)
        timings = await collector.done
        return json_reply(request, 200, shape(heading).whole(answers, timings))

    async def _stream(
        self,
        request: Request,
        process: Process,
        engine: Engine,
        shape: Shape,
        answers: Sequence[Answer],
        refusal: EngineRefusedError | None,
        work: Work | None,
    ) -> None:
        server = self._server
        path = request.path.decode()

        def ended(stream: EventStream, reason: StreamEnding) -> None:
            server.streams.discard(stream)
            server.journal.record(
                server.clock.seconds(),
                "stream_ended",
                shape.model,
                path=path,
                reason=reason,
                chunks=stream.chunks,
            )

        stream = EventStream(
            server.clock,
            request,
            shape=shape,
            answers=answers,
            faults=server.faults,
            keepalive_seconds=server.keepalive_seconds,
            on_end=ended,
        )
        server.streams.add(stream)
        server.journal.record(server.clock.seconds(), "stream_opened", shape.model, path=path)
        stream.open()
        if work is not None and refusal is None:
            await _work(work, stream)
        if refusal is not None:
            stream.fail(self._words(refusal), "validation" if refusal.status == 422 else "internal")
        elif not stream.is_over:
            self._submit(process, engine, stream, shape.model, answers)
        await stream.closed

    def _submit(
        self,
        process: Process,
        engine: Engine,
        sink: Collector | EventStream,
        name: str,
        answers: Sequence[Answer],
    ) -> tuple[Answer, ...]:
        """Let an engine answer as `name`; return the answers with what was cached of the prompt."""
        words, tokens = answers[0].prompt
        prompt = CachedPrompt(name, words)
        cached = engine.prefixes.words_cached(prompt) * tokens // max(1, len(words))
        process.tokens_reused += cached
        answers = tuple(replace(answer, cached_tokens=cached) for answer in answers)
        generation = process.new_generation(sink, longest(answers), tokens_to_read=tokens - cached)
        generation.prompt = prompt
        if isinstance(sink, EventStream):
            sink.answers = answers
            sink.feed_from(generation)
        engine.submit(generation)
        return answers

    def _words(self, refusal: EngineRefusedError) -> str:
        """Return an engine's message, with the backtrace that RUST_BACKTRACE=1 adds."""
        return f"{refusal}{BACKTRACE if self._server.faults.backtraces else ''}"


async def _work(work: Work, stream: EventStream) -> None:
    try:
        await work(stream)
    except EngineDroppedError:
        stream.cut_off()
    except CancelledError:
        stream.leave()
        raise


def longest(answers: Sequence[Answer]) -> int:
    """Return the number of tokens of the longest choice."""
    return max(len(answer.tokens) for answer in answers)
