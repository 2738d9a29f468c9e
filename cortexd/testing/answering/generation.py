"""A node's engine: sequences that generate tokens, and their scheduling."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from cortexd.testing.answering.prefixes import CachedPrompt, PrefixCache
from cortexd.testing.answering.wire import Timings
from cortexd.testing.faults import HELD_SECONDS, never

Ending = Literal["finished", "canceled", "cut"]


class Listener(Protocol):
    """The receiver of a generation's tokens."""

    def token_made(self, position: int) -> None:
        """Receive token number `position`, from 0."""

    def all_made(self, timings: Timings) -> None:
        """Note that the last token was made."""

    def cut_off(self) -> bool:
        """Note that the engine was dropped; return whether a client still waited."""


class Generation:
    """One sequence: a prompt phase, then `token_count` tokens, one per `token_seconds`.

    The first token comes at the end of the prompt phase. If both times are 0, `start` makes all
    tokens without a timer, unless the listener pauses it. While `is_held` returns True, no token
    after the first one is made. No gauge counts a generation `in_background` (nodes.md 6.6).
    `prompt` is what the engine caches at the end.
    """

    def __init__(
        self,
        clock: IReactorTime,
        listener: Listener,
        *,
        token_count: int,
        prompt_seconds: float,
        token_seconds: float,
        is_held: Callable[[], bool] = never,
        in_background: bool = False,
    ) -> None:
        self.tokens_made = 0
        self.prompt: CachedPrompt | None = None
        self.in_background = in_background
        self._clock = clock
        self._listener = listener
        self._token_count = token_count
        self._prompt_seconds = prompt_seconds
        self._token_seconds = token_seconds
        self._is_held = is_held
        self._on_end: Callable[[Generation, Ending], None] | None = None
        self._timer: IDelayedCall | None = None
        self._started_at = 0.0
        self._first_at: float | None = None
        self._next_at = 0.0
        self._started = False
        self._making = False
        self._paused = False
        self._abandoned = False
        self._ended = False

    def start(self, on_end: Callable[["Generation", Ending], None]) -> None:
        """Begin with the prompt; `on_end` is called once, when the sequence has ended."""
        self._on_end = on_end
        self._started = True
        self._started_at = self._clock.seconds()
        self._next_at = self._started_at + self._prompt_seconds
        self._go_on()

    def timings(self) -> Timings:
        """Return the times up to now."""
        now = self._clock.seconds()
        first_at = now if self._first_at is None else self._first_at
        return Timings(
            prompt_seconds=first_at - self._started_at, completion_seconds=now - first_at
        )

    def pause(self) -> None:
        """Make no more tokens until `resume`."""
        self._paused = True
        self._stop_timer()

    def resume(self) -> None:
        """Continue after `pause`."""
        if self._paused:
            self._paused = False
            self._go_on()

    def abandon(self) -> None:
        """Drop the listener; as in mistral.rs, the next token ends the generation."""
        self._abandoned = True
        self.resume()

    def cut(self) -> bool:
        """End at once because the engine is dropped; return whether a client still waited."""
        if self._ended:
            return False
        self._end("cut")
        return not self._abandoned and self._listener.cut_off()

    def _go_on(self) -> None:
        """Make the tokens that are due, then wait for the next one, unless paused or waiting."""
        if self._making or self._timer is not None or not self._started:
            return
        self._making = True
        while not (self._ended or self._paused):
            wait = self._next_at - self._clock.seconds()
            if wait <= 0 and self.tokens_made and not self._abandoned and self._is_held():
                wait = HELD_SECONDS
            if wait > 0:
                self._timer = self._clock.callLater(wait, self._timer_fired)
                break
            self._make_one()
        self._making = False

    def _timer_fired(self) -> None:
        self._timer = None
        # The clock may be a rounding error before the requested time.
        self._next_at = min(self._next_at, self._clock.seconds())
        self._go_on()

    def _make_one(self) -> None:
        if self._abandoned:
            self._end("canceled")
            return
        if self._first_at is None:
            self._first_at = self._clock.seconds()
        if self.tokens_made < self._token_count:
            self._next_at += self._token_seconds
            self.tokens_made += 1
            self._listener.token_made(self.tokens_made - 1)
        if self.tokens_made == self._token_count and not (self._ended or self._abandoned):
            timings = self.timings()
            self._end("finished")
            self._listener.all_made(timings)

    def _end(self, ending: Ending) -> None:
        self._ended = True
        self._stop_timer()
        if self._on_end is not None:
            self._on_end(self, ending)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Engine:
    """The engine of one loaded model: it runs `seats` sequences at a time, and queues the others.

    `on_change` is called with the numbers of running and waiting sequences when they change, and
    `on_end` with each generation that ends.
    """

    def __init__(
        self,
        seats: int,
        on_change: Callable[[int, int], None],
        on_end: Callable[[Generation, Ending], None],
    ) -> None:
        self.prefixes = PrefixCache()
        self._seats = seats
        self._on_change = on_change
        self._on_end = on_end
        self._running: list[Generation] = []
        self._waiting: deque[Generation] = deque()

    def submit(self, generation: Generation) -> None:
        """Start a generation now, or queue it; it is never rejected."""
        self._waiting.append(generation)
        self._fill_seats()

    def drop(self) -> int:
        """End all running and waiting generations, as an unload does.

        Return for how many of them a client still waited.
        """
        dropped = [*self._running, *self._waiting]
        self._waiting.clear()
        missed = sum([generation.cut() for generation in dropped])
        self._running.clear()
        self._report()
        return missed

    def _fill_seats(self) -> None:
        while self._waiting and len(self._running) < self._seats:
            generation = self._waiting.popleft()
            self._running.append(generation)
            self._report()
            generation.start(self._ended)
        self._report()

    def _report(self) -> None:
        self._on_change(_counted(self._running), _counted(self._waiting))

    def _ended(self, generation: Generation, ending: Ending) -> None:
        self._running.remove(generation)
        if ending == "finished" and generation.prompt is not None:
            self.prefixes.keep(generation.prompt)
        self._on_end(generation, ending)
        self._fill_seats()


def _counted(generations: Iterable[Generation]) -> int:
    return sum(not generation.in_background for generation in generations)
