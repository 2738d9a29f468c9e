"""One server process: its models, its engines, its running loads and its counters."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from cortexd.testing.answering.generation import Ending, Engine, Generation, Listener
from cortexd.testing.answering.wire import Version
from cortexd.testing.faults import HELD_SECONDS, Faults
from cortexd.testing.journal import Journal
from cortexd.testing.kept import Memories
from cortexd.testing.model import ModelStore, NotAvailableError, SimulatedModel, Status

# The message of a CUDA driver, as the engine reports it.
OUT_OF_MEMORY = 'DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")'


class LoaderPanicError(Exception):
    """Raised when a load panics: the request gets no answer, and its connection breaks."""


class Outcome(NamedTuple):
    """The report of a route that operates on a model; `error` only with `internal_error`."""

    status: Status
    error: str | None = None


class Speed(NamedTuple):
    """The seconds that a node takes for any prompt, for each token of it, and for each token."""

    prompt: float
    prompt_token: float
    token: float


class Process:
    """The state that a restart of the server loses, and repairs.

    `created` is its start in unix seconds, `number` counts the starts, and `starts_loaded` has the
    ids that start loaded; if it is None, each model's `loaded` applies. Loads and generations
    belong to the process, not to the requests that caused them: a client that disconnects stops
    neither.

    Raises ValueError if the models that start loaded do not fit, because mistral.rs does not start
    then; without `out_of_memory` this is recorded in the journal instead.
    """

    def __init__(
        self,
        clock: IReactorTime,
        *,
        models: Sequence[SimulatedModel],
        memory_mb: int,
        speed: Speed,
        seats: int,
        out_of_memory: bool,
        version: Version,
        starts_loaded: Collection[str] | None,
        faults: Faults,
        journal: Journal,
        number: int,
        created: int,
    ) -> None:
        self.number = number
        self.created = created
        self.models = ModelStore(
            models,
            memory_mb=memory_mb,
            version=version,
            starts_loaded=starts_loaded,
            process_number=number,
        )
        resident_mb = self.models.resident_mb(clock.seconds())
        if out_of_memory and resident_mb > memory_mb:
            raise ValueError(
                f"the models that start loaded take {resident_mb} MiB, and there are {memory_mb}"
            )
        # The gauges have no labels: the engine that changed last has set them.
        self.sequences_running = 0
        self.sequences_waiting = 0
        self.requests_in_flight: Counter[tuple[str, str, str]] = Counter()
        self.requests_total: Counter[tuple[str, str, str, int]] = Counter()
        self.tokens_reused = 0
        self._clock = clock
        self._memory_mb = memory_mb
        self._speed = speed
        self._seats = seats
        self._may_overfill = not out_of_memory
        self._faults = faults
        self._journal = journal
        self.memories = Memories(clock, lambda: self.models.default)
        self._last_answer_id = 0
        self._engines = {model_id: self._new_engine(model_id) for model_id in self.models.loaded}
        # Engines that were never stopped, because of no_loader_config.
        self._orphans: list[Engine] = []
        self._loads: dict[str, IDelayedCall] = {}
        self._awaiting_quiet: list[Callable[[], None]] = []
        self._check_memory()

    def next_answer_id(self) -> str:
        """Return the next id of an answer: a small number, which other nodes use too."""
        self._last_answer_id += 1
        return str(self._last_answer_id)

    def unload(self, model_id: str) -> Outcome:
        """Drop a model's engine and its generations, without waiting."""
        was_loaded = model_id in self.models.loaded
        leaked_mb = self._faults.leak_mb_per_unload
        status = self.models.unload(
            model_id,
            self._clock.seconds(),
            free_after=self._faults.free_delay_seconds,
            free_steps=self._faults.free_steps,
            leaked_mb=leaked_mb,
        )
        if was_loaded:
            cut = 0
            engine = self._engines.pop(model_id)
            self.memories.forget(model_id)
            if status == "unloaded":
                cut = engine.drop()
            else:
                self._orphans.append(engine)
            self._journal.record(
                self._clock.seconds(), "unload", model_id, leaked_mb=leaked_mb, cut=cut
            )
        return Outcome(status)

    def reload(self, model_id: str, *, automatic: bool = False) -> Deferred[Outcome]:
        """Load an unloaded model; fires with the outcome when the load has ended.

        Fails with LoaderPanicError if the load panics.
        """
        now = self._clock.seconds()
        state = self.models.status(model_id)
        self._journal.record(now, "reload", model_id, state=state, automatic=automatic)
        beside = len(self.models.loading)
        refusal = self.models.begin_load(model_id)
        done: Deferred[Outcome] = Deferred()
        if refusal is not None:
            done.callback(Outcome(refusal))
            return done
        self._journal.record(now, "load_started", model_id, automatic=automatic, beside=beside)
        has_memory = self.models.claim_memory(
            model_id, now, may_overfill=self._may_overfill, others_mb=self._faults.others_mb
        )
        self._check_memory()
        seconds = self.models.configured(model_id).load_seconds
        if seconds > 0:
            self._loads[model_id] = self._clock.callLater(
                seconds, self._end_load, model_id, now, has_memory, done
            )
        else:
            self._end_load(model_id, now, has_memory, done)
        return done

    async def engine_for(self, model_id: str) -> Engine:
        """Return the engine of a configured model; load it first if it is unloaded.

        Raises NotAvailableError while another load of it is running and if the load fails, and
        LoaderPanicError if the load panics.
        """
        if model_id not in self._engines:
            outcome = await self.reload(model_id, automatic=True)
            if outcome.status == "reloading":
                raise NotAvailableError(f"model `{model_id}` is being reloaded")
            if outcome.status != "loaded":
                raise NotAvailableError(f"failed to reload model: {outcome.error}")
        return self._engines[model_id]

    def new_generation(
        self,
        listener: Listener,
        token_count: int,
        *,
        in_background: bool = False,
        tokens_to_read: int = 0,
    ) -> Generation:
        """Return a generation with this node's speed, not yet submitted to an engine."""
        return Generation(
            self._clock,
            listener,
            token_count=token_count,
            prompt_seconds=self._speed.prompt + tokens_to_read * self._speed.prompt_token,
            token_seconds=self._speed.token,
            is_held=lambda: self._faults.holds_answers(),
            in_background=in_background,
        )

    def when_no_load_runs(self, call: Callable[[], None]) -> None:
        """Call back now, or at the end of the last running load."""
        if self._loads:
            self._awaiting_quiet.append(call)
        else:
            call()

    def kill(self) -> int:
        """End every load and every generation; no callback runs afterwards.

        Return how many answers broke for which a client still waited.
        """
        for load in self._loads.values():
            load.cancel()
        self._loads.clear()
        self.memories.approvals.drop()
        self._awaiting_quiet.clear()
        broken = sum([engine.drop() for engine in [*self._engines.values(), *self._orphans]])
        self._engines.clear()
        return broken

    def _end_load(
        self, model_id: str, started_at: float, has_memory: bool, done: Deferred[Outcome]
    ) -> None:
        self._loads.pop(model_id, None)
        if self._faults.holds_loads():
            self._loads[model_id] = self._clock.callLater(
                HELD_SECONDS, self._end_load, model_id, started_at, has_memory, done
            )
            return
        now = self._clock.seconds()
        failure = self._faults.take_load_failure(model_id)
        words = failure or (None if has_memory else OUT_OF_MEMORY)
        if model_id in self._faults.panic_load:
            self.models.panic_load(model_id)
            self._journal.record(now, "load_failed", model_id, error="panic", reason="panic")
            done.errback(LoaderPanicError())
        elif words is not None:
            self.models.end_load(model_id, loaded=False)
            reason = "told" if failure else "out_of_memory"
            self._journal.record(now, "load_failed", model_id, error=words, reason=reason)
            done.callback(Outcome("internal_error", f"failed to load model: {words}"))
        else:
            self.models.end_load(model_id, loaded=True)
            self._engines[model_id] = self._new_engine(model_id)
            self._journal.record(now, "load_done", model_id, seconds=now - started_at)
            done.callback(Outcome("loaded"))
        if not self._loads:
            waiting, self._awaiting_quiet = self._awaiting_quiet, []
            for call in waiting:
                call()

    def _new_engine(self, model_id: str) -> Engine:
        return Engine(
            self._seats,
            self._count_sequences,
            lambda generation, ending: self._record_end(model_id, generation, ending),
        )

    def _count_sequences(self, running: int, waiting: int) -> None:
        self.sequences_running = running
        self.sequences_waiting = waiting

    def _record_end(self, model_id: str, generation: Generation, ending: Ending) -> None:
        self._journal.record(
            self._clock.seconds(),
            "generation_ended",
            model_id,
            tokens=generation.tokens_made,
            reason=ending,
        )

    def _check_memory(self) -> None:
        """Record the resident memory in the journal; `out_of_memory=False` allows an excess."""
        now = self._clock.seconds()
        self._journal.record_memory(now, self.models.resident_mb(now), self._memory_mb)
