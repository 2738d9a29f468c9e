"""All that is learned of times, in one place."""

from __future__ import annotations

from cortexd.fleet.learning.lease_times import LeaseTimes
from cortexd.fleet.learning.load_times import LoadTimes
from cortexd.fleet.learning.timing import Timings


class Lessons:
    """What has been learned: of ``loads``, ``unloads`` and ``leases``, ``wakes`` and ``restarts``.

    A wake lasts from the first packet until the node answers, a restart from the order until the
    new process answers.
    """

    def __init__(self) -> None:
        self.loads = LoadTimes()
        self.leases = LeaseTimes()
        self.unloads = Timings()
        self.wakes = Timings()
        self.restarts = Timings()
