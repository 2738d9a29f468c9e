"""The interface of a library that tells the memory of accelerators, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cortexd.fleet.agents import Device

BY_BUS: Final = "PCI_BUS_ID"
"""The value of CUDA_DEVICE_ORDER with which CUDA numbers devices as NVML does."""

VISIBLE: Final = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""The variables that limit a process to some devices: CUDA's, and those of ROCm."""


class NoDevices(Exception):
    """Raised when a library cannot tell anything; the message says why, and what would help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSeen:
    """One accelerator, as its library tells it.

    ``used`` has the MiB of each process by its number, ``None`` where the driver does not tell.
    ``is_part``: it is one of the parts into which a device has been divided.
    """

    name: str
    uuid: str
    total_mb: int
    free_mb: int
    used: Mapping[int, int] | None
    is_part: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicesSeen:
    """All accelerators of the machine, and what could not be seen of them."""

    source: str
    devices: tuple[DeviceSeen, ...]
    notes: tuple[str, ...] = ()


class Library(Protocol):
    """A library. Its methods block, and a hanging driver may never return from one."""

    source: str

    def look(self) -> DevicesSeen:
        """Return what the accelerators have now. Raises NoDevices."""

    def close(self) -> None:
        """Give the library back; a later look opens it again."""


def visible(
    seen: Sequence[DeviceSeen], environment: Mapping[str, str]
) -> tuple[tuple[DeviceSeen, ...], str]:
    """Return the devices that a process with these variables can use, and a note if that is unsure.

    CUDA numbers devices by their speed unless it is told otherwise, so a number means something
    here only if it does not matter which device it is. Without a choice, CUDA uses whole devices,
    or else the first of the parts.
    """
    chosen = next((environment[name] for name in VISIBLE if name in environment), None)
    if chosen is None:
        whole = tuple(device for device in seen if not device.is_part)
        return (whole or tuple(seen[:1])), ""
    found: dict[str, DeviceSeen] = {}
    for word in (word.strip() for word in chosen.split(",")):
        if word.lstrip("-").isdecimal():
            if not 0 <= int(word) < len(seen):
                break  # CUDA ignores what follows a number that is none.
            found[seen[int(word)].uuid] = seen[int(word)]
        else:
            named = [device for device in seen if word and device.uuid.startswith(word)]
            if len(named) != 1:
                break
            found[named[0].uuid] = named[0]
    distinct = tuple(found.values())
    is_number = any(word.strip().isdecimal() for word in chosen.split(","))
    differ = len({(device.name, device.total_mb) for device in seen}) > 1
    if is_number and differ and environment.get("CUDA_DEVICE_ORDER") != BY_BUS:
        return distinct, (
            "the engine's CUDA_VISIBLE_DEVICES has numbers, which may mean other devices here: set "
            "CUDA_DEVICE_ORDER=PCI_BUS_ID for the engine, or name the devices by their UUIDs"
        )
    return distinct, ""


def narrowed(
    usable: Sequence[DeviceSeen], pids: Collection[int], count: int | None
) -> tuple[tuple[DeviceSeen, ...], str]:
    """Return the devices that an engine uses which says that it has ``count`` of them.

    Its environment may not be readable, so there may be more. Then those with memory of the
    engine's processes are its own, if they are as many; otherwise none can be told from the others,
    which the note says. ``None``: the engine has not said how many it has.
    """
    if count is None or count >= len(usable):
        return tuple(usable), ""
    own = tuple(
        device for device in usable if any(pid in pids for pid, size in (device.used or {}).items())
    )
    if len(own) == count:
        return own, ""
    return (), (
        f"the engine uses {count} of {len(usable)} accelerators, and the agent cannot see which: "
        "run it as root or as the engine's user, so that it sees the engine's environment"
    )


def shared_out(
    seen: Sequence[DeviceSeen], pids: Collection[int], exists: Callable[[int], bool]
) -> tuple[Device, ...]:
    """Return the devices, with the memory of the engine's processes apart from that of others.

    ``exists`` says whether a process of that number is known here. A driver may number processes as
    another namespace does: if none of the engine's is among its numbers, and some of the others are
    unknown here, nothing can be told. Without ``pids`` nothing can be told either.
    """
    numbers = {pid for device in seen for pid in device.used or ()}
    is_told = bool(pids) and (bool(numbers & set(pids)) or all(map(exists, numbers)))
    return tuple(_shared_out(device, pids, is_told) for device in seen)


def _shared_out(seen: DeviceSeen, pids: Collection[int], is_told: bool) -> Device:
    engine = others = None
    if is_told and seen.used is not None:
        engine = sum(size for pid, size in seen.used.items() if pid in pids)
        others = sum(size for pid, size in seen.used.items() if pid not in pids)
    return Device(
        name=seen.name,
        total_mb=seen.total_mb,
        free_mb=seen.free_mb,
        engine_mb=engine,
        others_mb=others,
    )
