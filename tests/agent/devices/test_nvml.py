from typing import NoReturn

from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.devices.library import NoDevices
from cortexd.agent.devices.nvml import Nvml
from tests.doubles import nvml as doubles
from tests.doubles.nvml import Card

COMPUTING = "nvmlDeviceGetComputeRunningProcesses_v3"
OLD_COMPUTING = "nvmlDeviceGetComputeRunningProcesses_v2"


class NvmlTests(SynchronousTestCase):
    def library(self, *cards: Card) -> Nvml:
        self.module = doubles.Nvml(list(cards))
        return Nvml(lambda: self.module)

    def test_devices(self) -> None:
        """Each device has its memory in MiB, and that of each process."""
        seen = self.library(Card(computing={7: 4_000}, drawing={1: 300}), Card(uuid="GPU-1")).look()

        assert "nvml" == seen.source
        assert () == seen.notes
        first, second = seen.devices
        assert ("NVIDIA RTX 4090", "GPU-0000", 24_564, 20_000) == (
            first.name,
            first.uuid,
            first.total_mb,
            first.free_mb,
        )
        assert {7: 4_000, 1: 300} == first.used
        assert {} == second.used

    def test_both_lists(self) -> None:
        """A process that computes and draws counts once."""
        seen = self.library(Card(computing={7: 4_000}, drawing={7: 4_000})).look()

        assert {7: 4_000} == seen.devices[0].used

    def test_opened_once(self) -> None:
        """Further looks do not open NVML again, which takes long."""
        library = self.library(Card())
        library.look()
        library.look()
        library.close()
        library.close()

        assert (1, False) == (self.module.opened, self.module.is_open)

    def test_processes_untold(self) -> None:
        """Some drivers, old libraries and lacking rights leave the memory of processes unknown."""
        for card in (
            Card(computing={7: None}),
            Card(failing={COMPUTING: "NotSupported"}),
            Card(failing={COMPUTING: "NoPermission"}),
            Card(failing={COMPUTING: "FunctionNotFound", OLD_COMPUTING: "FunctionNotFound"}),
        ):
            assert self.library(card).look().devices[0].used is None
        no_drawing = Card(
            computing={7: 1}, failing={"nvmlDeviceGetGraphicsRunningProcesses_v3": "NotSupported"}
        )
        assert {7: 1} == self.library(no_drawing).look().devices[0].used

    def test_older_driver(self) -> None:
        """A driver of before the newest form of the question answers the one before."""
        card = Card(computing={7: 4_000}, failing={COMPUTING: "FunctionNotFound"})

        assert {7: 4_000} == self.library(card).look().devices[0].used

    def test_lost(self) -> None:
        """A device that has fallen off the bus is noted, and the others are still told."""
        lost = Card(failing={"nvmlDeviceGetMemoryInfo": "GpuIsLost"})
        library = self.library(Card(), lost)

        seen = library.look()

        assert 1 == len(seen.devices)
        assert ("device 1 cannot be read: GPU is lost",) == seen.notes
        assert not self.module.is_open

    def test_it_comes_back(self) -> None:
        """After a loss the next look opens NVML again, for the device may be back."""
        card = Card(failing={"nvmlDeviceGetHandleByIndex": "Unknown"})
        library = self.library(card)
        library.look()
        card.failing.clear()

        assert 1 == len(library.look().devices)

    def test_shared_memory(self) -> None:
        """A device that shares the machine's memory is noted and left to the engine's figures."""
        library = self.library(Card(failing={"nvmlDeviceGetMemoryInfo": "NotSupported"}))

        seen = library.look()

        assert () == seen.devices
        assert "shares the machine's memory" in seen.notes[0]
        assert self.module.is_open

    def test_divided(self) -> None:
        """Of a divided device the parts that have been made are told."""
        part = Card(name="A100 MIG 1g.5gb", uuid="MIG-1", total_mb=4_864, free_mb=4_000)
        library = self.library(Card(parts=[None, part, None]))

        (device,) = library.look().devices

        assert ("MIG-1", 4_864, True) == (device.uuid, device.total_mb, device.is_part)

    def test_without_mig(self) -> None:
        """Devices and drivers that know no parts are whole."""
        for error in ("NotSupported", "FunctionNotFound"):
            library = self.library(Card(failing={"nvmlDeviceGetMigMode": error}))
            assert not library.look().devices[0].is_part

    def test_nothing_to_see(self) -> None:
        """Without package, driver or device, or with a replaced driver, the reason is told."""

        def missing() -> NoReturn:
            raise ModuleNotFoundError("No module named 'pynvml'")

        with self.assertRaises(NoDevices) as caught:
            Nvml(missing).look()
        assert "pip install 'cortexd[nvml]'" in str(caught.exception)
        for function, error, words in (
            ("nvmlInit", "LibraryNotFound", "NVML: NVML Shared Library Not Found"),
            ("nvmlInit", "DriverNotLoaded", "NVML: Driver Not Loaded"),
            (
                "nvmlDeviceGetCount",
                "LibRmVersionMismatch",
                "NVML: RM has detected an NVML/RM version mismatch.",
            ),
        ):
            library = self.library(Card())
            self.module.failing[function] = error
            with self.assertRaises(NoDevices) as caught:
                library.look()
            assert words == str(caught.exception)
        with self.assertRaises(NoDevices) as caught:
            self.library().look()
        assert "NVML finds no device" == str(caught.exception)
