"""Settings that make a simulated node misbehave, or wait for a test."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

HELD_SECONDS: Final = 0.02
"""Interval of checks whether held loads and answers may continue."""


def never() -> bool:
    """Never hold anything up."""
    return False


@dataclass(kw_only=True)
class Faults:
    """Settings that may change at any time; each is read when it takes effect.

    hang: requests are accepted and never answered, not even after the setting is reset.
    hang_routes: the same, but only for these paths, such as {"/v1/models"}. slow_seconds: the delay
    before each answer. deaf_while_loading: requests that arrive during a load wait for its end, as
    on a machine with one or two cores, where the load occupies the threads that answer.
    reset_after_chunks: abort the TCP connection of a stream after that many data chunks.
    eof_after_chunks: end a stream cleanly after that many data chunks, without finish or [DONE].
    error_after_chunks: send `error_message` inside a stream after that many data chunks, then
    [DONE]; on a Messages-only node with the error type of `error_status` at the stream's start. All
    three count data chunks, not tokens or keep-alive comments; 0 means before the first.
    error_responses: how many of the next inference requests get an `error_status` with
    `error_message`; each such answer decrements it. fail_load: by model id, the message with which
    its loads fail, after the load's full time. fail_load_times: by model id, how many of its next
    loads `fail_load` fails, decremented by each; without a number all of them fail. panic_load: ids
    whose loads panic at their end: the connection breaks, the memory is freed, and the id stays
    reloading until the process restarts. leak_mb_per_unload: MiB that an unload does not free until
    the process restarts. backtraces: a backtrace follows the first line of an engine's message, as
    with RUST_BACKTRACE=1.
    fatal_words: a request whose body contains these words ends the process: every connection is
    aborted. fatal_down_seconds: how long it is down then, before a new process starts; meanwhile it
    aborts each connection.
    free_delay_seconds: the time from the answer to an unload until all of its memory is free.
    free_steps: the number of equal steps in which that memory is freed, evenly over the delay.
    others_mb: MiB that other programs take of the memory.

    Two settings are not faults. They give a test time to act during a load or an answer:

    holds_loads: no load ends while it returns True.
    holds_answers: no answer continues after its first token while it returns True.
    """

    hang: bool = False
    hang_routes: set[str] = field(default_factory=set)
    slow_seconds: float = 0.0
    deaf_while_loading: bool = False
    reset_after_chunks: int | None = None
    eof_after_chunks: int | None = None
    error_after_chunks: int | None = None
    error_message: str = "simulated engine failure"
    error_responses: int = 0
    error_status: int = 500
    fail_load: dict[str, str] = field(default_factory=dict)
    fail_load_times: dict[str, int] = field(default_factory=dict)
    panic_load: set[str] = field(default_factory=set)
    leak_mb_per_unload: int = 0
    backtraces: bool = False
    fatal_words: bytes = b""
    fatal_down_seconds: float = 0.0
    free_delay_seconds: float = 0.0
    free_steps: int = 1
    others_mb: int = 0
    holds_loads: Callable[[], bool] = never
    holds_answers: Callable[[], bool] = never

    def hangs(self, path: str) -> bool:
        """Return whether a request for `path` is never answered."""
        return self.hang or path in self.hang_routes

    def is_fatal(self, body: bytes) -> bool:
        """Return whether a request with this body ends the process."""
        return bool(self.fatal_words) and self.fatal_words in body

    def take_load_failure(self, model_id: str) -> str | None:
        """Return the message with which this load fails, None if it does not fail, and count it."""
        times = self.fail_load_times.get(model_id)
        if model_id not in self.fail_load or times == 0:
            return None
        if times is not None:
            self.fail_load_times[model_id] = times - 1
        return self.fail_load[model_id]

    def take_error_response(self) -> bool:
        """Return whether this inference request fails, and count it."""
        if self.error_responses <= 0:
            return False
        self.error_responses -= 1
        return True
