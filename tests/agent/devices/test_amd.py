from typing import NoReturn

from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.devices.amd import AmdSmi
from cortexd.agent.devices.library import NoDevices
from tests.doubles import amdsmi as doubles
from tests.doubles.amdsmi import Card


class AmdSmiTests(SynchronousTestCase):
    def library(self, *cards: Card) -> AmdSmi:
        self.module = doubles.AmdSmi(list(cards))
        return AmdSmi(lambda: self.module)

    def test_devices(self) -> None:
        """Each device has its memory in MiB, and that of each process."""
        seen = self.library(Card(used_mb=5_000, processes={7: 4_000, 8: 500})).look()

        assert "amdsmi" == seen.source
        (device,) = seen.devices
        assert ("Instinct MI300X", 196_592, 191_592) == (
            device.name,
            device.total_mb,
            device.free_mb,
        )
        assert {7: 4_000, 8: 500} == device.used

    def test_processes_untold(self) -> None:
        """Without permission, or with a driver that does not tell, processes are unknown."""
        for card in (Card(processes={7: "N/A"}), Card(failing={"process_list"})):
            assert self.library(card).look().devices[0].used is None

    def test_lost(self) -> None:
        """A device that fails is noted, and the others are told."""
        seen = self.library(Card(failing={"memory_total"}), Card()).look()

        assert 1 == len(seen.devices)
        assert ("device 0 cannot be read: Error code: 4 | AMDSMI_STATUS_NO_DRV",) == seen.notes
        assert not self.module.is_open

    def test_nothing_to_see(self) -> None:
        """Without ROCm, its driver or a device, the reason is told."""

        def missing() -> NoReturn:
            raise KeyError("ROCM_HOME")

        with self.assertRaises(NoDevices) as caught:
            AmdSmi(missing).look()
        assert "comes with ROCm" in str(caught.exception)
        for failing in ("init", "handles"):
            library = self.library(Card())
            self.module.failing.add(failing)
            with self.assertRaises(NoDevices):
                library.look()
        with self.assertRaises(NoDevices) as caught:
            self.library().look()
        assert "amdsmi finds no device" == str(caught.exception)

    def test_closed_once(self) -> None:
        """The library is opened and shut down once."""
        library = self.library(Card())
        library.look()
        library.look()
        library.close()
        library.close()

        assert not self.module.is_open
