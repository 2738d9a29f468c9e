"""The ways in which a simulated node can be made to misbehave, or to wait for a test."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

HELD_SECONDS: Final = 0.02
"""After which what is held is looked at again."""


def never() -> bool:
    """Hold nothing."""
    return False


@dataclass(kw_only=True)
class Faults:
    """Knobs that may be turned at any time; each is read when the thing it spoils happens.

    hang: every request is taken and never answered, not even after the knob is turned back.
    hang_routes: the same for these paths only, e.g. {"/v1/models"}.
    slow_seconds: wait this long before each answer.
    deaf_while_loading: requests that arrive during a load wait for its end, as on a machine with
    one or two cores, where the load occupies the threads that answer.
    reset_after_chunks: abort the TCP connection of a stream after that many data chunks.
    eof_after_chunks: end a stream cleanly after that many data chunks, without finish or [DONE].
    error_after_chunks: send `error_message` inside a stream after that many data chunks, then
    [DONE]; on a Messages-only node of the type that `error_status` had when the stream began.
    All three count data chunks, not tokens or keep-alive comments; 0 is before the first.
    error_responses: how many of the next inference requests get an `error_status` with
    `error_message`; each such answer counts it down.
    fail_load: model id to the words with which its loads fail, after the load's full time.
    fail_load_times: model id to how many of its next loads `fail_load` fails, counted down; without
    a number it fails all.
    panic_load: ids whose loads panic at their end: the connection breaks, and the id is reloading
    until the process restarts, with its memory given back.
    leak_mb_per_unload: MiB that an unload never gives back until the process restarts.
    older_responses: /v1/responses is that of an older version: a tool of a kind it does not know,
    `namespace` or `web_search`, has the whole body refused, text in several parts is taken from
    users alone, and a call that is streamed does not name its function.
    free_delay_seconds: how long after the answer to an unload the last of its memory comes back.
    free_steps: in how many equal pieces that comes back, evenly over the delay.

    Two knobs are no faults, but let whoever acts during a load or an answer take their time:

    holds_loads: no load ends while it returns True.
    holds_answers: no answer goes on behind its first token while it returns True.
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
    older_responses: bool = False
    free_delay_seconds: float = 0.0
    free_steps: int = 1
    holds_loads: Callable[[], bool] = never
    holds_answers: Callable[[], bool] = never

    def hangs(self, path: str) -> bool:
        """Tell whether a request for `path` is never to be answered."""
        return self.hang or path in self.hang_routes

    def take_load_failure(self, model_id: str) -> str | None:
        """Give the words with which this load is to fail, None where it is not, and count it."""
        times = self.fail_load_times.get(model_id)
        if model_id not in self.fail_load or times == 0:
            return None
        if times is not None:
            self.fail_load_times[model_id] = times - 1
        return self.fail_load[model_id]

    def take_error_response(self) -> bool:
        """Tell whether this inference request is to fail, and count it."""
        if self.error_responses <= 0:
            return False
        self.error_responses -= 1
        return True
