"""Inference for all routes: from a request to a model's answer."""

import hashlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.web.server import Request

from cortexd.testing.answering.answers import Answer, PromptTooLongError
from cortexd.testing.answering.generation import Engine
from cortexd.testing.answering.replies import json_reply
from cortexd.testing.answering.requests import EngineFailedError, RequestRefusedError
from cortexd.testing.answering.streams import Collector, EventStream, StreamEnding
from cortexd.testing.answering.wire import Heading, Shape
from cortexd.testing.kept import EngineDroppedError
from cortexd.testing.model import SimulatedModel
from cortexd.testing.process import Process
from cortexd.testing.server import Server

# More calls than the prompt of any test requests.
MOST_TOOL_CALLS = 64

Make = Callable[[SimulatedModel], tuple[Answer, ...]]
Work = Callable[[EventStream], Coroutine[Any, Any, None]]


class Inference:
    """Passes a request to the engine of a node, and the answer to the client."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def heading(self, process: Process, model: SimulatedModel) -> Heading:
        """Return the common fields of every object of a model's next answer."""
        return Heading(
            id=process.next_answer_id(),
            created=self._server.unix_time(),
            model=model.id,
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
        work: Work | None = None,
    ) -> bytes | None:
        """Answer an inference request; None if the answer was streamed.

        `work` is the work of the node itself before its model answers; the stream is open by then.
        The handler's own errors come first, then the load of an unloaded model, then the engine's
        errors, which are sent inside the stream if there is one.
        """
        self.fail_if_told()
        process = self._server.running_process
        configured = process.models.configured(process.models.resolve(model))
        require_kind(configured, "chat")
        answers: tuple[Answer, ...] = ()
        too_long: PromptTooLongError | None = None
        try:
            answers = make(configured)
        except PromptTooLongError as error:
            too_long = error
        engine = await process.engine_for(configured.id)
        heading = self.heading(process, configured)
        if stream:
            await self._stream(request, process, engine, shape(heading), answers, too_long, work)
            return None
        if too_long is not None:
            raise RequestRefusedError(422, str(too_long)) from too_long
        collector = Collector()
        engine.submit(process.new_generation(collector, longest(answers)))
        timings = await collector.done
        return json_reply(request, 200, shape(heading).whole(answers, timings))

    async def _stream(
        self,
        request: Request,
        process: Process,
        engine: Engine,
        shape: Shape,
        answers: Sequence[Answer],
        too_long: PromptTooLongError | None,
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
        if work is not None and too_long is None:
            await _work(work, stream)
        if too_long is not None:
            stream.fail(str(too_long))
        elif not stream.is_over:
            generation = process.new_generation(stream, longest(answers))
            stream.feed_from(generation)
            engine.submit(generation)
        await stream.closed


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


def require_kind(model: SimulatedModel, kind: str) -> None:
    """Raise RequestRefusedError if the model is not of the kind that the route needs."""
    if model.kind != kind:
        raise RequestRefusedError(
            500, f"Model `{model.id}` is a {model.kind} model and cannot answer this request."
        )
