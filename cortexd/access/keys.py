"""A key: what the requests with it may do, and how much."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from cortexd.access.requesters import Priority


class Scope(StrEnum):
    """A kind of route: ``infer`` answers from models, ``read`` shows the fleet's state, ``control``
    changes it.
    """

    INFER = "infer"
    READ = "read"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """How much the requests with a key may do together; ``None`` for no limit.

    ``token_budget`` counts prompts and answers, in a day that begins at midnight UTC, or with
    ``budget_hours`` in so many hours before each request.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None
    token_budget: int | None = None
    budget_hours: float | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """One key, as the keys file has it.

    ``id`` is the part of the key by which it is found, and ``hash`` that of the whole key, in the
    PHC string format. Until ``former_until`` (unix seconds) the key before the last rotation is
    valid too, with ``former_id`` and ``former_hash``. ``models`` are globs over the names of
    models; ``("*",)`` means all. ``expires`` is in unix seconds, ``None`` for never.
    """

    name: str
    id: str
    hash: str
    scopes: frozenset[Scope] = frozenset((Scope.INFER, Scope.READ))
    models: tuple[str, ...] = ("*",)
    limits: KeyLimits = field(default_factory=KeyLimits)
    priority: Priority = Priority.DEFAULT
    weight: float = 1.0
    expires: float | None = None
    former_id: str | None = None
    former_hash: str | None = None
    former_until: float | None = None

    def allows(self, model: str) -> bool:
        """Whether a model of this name may be used and seen."""
        return any(fnmatchcase(model, glob) for glob in self.models)
