"""How long the load of a model takes on a node, cold and warm apart, each with its spread.

A load is *warm* if the node's page cache still has the weights from the last time, and *cold* if
they come from the disk. Nodes do not say which, so that it is guessed before a load and judged
after it:

- before: a load is warm if the node has loaded the model before, not longer than ``WARM_SECONDS``
  ago and not in an earlier process, and has not loaded so much since that its cache has lost it
  (``page_cache``);
- after: a load belongs to the kind to whose time its own is nearer. Where only one kind is known,
  it is that one, unless the load was ``SPLIT`` times faster than a cold one or slower than a warm
  one: a node whose cache saves nothing has one kind of loads, by whatever name.

Where a model has not been loaded on a node yet, its time follows from what is known, the best
first: the time of the other kind there, by how the two differ on the node; the loads of other
nodes, by how fast the nodes are; the size of the model, by how fast the node is; or else a time is
assumed. A node is as fast as its loads were, in seconds for each MiB; the *work* of a model is how
many MiB its loads seem to have on an average node.

Pure: ``now`` is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import log
from typing import Final

from cortexd.fleet.learning.page_cache import PageCache
from cortexd.fleet.learning.timing import UNTIMED, WINDOW, Timing
from cortexd.fleet.nodes import ReplicaKey
from cortexd.values import value

WARM_SECONDS: Final = 6 * 3600.0
"""How long after a load the weights are expected in the node's page cache at most."""

SPLIT: Final = 1.7
"""How many times a load must be faster or slower than those of one kind to begin the other kind."""

UNSURE: Final = 0.3
"""The relative spread of a time that follows from other loads, at least."""

LEAST_SECONDS: Final = 1e-3
"""As shorter no load counts, so that times can be divided by each other."""

MOST_DEARNESS: Final = 4.0
"""How many times dearer than others of its size a model counts at most."""

ASSUMED_LOAD_SECONDS: Final = 30.0
"""The assumed duration of a load where nothing is known."""


@value
class LoadTime:
    """What loads of one model on one node took, in seconds, by kind.

    ``process`` is when the process of the node started that loaded the model last, in Unix seconds,
    ``None`` if the node does not tell.
    """

    cold: Timing = UNTIMED
    warm: Timing = UNTIMED
    process: int | None = None

    def of(self, *, is_warm: bool) -> Timing:
        """Return the times of one kind."""
        return self.warm if is_warm else self.cold


UNKNOWN_TIME: Final = LoadTime()


@value
class LoadEstimate:
    """How long a load is expected to take: ``seconds``, give or take ``deviation``.

    ``is_measured``: loads of this model have been seen, on this or on another node.
    """

    seconds: float
    deviation: float
    is_measured: bool
    is_warm: bool


@dataclass(slots=True)
class _Pace:
    """The seconds for each MiB of one node, or of all, by kind.

    ``contrasts`` are how many times longer cold loads of one model took than warm ones.
    """

    cold: Timing = UNTIMED
    warm: Timing = UNTIMED
    contrasts: Timing = UNTIMED

    def of(self, *, is_warm: bool) -> Timing:
        return self.warm if is_warm else self.cold

    def take(self, pace: float, *, is_warm: bool) -> None:
        if is_warm:
            self.warm = self.warm.with_time(pace)
        else:
            self.cold = self.cold.with_time(pace)

    @property
    def contrast(self) -> float | None:
        """How many times longer a cold load takes than a warm one, ``None`` if not known."""
        return self.contrasts.mean if self.contrasts.count else None


@dataclass(slots=True)
class _Last:
    """The last load of a model on a node: its process, and when, if more than that is known."""

    process: int | None
    at: float | None


@dataclass(slots=True)
class _Lessons:
    """What is known of one model: its times by node, its last loads, and its work by kind."""

    times: dict[str, LoadTime] = field(default_factory=dict)
    last: dict[str, _Last] = field(default_factory=dict)
    cold_work: Timing = UNTIMED
    warm_work: Timing = UNTIMED

    def work(self, *, is_warm: bool) -> Timing:
        return self.warm_work if is_warm else self.cold_work


