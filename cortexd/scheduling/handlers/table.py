"""What the parts of the scheduler hand to it: which method handles which event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Handlers = Mapping[type[Any], Callable[[Any, float], None]]
"""The handler of each type of event; it takes an event of that type, and ``now``."""
