"""Nobody waits for ever: a model that is asked for all the time gives way in its time."""

from collections.abc import Callable, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count, cycle, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.scheduling.events import StartLoad, StartUnload, Tick
from cortexd.scheduling.terms import SchedulingTerms
from tests.support.scheduling import World, setup

MAX_WAIT = 30.0
LOAD_SECONDS, UNLOAD_SECONDS = 5.0, 1.0

SOME_TIME = 47.0
"""How long the load has run before a model is asked for that is not loaded."""

GAPS = st.lists(st.sampled_from([1.0, 2.0, 5.0]), min_size=1, max_size=9)
LENGTHS = st.lists(st.floats(0.5, 25.0), min_size=1, max_size=9)
WIDE = 64
"""More slots than there are requests at a time: each wait is a wait for a load."""

PROPERTY = settings(max_examples=25, derandomize=True, database=None)


class Play:
    """A world in which time passes: requests come, answers end, loads and unloads take a while.

    Ticks come as the dispatcher has them: when a request that waits has done so for ``max_wait``.
    """

    def __init__(self, world: World, lengths: Sequence[float]) -> None:
        self.world = world
        self.lengths = cycle(lengths)
        self.began: dict[str, float] = {}
        self._actions: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()
        self._told = 0
        self._granted: set[str] = set()
        self.follow()

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Let something happen some seconds from now."""
        heappush(self._actions, (self.world.now + seconds, next(self._order), action))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.world.now + seconds
        while self._actions and self._actions[0][0] <= end:
            self.world.now, _, action = heappop(self._actions)
            action()
            self.follow()
        self.world.now = end

    def submit(self, model: str) -> str:
        """Ask for a model."""
        request_id = self.world.submit(model)
        if request_id not in self.world.leases:
            self.after(MAX_WAIT, partial(self.world.tell, Tick()))
        self.follow()
        return request_id

    def keep_asking(self, model: str, gaps: Sequence[float]) -> None:
        """Ask for a model again and again."""
        pauses = cycle(gaps)

        def ask() -> None:
            self.submit(model)
            self.after(next(pauses), ask)

        ask()

    def follow(self) -> None:
        """Let everything that has begun end in its time; note when a swap began for each model."""
        world = self.world
        new, self._told = world.effects[self._told :], len(world.effects)
        for swap in world.scheduler.swaps:
            if swap.target is not None and swap.moving is not None:
                self.began.setdefault(swap.target.model, world.now)
        for effect in new:
            if isinstance(effect, StartLoad | StartUnload):
                seconds = LOAD_SECONDS if isinstance(effect, StartLoad) else UNLOAD_SECONDS
                self.after(seconds, partial(world.finish, effect.node))
        for request_id in [name for name in world.leases if name not in self._granted]:
            self._granted.add(request_id)
            self.after(next(self.lengths), partial(world.end, request_id))


def busy(nodes: int, hot: int, rare: int, size: int, capacity: int) -> World:
    """Return full nodes, each with models of its own that are loaded, and models for which room
    must be made.
    """
    names = {
        f"node{number}": [f"hot{number}{nth}" for nth in range(hot)] for number in range(nodes)
    }
    hot_sizes = dict.fromkeys([model for models in names.values() for model in models], 20 // hot)
    rare_sizes = dict.fromkeys([f"rare{number}" for number in range(rare)], size)
    return World(
        setup(
            dict.fromkeys(names, 20),
            {**hot_sizes, **rare_sizes},
            names,
            capacity=capacity,
            terms=SchedulingTerms(max_queue=40, max_wait=MAX_WAIT),
        )
    )


class StarvationTests(SynchronousTestCase):
    @PROPERTY
    @given(GAPS, LENGTHS, st.integers(1, 3))
    def test_one_model_under_constant_load(
        self, gaps: list[float], lengths: list[float], capacity: int
    ) -> None:
        """A swap for another begins within ``max_wait`` plus the longest answer."""
        play = Play(busy(1, 1, 1, size=15, capacity=capacity), lengths)
        play.keep_asking("hot00", gaps)
        play.run(SOME_TIME)
        asked_at = play.world.now
        play.submit("rare0")
        play.run(MAX_WAIT + max(lengths))

        assert "rare0" in play.began
        assert play.began["rare0"] <= asked_at + MAX_WAIT + max(lengths)

    @PROPERTY
    @given(
        GAPS, LENGTHS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 20)
    )
    def test_many(
        self, gaps: list[float], lengths: list[float], nodes: int, hot: int, rare: int, size: int
    ) -> None:
        """With several nodes and models it is the same for the first, and each has its turn."""
        play = Play(busy(nodes, hot, rare, size, WIDE), lengths)
        for number in range(nodes):
            for nth in range(hot):
                play.keep_asking(f"hot{number}{nth}", gaps)
        play.run(SOME_TIME)
        asked_at = play.world.now
        for number in range(rare):
            play.submit(f"rare{number}")
        longest, turn = max(lengths), LOAD_SECONDS + hot * UNLOAD_SECONDS + max(lengths)
        play.run(MAX_WAIT + longest + (rare - 1) * turn)

        for number in range(rare):
            waited = play.began[f"rare{number}"] - asked_at
            assert waited <= MAX_WAIT + longest + number * turn

    @PROPERTY
    @given(GAPS, LENGTHS)
    def test_and_back(self, gaps: list[float], lengths: list[float]) -> None:
        """Two models that are both asked for all the time take turns; nobody waits for two."""
        play = Play(busy(1, 1, 1, size=15, capacity=WIDE), lengths)
        for model in ("hot00", "rare0"):
            play.keep_asking(model, gaps)
        swap = max(lengths) + LOAD_SECONDS + UNLOAD_SECONDS
        turn = max(MAX_WAIT, swap) + swap
        play.run(6 * turn)

        loads = [line for line in play.world.started() if line.startswith("load")]
        assert 2 <= len(loads)
        assert all(first != second for first, second in pairwise(loads))
        assert max(grant.queued_seconds for grant in play.world.grants.values()) <= turn