class LoadTimes:
    """The times of the loads of every model on every node."""

    def __init__(self) -> None:
        self._lessons: dict[str, _Lessons] = {}
        self._paces: dict[str, _Pace] = {}
        self._caches: dict[str, PageCache] = {}
        self._usual = _Pace()
        self._all = UNTIMED

    def remember(self, learned: Mapping[ReplicaKey, LoadTime]) -> None:
        """Add what an earlier run of the daemon has learned."""
        for (node, model), known in learned.items():
            self._lessons_of(model).times[node] = known
            if known.process is not None:
                self._put(node, model, _Last(known.process, None), 0)

    def _lessons_of(self, model: str) -> _Lessons:
        lessons = self._lessons.get(model)
        if lessons is None:
            lessons = self._lessons[model] = _Lessons()
        return lessons

    def known(self, node: str, model: str) -> LoadTime | None:
        """Return what loads of a model on this node have shown, ``None`` without a load."""
        lessons = self._lessons.get(model)
        return lessons.times.get(node) if lessons is not None else None

    def note_resident(
        self, node: str, model: str, process: int | None, size_mb: int | None
    ) -> None:
        """Note that a model is loaded in a process of a node, whoever has loaded it."""
        last = self._lessons_of(model).last.get(node)
        if last is None or last.process != process:
            self._put(node, model, _Last(process, None), size_mb or 0)

    def _put(self, node: str, model: str, last: _Last, size_mb: int) -> None:
        """Note a load of a model on a node, the last one of all there."""
        self._lessons_of(model).last[node] = last
        cache = self._caches.get(node)
        if cache is None:
            cache = self._caches[node] = PageCache()
        cache.put(model, size_mb)

    def learn(
        self,
        node: str,
        model: str,
        seconds: float,
        now: float,
        *,
        size_mb: int | None = None,
        process: int | None = None,
    ) -> LoadTime:
        """Learn from a load that ended ``now``, and return what is known of it on the node.

        ``size_mb`` is the footprint of the model there, ``None`` if unknown.
        """
        seconds = max(seconds, LEAST_SECONDS)
        lessons = self._lessons_of(model)
        before = lessons.times.get(node, UNKNOWN_TIME)
        pace = self._paces.get(node)
        if pace is None:
            pace = self._paces[node] = _Pace()
        is_expected_warm = self.is_warm(node, model, now, process)
        is_warm = _judged(before, seconds, is_expected_warm=is_expected_warm)
        cache, last = self._caches.get(node), lessons.last.get(node)
        if cache is not None and last is not None:
            if last.process != process and cache.has(model):
                cache.outlives_process = is_warm
            if last.process == process or cache.outlives_process:
                cache.learn(model, was_warm=is_warm)
        self._put(node, model, _Last(process, now), size_mb or 0)
        timing = before.of(is_warm=is_warm).with_time(seconds)
        after = (
            LoadTime(before.cold, timing, process)
            if is_warm
            else LoadTime(timing, before.warm, process)
        )
        lessons.times[node] = after
        if after.cold.count and after.warm.count:
            for each in (pace, self._usual):
                each.contrasts = each.contrasts.with_time(after.cold.mean / after.warm.mean)
        self._all = self._all.with_time(seconds)
        if size_mb:
            self._learn_pace(lessons, pace, seconds, size_mb, is_warm=is_warm)
        return after

    def _learn_pace(
        self, lessons: _Lessons, pace: _Pace, seconds: float, size_mb: int, *, is_warm: bool
    ) -> None:
        for each in (pace, self._usual):
            each.take(seconds / size_mb, is_warm=is_warm)
        work = seconds / pace.of(is_warm=is_warm).mean
        if is_warm:
            lessons.warm_work = lessons.warm_work.with_time(work)
        else:
            lessons.cold_work = lessons.cold_work.with_time(work)

    def is_warm(self, node: str, model: str, now: float, process: int | None) -> bool:
        """Return whether a load that begins now is expected to be warm."""
        lessons = self._lessons.get(model)
        last = lessons.last.get(node) if lessons is not None else None
        cache = self._caches.get(node)
        if last is None or cache is None:
            return False
        if last.process != process and not cache.outlives_process:
            return False
        if last.at is not None and now - last.at > WARM_SECONDS:
            return False
        return cache.has(model)

    def expected(
        self,
        node: str,
        model: str,
        now: float,
        *,
        size_mb: int | None = None,
        process: int | None = None,
    ) -> LoadEstimate:
        """Return how long a load that begins now is expected to take."""
        is_warm = self.is_warm(node, model, now, process)
        lessons = self._lessons.get(model) or _Lessons()
        own = lessons.times.get(node, UNKNOWN_TIME)
        timing = own.of(is_warm=is_warm)
        if timing.count:
            return LoadEstimate(timing.mean, timing.deviation, True, is_warm)
        return self._derived(node, lessons, own, size_mb, is_warm=is_warm)

    def dearness(self, node: str, model: str, size_mb: int | None) -> float:
        """Return how many times longer a model loads for its size than others on the node.

        It is between 1 / ``MOST_DEARNESS`` and ``MOST_DEARNESS``, and 1 where too little is known.
        A model whose weights mostly lie in the page cache is cheap to load again, and one that
        comes over the network is dear.
        """
        own, here = self.known(node, model), self._paces.get(node)
        if own is None or here is None or not size_mb:
            return 1.0
        seconds, pace = _mean(own.cold, own.warm), _mean(here.cold, here.warm)
        if not seconds or not pace:
            return 1.0
        return min(MOST_DEARNESS, max(1.0 / MOST_DEARNESS, seconds / size_mb / pace))

    def _derived(
        self, node: str, lessons: _Lessons, own: LoadTime, size_mb: int | None, *, is_warm: bool
    ) -> LoadEstimate:
        """Return what follows for a load from those of another kind, node or model."""
        here = self._paces.get(node)
        contrast = here.contrast if here is not None else None
        if contrast is None:
            contrast = self._usual.contrast
        factor = 1.0 if contrast is None else (1.0 / contrast if is_warm else contrast)
        other = own.of(is_warm=not is_warm)
        if other.count and contrast is not None:
            return _unsure(other.mean * factor, is_warm=is_warm)
        pace = self._pace(node, is_warm=is_warm)
        work = lessons.work(is_warm=is_warm)
        if work.count and pace is not None:
            return _unsure(work.mean * pace, is_warm=is_warm)
        if other.count:
            return _unsure(other.mean, is_warm=is_warm)
        other_pace = self._pace(node, is_warm=not is_warm)
        other_work = lessons.work(is_warm=not is_warm)
        if other_work.count and other_pace is not None:
            return _unsure(other_work.mean * other_pace * factor, is_warm=is_warm)
        seen = [each for each in lessons.times.values() if each.cold.count or each.warm.count]
        if seen:
            # Of unknown size, so that nodes cannot be compared.
            mean = max(max(each.cold.mean, each.warm.mean) for each in seen)
            return _unsure(mean, is_warm=is_warm)
        if size_mb and pace is not None:
            return _unsure(size_mb * pace, is_warm=is_warm, is_measured=False)
        if size_mb and other_pace is not None:
            return _unsure(size_mb * other_pace * factor, is_warm=is_warm, is_measured=False)
        seconds = self._all.mean if self._all.count else ASSUMED_LOAD_SECONDS
        return LoadEstimate(seconds, seconds, False, is_warm)

    def _pace(self, node: str, *, is_warm: bool) -> float | None:
        """Return the seconds for each MiB of a node, or else of all, ``None`` if unknown."""
        here = self._paces.get(node)
        for known in (here, self._usual):
            if known is not None and known.of(is_warm=is_warm).count:
                return known.of(is_warm=is_warm).mean
        return None


def _mean(cold: Timing, warm: Timing) -> float:
    """Return the mean of the last loads of both kinds, 0 without a load."""
    colds, warms = min(cold.count, WINDOW), min(warm.count, WINDOW)
    loads = colds + warms
    return (cold.mean * colds + warm.mean * warms) / loads if loads else 0.0


def _unsure(seconds: float, *, is_warm: bool, is_measured: bool = True) -> LoadEstimate:
    return LoadEstimate(seconds, UNSURE * seconds, is_measured, is_warm)


def _judged(known: LoadTime, seconds: float, *, is_expected_warm: bool) -> bool:
    """Return whether a load was warm, by how long it took."""
    cold, warm = known.cold, known.warm
    if cold.count and warm.count:
        if cold.mean < SPLIT * warm.mean:
            return is_expected_warm
        return abs(log(seconds / warm.mean)) < abs(log(seconds / cold.mean))
    if cold.count:
        return cold.mean > SPLIT * seconds
    if warm.count:
        return seconds <= SPLIT * warm.mean
    return is_expected_warm
