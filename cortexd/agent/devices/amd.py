"""AMD's accelerators, through ``amdsmi``, the module that comes with ROCm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from cortexd.agent.devices.library import DeviceSeen, DevicesSeen, NoDevices
from cortexd.text import scrubbed

MEBIBYTE: Final = 1024 * 1024


class AmdSmi:
    """A library (see there); ``load`` imports the module."""

    source = "amdsmi"

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._module: Any = None
        self._is_open = False

    def look(self) -> DevicesSeen:
        """Return what the accelerators have now. Raises NoDevices."""
        self._open()
        module = self._module
        notes: list[str] = []
        devices: list[DeviceSeen] = []
        try:
            handles = module.amdsmi_get_processor_handles()
        except module.AmdSmiException as error:
            self.close()
            raise NoDevices(f"amdsmi: {_words(error)}") from None
        for index, handle in enumerate(handles):
            try:
                devices.append(self._read(handle))
            except module.AmdSmiException as error:
                notes.append(f"device {index} cannot be read: {_words(error)}")
        if notes:
            self.close()
        if not handles:
            raise NoDevices("amdsmi finds no device")
        return DevicesSeen(source=self.source, devices=tuple(devices), notes=tuple(notes))

    def close(self) -> None:
        """Give the library back."""
        if self._is_open:
            self._is_open = False
            try:
                self._module.amdsmi_shut_down()
            except self._module.AmdSmiException:
                return  # It is as closed as it can be.

    def _open(self) -> None:
        if self._is_open:
            return
        if self._module is None:
            try:
                self._module = self._load()
            except Exception as error:  # without ROCm's library, its import fails in many ways
                words = "the package amdsmi, which comes with ROCm, cannot be used"
                raise NoDevices(f"{words}: {_words(error)}") from None
        try:
            self._module.amdsmi_init()
        except self._module.AmdSmiException as error:
            raise NoDevices(f"amdsmi: {_words(error)}") from None
        self._is_open = True

    def _read(self, handle: Any) -> DeviceSeen:
        module = self._module
        kind = module.AmdSmiMemoryType.VRAM
        total = module.amdsmi_get_gpu_memory_total(handle, kind)
        taken = module.amdsmi_get_gpu_memory_usage(handle, kind)
        return DeviceSeen(
            name=str(module.amdsmi_get_gpu_asic_info(handle)["market_name"]),
            uuid=module.amdsmi_get_gpu_device_uuid(handle),
            total_mb=total // MEBIBYTE,
            free_mb=max(0, total - taken) // MEBIBYTE,
            used=self._used(handle),
        )

    def _used(self, handle: Any) -> dict[int, int] | None:
        """Return the MiB of each process, ``None`` if the driver does not tell them."""
        module = self._module
        try:
            processes = module.amdsmi_get_gpu_process_list(handle)
        except module.AmdSmiException:
            return None
        used: dict[int, int] = {}
        for process in processes:
            size = process["memory_usage"]["vram_mem"]
            if not isinstance(size, int):
                return None  # "N/A"
            used[process["pid"]] = used.get(process["pid"], 0) + size // MEBIBYTE
        return used


def _words(error: Exception) -> str:
    """Return the words of an error on one line; the library writes them on two."""
    return scrubbed(" ".join(str(error).split()))
