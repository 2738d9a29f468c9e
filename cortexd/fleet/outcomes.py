"""How a node answers an order to load or to unload a model, or a question for its status."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class LifecycleStatus(enum.Enum):
    """A model's status as its node reports it, after an order or on a question."""

    LOADED = "loaded"
    UNLOADED = "unloaded"
    RELOADING = "reloading"
    NOT_FOUND = "not_found"
    NO_LOADER_CONFIG = "no_loader_config"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A node's answer to an order or to a question for a model's status.

    ``error`` is the first line of the node's own words, "" where it has none. ``out_of_memory``
    says whether all of its words speak of too little memory.
    """

    status: LifecycleStatus
    error: str = ""
    out_of_memory: bool = False
