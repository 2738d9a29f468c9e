from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.devices.library import DeviceSeen, narrowed, shared_out, visible

FIRST = DeviceSeen(name="RTX", uuid="GPU-aaa1", total_mb=100, free_mb=60, used={7: 30, 9: 10})
SECOND = DeviceSeen(name="RTX", uuid="GPU-bbb2", total_mb=100, free_mb=100, used={})
OTHER = DeviceSeen(name="A100", uuid="GPU-ccc3", total_mb=400, free_mb=400, used={})
PART = DeviceSeen(name="MIG", uuid="MIG-ddd4", total_mb=50, free_mb=50, used={}, is_part=True)
TWINS = (FIRST, SECOND)


class VisibleTests(SynchronousTestCase):
    def test_no_choice(self) -> None:
        """Without a choice an engine uses all whole devices, or else the first part alone."""
        assert (TWINS, "") == visible(TWINS, {})
        assert (TWINS, "") == visible((*TWINS, PART), {})
        assert ((PART,), "") == visible((PART, PART), {})

    def test_choices(self) -> None:
        """Numbers and beginnings of UUIDs choose devices, up to the first that names none."""
        for chosen, expected in (
            ("1", (SECOND,)),
            ("1,0", (SECOND, FIRST)),
            ("0,0", (FIRST,)),
            ("", ()),
            ("-1", ()),
            ("0,9,1", (FIRST,)),
            ("GPU-bbb", (SECOND,)),
            ("GPU-", ()),
            ("GPU-aaa1, GPU-bbb2", TWINS),
        ):
            assert (expected, "") == visible(TWINS, {"CUDA_VISIBLE_DEVICES": chosen}), chosen

    def test_numbers_of_unlike_devices(self) -> None:
        """CUDA numbers unlike devices by speed, which is noted unless it was told otherwise."""
        unlike = (FIRST, OTHER)
        chosen = {"CUDA_VISIBLE_DEVICES": "1"}

        _, note = visible(unlike, chosen)

        assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in note
        assert ((OTHER,), "") == visible(unlike, chosen | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
        assert ((OTHER,), "") == visible(unlike, {"CUDA_VISIBLE_DEVICES": "GPU-ccc3"})

    def test_amd(self) -> None:
        """ROCm's variables choose too."""
        assert ((SECOND,), "") == visible(TWINS, {"HIP_VISIBLE_DEVICES": "1"})


class NarrowedTests(SynchronousTestCase):
    def test_all(self) -> None:
        """An engine that has all devices, or does not say, uses all."""
        for count in (None, 2, 3):
            assert (TWINS, "") == narrowed(TWINS, [7], count)

    def test_by_its_processes(self) -> None:
        """An engine that has fewer uses those where its processes have memory."""
        assert ((FIRST,), "") == narrowed(TWINS, [7], 1)

    def test_unknown(self) -> None:
        """If those are not as many, nothing is told, and the note says what would help."""
        devices, note = narrowed(TWINS, [70], 1)

        assert () == devices
        assert note.startswith("the engine uses 1 of 2 accelerators, and the agent cannot see")


class SharedOutTests(SynchronousTestCase):
    def test_engine_and_others(self) -> None:
        """The engine's processes take one part, all others another."""
        first, second = shared_out(TWINS, [7, 8], lambda pid: True)

        assert (30, 10) == (first.engine_mb, first.others_mb)
        assert (0, 0) == (second.engine_mb, second.others_mb)

    def test_untold(self) -> None:
        """Where a driver does not tell the memory of processes, both are unknown."""
        untold = DeviceSeen(name="W", uuid="GPU-w", total_mb=100, free_mb=60, used=None)
        (device,) = shared_out([untold], [7], lambda pid: True)

        assert (None, None) == (device.engine_mb, device.others_mb)

    def test_another_namespace(self) -> None:
        """Numbers of processes that are unknown here, and none of the engine, tell nothing."""
        foreign = shared_out([FIRST], [70], lambda pid: pid == 9)
        known = shared_out([FIRST], [70], lambda pid: True)
        ended = shared_out([FIRST], [7], lambda pid: pid == 7)

        assert (None, None) == (foreign[0].engine_mb, foreign[0].others_mb)
        assert (0, 40) == (known[0].engine_mb, known[0].others_mb)
        assert (30, 10) == (ended[0].engine_mb, ended[0].others_mb)

    def test_no_process(self) -> None:
        """Without the engine's processes nothing can be told."""
        assert shared_out([FIRST], [], lambda pid: True)[0].others_mb is None
