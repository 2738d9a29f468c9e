"""The made trace `platform`: the demand of a platform on which many users try many models.

Its parameters are fitted to twelve recorded days of such a platform (docs/scheduling.md has the
table of the fit); no recorded call is in it. A user comes for a *visit*, which has *sessions* with
one model each, of some requests.

- Days are busy or quiet, and stay so for some days. Each hour of a day has its share of the visits.
- Most visits are a user's first. The others are those of users who have come before, more likely of
  those who have come often.
- Most visits are to a few favourites, whose shares are stable; the first session of a visit has
  other shares than the later ones, which repeat a model of the same visit now and then.
- In an exploring visit about every second session is with a model of the long tail, whose
  popularity wanders from day to day.
- On most busy days a tester goes through the tail in several bouts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bench.simulator.fleets import numbered_models, seeded
from bench.simulator.traces import DAY_SECONDS, Size, Timetable
from bench.simulator.world import Call, Trace

NODES, MODELS, HOURS = 3, 74, 288.0

BUSY_VISITS, QUIET_VISITS = 320.0, 22.0
"""Visits of a day, where there are three nodes; those of busy days scatter by BUSY_SPREAD."""
BUSY_SPREAD: Final = 0.06
BECOMES_QUIET, STAYS_QUIET = 0.1, 0.6

HOUR_SHARES: Final = (
    *(0.085, 0.105, 0.024, 0.039, 0.138, 0.145, 0.151, 0.158, 0.039, 0.028, 0.030, 0.013),
    *(0.007, 0.009, 0.003, 0.003, 0.001, 0.001, 0.001, 0.000, 0.000, 0.000, 0.001, 0.019),
)

FIRST_SHARES: Final = (0.509, 0.114, 0.084, 0.080, 0.058, 0.035, 0.036, 0.031, 0.027, 0.026)
LATER_SHARES: Final = (0.164, 0.146, 0.140, 0.134, 0.095, 0.073, 0.083, 0.069, 0.058, 0.038)
"""Of the favourites: their shares in the first sessions of visits, and in the later ones."""

TAIL_DECAY: Final = 0.075
"""By how much less, as a natural logarithm, each model of the tail is asked than the one before."""
WANDER, WANDER_KEPT = 0.2, 0.8

FIRST_VISIT: Final = 0.8
EXPLORES: Final = 0.15
ANOTHER_SESSION, ANOTHER_EXPLORED = 0.39, 0.72
TAIL_EXPLORED: Final = 0.53
REPEATED: Final = 0.18
TEST_DAY: Final = 0.85
TEST_BOUTS: Final = (1, 5)
TAIL_TESTED: Final = 0.6

SESSION_LENGTH: Final = (0.30, 1.0)
BOUT_LENGTH: Final = (1.6, 1.1)
REQUEST_GAP: Final = (4.24, 0.88)
SESSION_GAP: Final = (5.08, 1.33)
TOKENS: Final = (7.0, 0.39)
TOKENS_OF_MODEL: Final = 0.45
"""Logarithms of requests in a session, of sessions in a tester's bout, of seconds and of tokens:
mean and deviation."""

LONGEST_REQUEST_GAP, LONGEST_SESSION_GAP = 600.0, 3600.0
MOST_REQUESTS: Final = 150
MOST_SESSIONS: Final = 80
TESTER: Final = "tester"


@dataclass(frozen=True, slots=True)
class _Models:
    """The models of one day, with the weights of the tail, and each one's mean of log tokens."""

    favourites: tuple[str, ...]
    tail: tuple[str, ...]
    weights: tuple[float, ...]
    log_tokens: dict[str, float]

    def favourite(self, chance: random.Random, shares: tuple[float, ...]) -> str:
        """Choose a favourite by its share."""
        return chance.choices(self.favourites, shares[: len(self.favourites)])[0]

    def tail_or_favourite(self, chance: random.Random, tail_share: float) -> str:
        """Choose a model of the tail by its popularity, with such a probability, or a favourite."""
        if self.tail and chance.random() < tail_share:
            return chance.choices(self.tail, self.weights)[0]
        return self.favourite(chance, LATER_SHARES)


