"""NVIDIA's accelerators, through NVML and its module ``pynvml`` (the package nvidia-ml-py).

The module's classes of errors are made when it is imported, one for each code of NVML.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from cortexd.agent.devices.library import DeviceSeen, DevicesSeen, NoDevices
from cortexd.text import scrubbed

MEBIBYTE: Final = 1024 * 1024
INSTALL: Final = "pip install 'cortexd[nvml]'"


class Nvml:
    """A library (see there); ``load`` imports the module."""

    source = "nvml"

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._module: Any = None
        self._is_open = False
        self._is_broken = False

    def look(self) -> DevicesSeen:
        """Return what the accelerators have now. Raises NoDevices."""
        self._open()
        module = self._module
        notes: list[str] = []
        self._is_broken = False
        try:
            count = module.nvmlDeviceGetCount()
            devices = [seen for index in range(count) for seen in self._device(index, notes)]
        except module.NVMLError as error:
            self.close()  # A driver that was replaced under us needs a new beginning.
            raise NoDevices(f"NVML: {scrubbed(str(error))}") from None
        if self._is_broken:
            self.close()
        if count == 0:
            raise NoDevices("NVML finds no device")
        return DevicesSeen(source=self.source, devices=tuple(devices), notes=tuple(notes))

    def close(self) -> None:
        """Give NVML back."""
        if self._is_open:
            self._is_open = False
            try:
                self._module.nvmlShutdown()
            except self._module.NVMLError:
                return  # It is as closed as it can be.

    def _open(self) -> None:
        if self._is_open:
            return
        if self._module is None:
            try:
                self._module = self._load()
            except ImportError:
                raise NoDevices(f"the package nvidia-ml-py is not installed: {INSTALL}") from None
        try:
            self._module.nvmlInit()
        except self._module.NVMLError as error:
            raise NoDevices(f"NVML: {scrubbed(str(error))}") from None
        self._is_open = True

    def _device(self, index: int, notes: list[str]) -> Iterator[DeviceSeen]:
        """Yield a device, or the parts into which it is divided; note what it does not tell."""
        module = self._module
        try:
            handle = module.nvmlDeviceGetHandleByIndex(index)
            if self._is_divided(handle):
                yield from self._parts(handle)
                return
            yield self._read(handle, is_part=False)
        except module.NVMLError_NotSupported:
            notes.append(f"device {index} shares the machine's memory, which NVML does not tell")
        except module.NVMLError as error:
            self._is_broken = True
            notes.append(f"device {index} cannot be read: {scrubbed(str(error))}")

    def _is_divided(self, handle: Any) -> bool:
        module = self._module
        try:
            current, _ = module.nvmlDeviceGetMigMode(handle)
        except (module.NVMLError_NotSupported, module.NVMLError_FunctionNotFound):
            return False
        return bool(current == 1)

    def _parts(self, handle: Any) -> Iterator[DeviceSeen]:
        module = self._module
        for index in range(module.nvmlDeviceGetMaxMigDeviceCount(handle)):
            try:
                part = module.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            except (module.NVMLError_NotFound, module.NVMLError_InvalidArgument):
                continue  # This part has not been made.
            yield self._read(part, is_part=True)

    def _read(self, handle: Any, is_part: bool) -> DeviceSeen:
        module = self._module
        memory = module.nvmlDeviceGetMemoryInfo(handle)
        return DeviceSeen(
            name=_text(module.nvmlDeviceGetName(handle)),
            uuid=_text(module.nvmlDeviceGetUUID(handle)),
            total_mb=memory.total // MEBIBYTE,
            free_mb=memory.free // MEBIBYTE,
            used=self._used(handle),
            is_part=is_part,
        )

    def _used(self, handle: Any) -> dict[int, int] | None:
        """Return the MiB of each process, ``None`` if the driver does not tell that of all.

        A process that computes and draws is in both lists, each time with all its memory.
        """
        processes = self._running("Compute", handle)
        if processes is None:
            return None
        # A card that cannot draw may not know this question.
        processes += self._running("Graphics", handle) or []
        used: dict[int, int] = {}
        for process in processes:
            if process.usedGpuMemory is None:
                return None
            size = process.usedGpuMemory // MEBIBYTE
            used[process.pid] = max(size, used.get(process.pid, 0))
        return used

    def _running(self, kind: str, handle: Any) -> list[Any] | None:
        """Return the processes of one kind, ``None`` if the driver does not tell them.

        The third version of the question came with driver 510, and older modules lack the second.
        The module's function without a version fails in another way if the driver is older.
        """
        module = self._module
        for version in ("v3", "v2"):
            ask = getattr(module, f"nvmlDeviceGet{kind}RunningProcesses_{version}", None)
            if ask is None:
                continue
            try:
                return list(ask(handle))
            except module.NVMLError_FunctionNotFound:
                continue
            except module.NVMLError:
                return None
        return None


def _text(text: str | bytes) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text
