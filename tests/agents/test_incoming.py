"""What agents send, within bounds."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agents.incoming import Nonsense, abilities_of, log_lines, report_of, seconds_of
from cortexd.fleet.agents import (
    MOST_MB,
    AgentAbilities,
    AgentReport,
    Device,
    EngineLife,
    EngineProcess,
)
from cortexd.link.contract import MAX_LOG_LINES
from cortexd.link.limits import MAX_LINE, MAX_WORDS

AMOUNTS = st.one_of(st.none(), st.integers(-5, 50), st.integers(-(2**63), 2**63))
TEXTS = st.one_of(st.text(max_size=5), st.integers(0, 900).map(lambda n: "x\n" * n))
REPORTS = st.builds(
    AgentReport,
    life=st.sampled_from(EngineLife),
    reason=TEXTS,
    process=st.one_of(
        st.none(),
        st.builds(
            EngineProcess,
            pid=st.integers(-1, 9),
            started_at=st.floats(),
            rss_mb=st.integers(-1, 9),
            cpu_seconds=st.floats(min_value=-1),
        ),
    ),
    devices=st.lists(
        st.builds(
            Device,
            name=TEXTS,
            total_mb=st.integers(-1, 9),
            free_mb=st.integers(-1, 9),
            engine_mb=AMOUNTS,
        ),
        max_size=3,
    ).map(tuple),
    source=TEXTS,
    memory_total_mb=AMOUNTS,
    memory_free_mb=AMOUNTS,
    others_mb=AMOUNTS,
    version=TEXTS,
    notes=st.lists(TEXTS, max_size=30).map(tuple),
)


class IncomingTests(SynchronousTestCase):
    @settings(max_examples=150, deadline=None)
    @given(REPORTS)
    def test_every_report(self, report: AgentReport) -> None:
        """A report is refused, or all of it is within bounds; what is within stays as it is."""
        try:
            found = report_of(report)
        except Nonsense:
            return
        memory = [found.memory_total_mb, found.memory_free_mb, found.others_mb]
        assert all(0 <= each <= MOST_MB for each in memory if each is not None)
        if found.memory_total_mb is not None and found.memory_free_mb is not None:
            assert found.memory_free_mb <= found.memory_total_mb
        texts = [found.reason, found.source, found.version, *found.notes]
        texts += [device.name for device in found.devices]
        assert all(text.isprintable() and len(text) <= MAX_WORDS for text in texts)
        assert (report.life, report.process) == (found.life, found.process)
        assert found == report_of(found)
        assert len(msgspec.json.encode(found)) < 64 * 1024

    def test_too_many_devices(self) -> None:
        """More accelerators than any machine has are nonsense."""
        devices = (Device(name="x", total_mb=1, free_mb=1),) * 65

        self.assertRaises(Nonsense, report_of, AgentReport(life=EngineLife.ENDED, devices=devices))

    def test_the_rest(self) -> None:
        """Versions, lines and spans of time have bounds too."""
        wrong: list[Any] = [-1.0, float("nan"), float("inf")]

        assert "1\\n" == abilities_of(AgentAbilities(version="1\n")).version
        assert MAX_LOG_LINES == len(log_lines(["x"] * (MAX_LOG_LINES + 1)))
        assert MAX_LINE == len(log_lines(["x" * (MAX_LINE + 1)])[0])
        assert 3.0 == seconds_of(3.0)
        for each in wrong:
            self.assertRaises(Nonsense, seconds_of, each)
