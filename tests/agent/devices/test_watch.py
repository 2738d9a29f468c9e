from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.devices.library import DeviceSeen, DevicesSeen, NoDevices
from cortexd.agent.devices.thread import Hangs
from cortexd.agent.devices.watch import AGAIN_SECONDS, DeviceWatch, libraries

CARD = DeviceSeen(name="RTX", uuid="GPU-1", total_mb=100, free_mb=60, used={})

UNTOLD = "no library tells the memory of accelerators"


class Library:
    def __init__(self, source: str, lack: str = "") -> None:
        self.source = source
        self.lack = lack
        self.looks = 0

    def look(self) -> DevicesSeen:
        self.looks += 1
        if self.lack:
            raise NoDevices(self.lack)
        return DevicesSeen(source=self.source, devices=(CARD,))

    def close(self) -> None:
        """Nothing is open."""


class Driver:
    """A thread that calls at once, or hangs."""

    hangs = False

    def call(self, function: Callable[[], Any], limit: float) -> Deferred[Any]:
        if self.hangs:
            return fail(Hangs("the driver does not answer within 5 s"))
        try:
            return succeed(function())
        except NoDevices as error:
            return fail(error)


class DeviceWatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.driver: Any = Driver()

    def watch(self, *chosen: Library) -> DeviceWatch:
        return DeviceWatch(self.clock, chosen, self.driver)

    def look(self, watch: DeviceWatch) -> DevicesSeen | None:
        return self.successResultOf(watch.look())

    def test_choice(self) -> None:
        """The key chooses one library, all in their order, or none."""
        assert ["nvml", "amdsmi"] == [each.source for each in libraries("auto")]
        assert ["amdsmi"] == [each.source for each in libraries("amdsmi")]
        assert () == libraries("none")

    def test_first_that_works(self) -> None:
        """The first library that finds a device is the one that is asked from then on."""
        first, second = Library("nvml", "no driver"), Library("amdsmi")
        watch = self.watch(first, second)

        seen = [self.look(watch), self.look(watch)]

        assert ["amdsmi", "amdsmi"] == [each.source for each in seen if each]
        assert (1, 2, ()) == (first.looks, second.looks, watch.notes)

    def test_none_works(self) -> None:
        """If none works the reasons are noted, and a minute passes before the next try."""
        first, second = Library("nvml", "no driver"), Library("amdsmi", "no ROCm")
        watch = self.watch(first, second)

        assert self.look(watch) is None
        assert self.look(watch) is None
        assert (f"{UNTOLD}: no driver; no ROCm",) == watch.notes
        assert 1 == first.looks
        first.lack = ""
        self.clock.advance(AGAIN_SECONDS)
        assert self.look(watch) is not None
        assert [] == list(watch.notes)

    def test_hangs(self) -> None:
        """A driver that hangs is noted, and left alone for a minute."""
        watch = self.watch(Library("nvml"))
        self.look(watch)
        self.driver.hangs = True

        assert self.look(watch) is None
        assert (f"{UNTOLD}: the driver does not answer within 5 s",) == watch.notes
        self.driver.hangs = False
        assert self.look(watch) is None

    def test_no_library(self) -> None:
        """With the source none, nothing is seen and nothing noted."""
        watch = self.watch()

        assert self.look(watch) is None
        assert () == watch.notes
