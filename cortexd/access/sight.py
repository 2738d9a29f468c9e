"""What is there for a caller: the models that its key allows, and what it has stored; pure.

A model that a key does not allow is not there: no list has it, and no text names it. The rules over
a catalogue are in ``cortexd.fleet.catalogue``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

from cortexd.access.callers import Caller
from cortexd.access.keys import Scope

ALL: Final = "*"

HIDDEN: Final = "another model"
"""What stands in a text in place of the name of a model that is not there for its reader."""


def is_limited(caller: Caller) -> bool:
    """Whether there may be models that are not there for the caller."""
    return caller.key is not None and ALL not in caller.key.models


@lru_cache(maxsize=65_536)
def allowed(globs: tuple[str, ...], names: tuple[str, ...]) -> bool:
    """Whether globs match any of a model's names.

    What was found is remembered, because lists ask it of each model: the names must be those of a
    catalogue, and not a client's words, which have no end.
    """
    return any(fnmatchcase(name, glob) for name in names for glob in globs)


def owns(caller: Caller, owner: str) -> bool:
    """Whether the caller may read, continue and delete what ``owner`` has stored.

    An owner is the name of a key, empty for what was stored without a key. A caller reaches its own
    alone. What was stored without a key belongs to callers without one, and once keys are required
    to keys with the scope ``control``, or nobody could delete it.
    """
    return owner == caller.name or (not owner and caller.may(Scope.CONTROL))


def without_names(text: str, names: Iterable[str]) -> str:
    """Return a text with ``HIDDEN`` in place of each of these names that stands there as a word.

    A name that is a part of a longer name stays.
    """
    for name in sorted(names, key=len, reverse=True):
        pattern = rf"(?<![\w/@-])(?<![\w/@-][.:]){re.escape(name)}(?![\w/@-]|[.:][\w/@-])"
        text = re.sub(pattern, HIDDEN, text)
    return text
