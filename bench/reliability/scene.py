"""A scene of `python -m bench.reliability`: a module of this folder with a function `run`.

``run(options)`` plays the scene once before the real daemon, and returns one ``Figure`` for each
thing that it measured. The module's docstring begins with one line that says what the scene does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value of a scene: it must not exceed ``bar``; ``None`` for no bar."""

    what: str
    value: float
    unit: str
    bar: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the value is within its bar."""
        return self.bar is None or self.value <= self.bar
