from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing.answering.generation import Ending, Engine, Generation
from cortexd.testing.answering.wire import Timings


class Ear:
    """A listener that remembers what it hears and when; it may pause after each token."""

    def __init__(self, clock: Clock) -> None:
        self.heard: list[tuple[float, object]] = []
        self.generation: Generation | None = None
        self.pauses = False
        self._clock = clock

    def token_made(self, position: int) -> None:
        """Remember a token."""
        self.heard.append((self._clock.seconds(), position))
        if self.pauses and self.generation is not None:
            self.generation.pause()

    def all_made(self, timings: Timings) -> None:
        """Remember the end."""
        self.heard.append((self._clock.seconds(), timings))

    def cut_off(self) -> bool:
        """Remember the cut; somebody always waits."""
        self.heard.append((self._clock.seconds(), "cut"))
        return True


class GenerationTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Set up a listener and a list of endings."""
        self.clock = Clock()
        self.ear = Ear(self.clock)
        self.endings: list[Ending] = []

    def start(
        self,
        tokens: int,
        prompt_seconds: float = 0,
        token_seconds: float = 0,
        *,
        held: bool = False,
    ) -> Generation:
        """Start a generation heard by `self.ear`; one that is held is while `self.is_held`."""
        self.is_held = held
        generation = Generation(
            self.clock,
            self.ear,
            token_count=tokens,
            prompt_seconds=prompt_seconds,
            token_seconds=token_seconds,
            is_held=lambda: self.is_held,
        )
        self.ear.generation = generation
        generation.start(lambda _, ending: self.endings.append(ending))
        return generation

    def test_at_once(self) -> None:
        """With no time to wait everything is made at once, without a timer."""
        self.start(2)
        no_time = Timings(prompt_seconds=0, completion_seconds=0)
        self.assertEqual([(0, 0), (0, 1), (0, no_time)], self.ear.heard)
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertEqual(["finished"], self.endings)

    def test_pace(self) -> None:
        """The first token comes after the prompt, the others at the token pace."""
        self.start(3, prompt_seconds=2, token_seconds=0.5)
        self.clock.pump([0.25] * 20)
        self.assertEqual([2, 2.5, 3, 3], [at for at, _ in self.ear.heard])
        self.assertEqual(Timings(prompt_seconds=2, completion_seconds=1), self.ear.heard[-1][1])

    def test_pace_is_kept(self) -> None:
        """A timer that fires late does not make later tokens later."""
        self.start(3, token_seconds=1)
        self.clock.advance(1.75)
        self.clock.advance(0.25)
        self.assertEqual([0, 1.75, 2], [at for at, _ in self.ear.heard[:3]])

    def test_no_tokens(self) -> None:
        """An answer without tokens ends with the prompt."""
        self.start(0, prompt_seconds=1)
        self.assertEqual([], self.ear.heard)
        self.clock.advance(1)
        self.assertEqual(["finished"], self.endings)

    def test_pause(self) -> None:
        """A paused generation makes nothing and goes on where it was."""
        self.ear.pauses = True
        generation = self.start(3)
        self.assertEqual([(0, 0)], self.ear.heard)
        self.clock.advance(5)
        self.ear.pauses = False
        generation.resume()
        self.assertEqual([(0, 0), (5, 1), (5, 2)], self.ear.heard[:3])

    def test_pause_holds_no_timer(self) -> None:
        """A paused generation leaves no timer behind."""
        generation = self.start(3, token_seconds=1)
        generation.pause()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_held(self) -> None:
        """A generation that is held makes its first token, and then none before it is let go."""
        generation = self.start(3, held=True)
        self.clock.pump([1] * 5)
        self.assertEqual([(0, 0)], self.ear.heard)
        self.is_held = False
        self.clock.advance(1)
        self.assertEqual([(0, 0), (6, 1), (6, 2)], self.ear.heard[:3])
        self.assertEqual(["finished"], self.endings)
        self.assertFalse(generation.cut())

    def test_held_and_abandoned(self) -> None:
        """What nobody listens to any more is not held up."""
        self.start(3, held=True).abandon()
        self.clock.advance(1)
        self.assertEqual(["canceled"], self.endings)

    def test_held_and_cut(self) -> None:
        """What is held is cut at once, and leaves no timer behind."""
        self.assertTrue(self.start(3, held=True).cut())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_pause_at_the_last_token(self) -> None:
        """A pause at the last token does not keep the end back."""
        self.ear.pauses = True
        self.start(1)
        self.assertEqual(["finished"], self.endings)

    def test_abandoned(self) -> None:
        """That nobody listens is noticed when the next token is due, not before."""
        generation = self.start(3, token_seconds=1)
        generation.abandon()
        self.assertEqual([], self.endings)
        self.clock.advance(1)
        self.assertEqual(["canceled"], self.endings)
        self.assertEqual(1, generation.tokens_made)

    def test_abandoned_while_paused(self) -> None:
        """A generation that is abandoned while paused still leaves its seat."""
        generation = self.start(3, token_seconds=1)
        generation.pause()
        generation.abandon()
        self.clock.advance(1)
        self.assertEqual(["canceled"], self.endings)

    def test_cut(self) -> None:
        """A cut generation tells so and leaves no timer."""
        generation = self.start(3, token_seconds=1)
        generation.cut()
        generation.cut()
        self.assertEqual([(0, 0), (0, "cut")], self.ear.heard)
        self.assertEqual(["cut"], self.endings)
        self.assertEqual([], self.clock.getDelayedCalls())


class EngineTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Set up an engine with two seats."""
        self.clock = Clock()
        self.counts: list[tuple[int, int]] = []
        self.ended: list[Generation] = []
        self.engine = Engine(
            2,
            lambda running, waiting: self.counts.append((running, waiting)),
            lambda generation, _: self.ended.append(generation),
        )

    def submit(self, tokens: int) -> Ear:
        """Submit a generation of one token a second."""
        ear = Ear(self.clock)
        self.engine.submit(
            Generation(self.clock, ear, token_count=tokens, prompt_seconds=1, token_seconds=1)
        )
        return ear

    def test_seats(self) -> None:
        """Beyond the seats a sequence waits until one is free, in order, and is never refused."""
        ears = [self.submit(2) for _ in range(4)]
        self.assertEqual((2, 2), self.counts[-1])
        self.clock.pump([1] * 4)
        self.assertEqual([1, 1, 3, 3], [ear.heard[0][0] for ear in ears])
        self.assertEqual((0, 0), self.counts[-1])
        self.assertEqual(4, len(self.ended))

    def test_drop(self) -> None:
        """A dropped engine cuts what runs and what waits, and starts nothing more."""
        ears = [self.submit(2) for _ in range(3)]
        self.assertEqual(3, self.engine.drop())
        self.assertEqual([[(0, "cut")]] * 3, [ear.heard for ear in ears])
        self.assertEqual((0, 0), self.counts[-1])
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_drop_of_what_nobody_waits_for(self) -> None:
        """Of what is dropped only that counts which somebody still listens to."""
        ear = Ear(self.clock)
        left = Generation(self.clock, ear, token_count=2, prompt_seconds=0, token_seconds=1)
        self.engine.submit(left)
        self.submit(2)
        left.abandon()
        self.assertEqual(1, self.engine.drop())
        self.assertEqual([(0, 0)], ear.heard)
