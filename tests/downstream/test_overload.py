from typing import Any

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from cortexd.admission.clients import ROOMY
from cortexd.downstream.crowd import OVERLOAD, Crowd
from cortexd.downstream.overload import Overload
from cortexd.logs import fields_of
from cortexd.telemetry.metrics import Metrics


class OverloadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.crowd: Crowd[Any] = Crowd(ROOMY)
        self.metrics = Metrics()
        self.overload = Overload(self.crowd, self.metrics, 0.25)
        self.now = 0.0

    def beat(self, *delays: float) -> list[dict[str, Any]]:
        """Let beats come with these delays; return what is logged."""
        with capturedLogs() as events:
            for delay in delays:
                self.now += 0.1 + delay
                self.overload.note_beat(self.now, delay)
        return [dict(fields) for fields in map(fields_of, events) if fields is not None]

    def sample(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name)

    def test_an_overload(self) -> None:
        """It is logged once at its beginning and once at its end, with the requests refused."""
        (line,) = self.beat(*[0.5] * 20)
        assert "overloaded" == line["event"]
        assert self.crowd.is_shedding
        self.crowd.refused[OVERLOAD] += 7

        (line,) = self.beat(*[0.0] * 40)
        assert ("overload_over", 7) == (line["event"], line["refused"])
        assert not self.crowd.is_shedding

    def test_the_delay_is_shown(self) -> None:
        """Prometheus gets each beat's delay, and the number of stalls, which begins at 0."""
        assert 0.0 == self.sample("cortex_reactor_stalls_total")
        lines = self.beat(0.01, 0.2, 3.0, 2.0)

        assert 4 == self.sample("cortex_reactor_delay_seconds_count")
        assert 5.21 == self.sample("cortex_reactor_delay_seconds_sum")
        assert 2 == self.sample("cortex_reactor_stalls_total")
        # One line, however many turns in a row are too long.
        assert [("reactor_stalled", 3.0)] == [(each["event"], each["seconds"]) for each in lines]
