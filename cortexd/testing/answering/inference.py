"""How a request for an answer of a model becomes one, whatever the route and its shapes."""

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

# More calls than a prompt of any test asks for.
MOST_TOOL_CALLS = 64

Make = Callable[[SimulatedModel], tuple[Answer, ...]]
Work = Callable[[EventStream], Coroutine[Any, Any, None]]


class Inference:
    """The way from a request to the engine of a node, and back to the client."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def heading(self, process: Process, model: SimulatedModel) -> Heading:
        """Give what every object of the next answer of a model says of itself."""
        return Heading(
            id=process.next_answer_id(),
            created=self._server.unix_time(),
            model=model.id,
            version=self._server.version,
        )

    def digests(self, heading: Heading) -> list[str]:
        """Give 32 hexadecimal digits for each tool call of an answer, which no other answer has."""
        seed = f"{self._server.name} {self._server.running_process.number} {heading.id}"
        return [
            hashlib.sha256(f"{seed} {number}".encode()).hexdigest()[:32]
            for number in range(MOST_TOOL_CALLS)
        ]

    def fail_if_told(self) -> None:
        """Raise EngineFailedError if the faults say that this request is to fail."""
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
        """Answer an inference request: None where it was streamed.

        `work` is what the node does by itself, with the stream open, before its model answers.
        The handler's own refusals come first, then the load of an unloaded model, then the
        engine's refusals, which are inside the stream where there is one.
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
    """Give the tokens of the longest of several choices."""
    return max(len(answer.tokens) for answer in answers)


def require_kind(model: SimulatedModel, kind: str) -> None:
    """Raise RequestRefusedError where a model is of another kind than the route needs."""
    if model.kind != kind:
        raise RequestRefusedError(
            500, f"Model `{model.id}` is a {model.kind} model and cannot answer this request."
        )