class _Platform:
    """Makes the calls of one day after the other."""

    def __init__(self, models: int, scale: float, seed: object) -> None:
        self._chance = chance = seeded("platform", seed)
        self._scale = scale
        ids = numbered_models(models)
        chance.shuffle(ids)
        favourites = len(FIRST_SHARES)
        self._favourites, self._tail = tuple(ids[:favourites]), tuple(ids[favourites:])
        self._log_tokens = {name: chance.gauss(TOKENS[0], TOKENS_OF_MODEL) for name in ids}
        self._wandered = [chance.gauss(0, WANDER) for _ in self._tail]
        self._is_quiet = False
        self._visits: list[str] = []  # The user of each visit so far.
        self._users = 0

    def day(self, begin: float) -> list[Call]:
        """Make the calls of the visits of a day, some of which come after its end."""
        chance = self._chance
        models = self._models_of_day()
        visits = QUIET_VISITS
        if not self._is_quiet:
            visits = BUSY_VISITS * math.exp(chance.gauss(0, BUSY_SPREAD))
        calls: list[Call] = []
        for hour, share in enumerate(HOUR_SHARES):
            mean = visits * share * self._scale
            for _ in range(_poisson(mean, chance)):
                at = begin + (hour + chance.random()) * 3600
                calls += self._visit(at, models)
        if not self._is_quiet and chance.random() < TEST_DAY:
            for _ in range(chance.randint(*TEST_BOUTS)):
                hour = chance.choices(range(24), HOUR_SHARES)[0]
                calls += self._test(begin + (hour + chance.random()) * 3600, models)
        self._is_quiet = chance.random() < (STAYS_QUIET if self._is_quiet else BECOMES_QUIET)
        return calls

    def _models_of_day(self) -> _Models:
        chance = self._chance
        fresh = WANDER * math.sqrt(1 - WANDER_KEPT**2)
        self._wandered = [WANDER_KEPT * each + chance.gauss(0, fresh) for each in self._wandered]
        weights = tuple(
            math.exp(wandered - TAIL_DECAY * rank) for rank, wandered in enumerate(self._wandered)
        )
        return _Models(self._favourites, self._tail, weights, self._log_tokens)

    def _visit(self, at: float, models: _Models) -> Iterator[Call]:
        chance = self._chance
        user = self._user()
        explores = chance.random() < EXPLORES
        another = ANOTHER_EXPLORED if explores else ANOTHER_SESSION
        visited: list[str] = []
        while True:
            if visited and chance.random() < REPEATED:
                model = chance.choice(visited)
            elif explores:
                model = models.tail_or_favourite(chance, TAIL_EXPLORED)
            else:
                model = models.favourite(chance, LATER_SHARES if visited else FIRST_SHARES)
            visited.append(model)
            yield from self._session(at, user, model, models)
            if chance.random() >= another:
                return
            at += min(chance.lognormvariate(*SESSION_GAP), LONGEST_SESSION_GAP)

    def _user(self) -> str:
        if self._visits and self._chance.random() >= FIRST_VISIT:
            user = self._chance.choice(self._visits)
        else:
            user = f"user-{self._users}"
            self._users += 1
        self._visits.append(user)
        return user

    def _test(self, at: float, models: _Models) -> Iterator[Call]:
        chance = self._chance
        for _ in range(_drawn(BOUT_LENGTH, MOST_SESSIONS, chance)):
            is_tail = models.tail and chance.random() < TAIL_TESTED
            model = chance.choice(models.tail if is_tail else models.favourites)
            yield from self._session(at, TESTER, model, models)
            at += min(chance.lognormvariate(*SESSION_GAP), LONGEST_SESSION_GAP)

    def _session(self, at: float, user: str, model: str, models: _Models) -> Iterator[Call]:
        chance = self._chance
        for _ in range(_drawn(SESSION_LENGTH, MOST_REQUESTS, chance)):
            tokens = chance.lognormvariate(models.log_tokens[model], TOKENS[1])
            yield Call(at, user, model, max(1, round(tokens)))
            at += min(chance.lognormvariate(*REQUEST_GAP), LONGEST_REQUEST_GAP)


def _drawn(logarithms: tuple[float, float], most: int, chance: random.Random) -> int:
    """Draw a whole number from 1 to `most` whose logarithm has this mean and deviation."""
    return min(max(1, round(chance.lognormvariate(*logarithms))), most)


def _poisson(mean: float, chance: random.Random) -> int:
    """Return how many events there are where so many are expected."""
    events, at = 0, chance.expovariate(1.0)
    while at < mean:
        events += 1
        at += chance.expovariate(1.0)
    return events


def platform(size: Size) -> Trace:
    """Make the demand of a platform on which many users try many models, a third of which fit."""
    nodes, models, seconds = size.or_else(NODES, MODELS, HOURS)
    fleet = size.fleet(nodes, models, slots=max(1, models // nodes // 3))
    makes = _Platform(models, nodes / NODES, size.seed)
    calls = [
        call
        for day in range(math.ceil(seconds / DAY_SECONDS))
        for call in makes.day(day * DAY_SECONDS)
        if call.at <= seconds
    ]
    timetable = Timetable(tuple(sorted(calls, key=lambda call: call.at)))
    return Trace("platform", fleet, seconds, lambda: timetable)
