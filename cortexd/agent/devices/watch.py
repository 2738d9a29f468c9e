"""Looks at the accelerators through the first library that works, in a thread of its own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred

from cortexd.agent.devices.amd import AmdSmi
from cortexd.agent.devices.library import DevicesSeen, Library, NoDevices
from cortexd.agent.devices.nvml import Nvml
from cortexd.agent.devices.thread import DriverThread, Hangs

LOOK_SECONDS: Final = 5.0
"""How long a library may take; a first look loads the driver."""

AGAIN_SECONDS: Final = 60.0
"""How long the agent waits before it tries libraries again of which none has worked."""


def libraries(source: str) -> tuple[Library, ...]:
    """Return the libraries that the key ``[gpu] source`` chooses, the first to be tried first."""
    known: dict[str, Callable[[], Library]] = {
        "nvml": lambda: Nvml(lambda: importlib.import_module("pynvml")),
        "amdsmi": lambda: AmdSmi(lambda: importlib.import_module("amdsmi")),
    }
    return tuple(make() for name, make in known.items() if source in ("auto", name))


class DeviceWatch:
    """Looks at all accelerators; ``driver`` makes the calls.

    ``notes`` says why nothing can be seen, and is empty while a library works.
    """

    def __init__(
        self,
        clock: Any,
        chosen: Sequence[Library],
        driver: DriverThread[DevicesSeen],
    ) -> None:
        self.notes: tuple[str, ...] = ()
        self._clock = clock
        self._libraries = chosen
        self._driver = driver
        self._working: Library | None = None
        self._again_at = 0.0

    def look(self) -> Deferred[DevicesSeen | None]:
        """Return what is seen now, ``None`` if no library tells anything. It never fails."""
        return Deferred.fromCoroutine(self._look())

    async def _look(self) -> DevicesSeen | None:
        if self._working is None and self._clock.seconds() < self._again_at:
            return None
        notes = []
        for library in [self._working] if self._working is not None else self._libraries:
            try:
                seen = await self._driver.call(library.look, LOOK_SECONDS)
            except (NoDevices, Hangs) as error:
                notes.append(str(error))
                if isinstance(error, Hangs):
                    break
            else:
                self._working, self.notes = library, seen.notes
                return seen
        self._working, self.notes = None, _untold(notes)
        self._again_at = self._clock.seconds() + AGAIN_SECONDS
        return None


def _untold(reasons: Sequence[str]) -> tuple[str, ...]:
    """Return the note that no library works, and why; none if none was chosen."""
    if not reasons:
        return ()
    return (f"no library tells the memory of accelerators: {'; '.join(reasons)}",)
