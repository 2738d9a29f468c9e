import os

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs

from cortexd.agent.watching import LATE_LOOKS
from cortexd.fleet.agents import AgentReport, EngineLife
from cortexd.logs import fields_of
from tests.agent.machine import INTERVAL, PORT, MachineTestCase

SYSTEM_INFO = "/v1/system/info"
NO_PROCESS = 2**30  # Linux numbers processes up to 2**22


class WatcherTests(MachineTestCase):
    def test_first_report(self) -> None:
        """The first report has life, process and version, and the engine's own memory."""
        report = self.begin()
        self.network.advance(INTERVAL)

        assert (EngineLife.ANSWERS, "") == (report.life, report.reason)
        assert report.process is not None
        assert 7 == report.process.pid
        last = self.reports[-1]
        assert ("engine", 24_576, 20_576) == (
            last.source,
            last.memory_total_mb,
            last.memory_free_mb,
        )
        assert ".".join(map(str, self.node.version)) == last.version
        self.successResultOf(self.watcher.first)

    def test_nothing_while_idle(self) -> None:
        """While nothing changes nothing is reported, and the expensive question is asked once."""
        self.devices.set_card(20_000)
        self.begin()
        self.network.advance(3.0)
        count = len(self.reports)

        self.network.advance(300.0)

        assert count == len(self.reports)
        assert 1 == self.asked(SYSTEM_INFO)

    def test_memory(self) -> None:
        """Memory that changes is reported at the next look."""
        self.devices.set_card(20_000, {7: 4_000, 9: 500})
        self.begin()
        self.network.advance(3.0)
        count = len(self.reports)
        self.devices.set_card(12_000, {7: 12_000, 9: 500})

        self.network.advance(INTERVAL)

        (report,) = self.reports[count:]
        assert (12_000, "nvml") == (report.memory_free_mb, report.source)
        assert (12_000, None) != (report.devices[0].engine_mb, report.others_mb)

    def test_memory_of_other_programs(self) -> None:
        """Where the driver names only processes of this machine, their memory is that of others."""
        self.devices.set_card(20_000, {os.getpid(): 500, 1: 300})
        report = self.begin()
        assert (0, 800) == (report.devices[0].engine_mb, report.devices[0].others_mb)

        self.devices.set_card(12_000, {os.getpid(): 500, NO_PROCESS: 300})
        self.network.advance(INTERVAL)

        device = self.reports[-1].devices[0]
        assert (12_000, None, None) == (device.free_mb, device.engine_mb, device.others_mb)

    def test_without_gateway_and_engine(self) -> None:
        """An engine that does not run is reported as ended, and the start is not held up."""
        self.run_until_done(self.node.close())
        self.proc.end(7)
        self.control.reason = "killed by SIGKILL"

        report = self.begin()

        assert (EngineLife.ENDED, "killed by SIGKILL") == (report.life, report.reason)
        self.successResultOf(self.watcher.first)

    def test_end_and_return(self) -> None:
        """The end of a process is reported at once, and so is its return with what it is now."""
        self.begin()
        self.network.advance(3.0)
        count = len(self.reports)
        self.run_until_done(self.node.close())
        self.proc.end(7)
        self.control.reason, self.control.restarts = "killed by SIGKILL", 1
        self.control.changed()
        self.network.flush()

        (ended,) = self.reports[count:]
        assert EngineLife.ENDED is ended.life
        self.proc.add(7, started=99.0)
        self.control.reason = ""
        self.run_until_done(self.node.listen(self.network, PORT))
        self.network.advance(INTERVAL)
        assert EngineLife.ANSWERS is self.reports[-1].life
        process = self.reports[-1].process
        assert process is not None
        assert 1 == process.restarts
        assert 1 == self.asked(SYSTEM_INFO)

    def test_silent(self) -> None:
        """An engine that runs and does not answer is silent, and is not asked twice meanwhile."""
        self.begin()
        self.network.advance(3.0)
        self.node.faults.hang = True
        before = self.network.connections_made

        self.network.advance(4.0)
        assert self.network.connections_made <= before + 1
        self.network.advance(3.0)

        report = self.reports[-1]
        assert (EngineLife.SILENT, "GET /health: no answer within 5 s") == (
            report.life,
            report.reason,
        )

    def test_how_severe_a_change_is(self) -> None:
        """An engine that starts is silent first; one that was well and is silent needs a look."""
        self.run_until_done(self.node.close())
        with capturedLogs() as events:
            self.begin()
            self.run_until_done(self.node.listen(self.network, PORT))
            self.network.advance(INTERVAL)
            self.node.faults.hang = True
            self.network.advance(8.0)
        found = [
            (fields["life"], event["log_level"])
            for event in events
            if (fields := fields_of(event)) and fields["event"] == "engine_life"
        ]
        assert [
            ("silent", LogLevel.info),
            ("answers", LogLevel.info),
            ("silent", LogLevel.warn),
        ] == found

    def test_devices_hang(self) -> None:
        """Looks at the devices do not overlap, and hold up no other look."""
        self.begin()
        self.devices.is_held = True
        self.network.advance(INTERVAL)
        looks = self.devices.looks

        self.run_until_done(self.node.close())
        self.network.advance(5.0)

        assert looks == self.devices.looks
        assert EngineLife.SILENT is self.reports[-1].life

    def test_a_look_that_fails(self) -> None:
        """A fault in a look is in the log, and the looks go on."""
        self.devices.is_held = True
        self.watcher.startService()
        self.network.advance(0.5)
        self.devices.held.pop().errback(RuntimeError("a fault"))
        assert 1 == len(self.flushLoggedErrors(RuntimeError))
        self.devices.is_held = False
        self.devices.set_card(9_000)
        self.network.advance(2 * INTERVAL)

        assert 9_000 == self.reports[-1].memory_free_mb

    def test_a_change_of_an_engine_that_answers(self) -> None:
        """A change of its process needs no further question to an engine that is well."""
        self.begin()
        self.network.advance(3.0)
        before = len(self.node.journal.requests("/health"))
        self.control.changed()
        self.network.flush()

        assert before > 0
        assert before == len(self.node.journal.requests("/health"))

    def test_a_change_after_the_stop(self) -> None:
        """A watcher that has stopped reports no change."""
        self.begin()
        self.network.advance(3.0)
        count = len(self.reports)
        self.watcher.stopService()
        self.proc.end(7)
        self.watcher.note_change()

        assert count == len(self.reports)

    def test_look_now(self) -> None:
        """A look that the gateway asks for sees what is there now, in full."""
        self.devices.set_card(20_000)
        self.begin()
        self.network.advance(3.0)
        self.devices.set_card(9_000)

        report = self.run_until_done(self.watcher.look_now())

        assert 9_000 == report.memory_free_mb

    def test_look_now_during_a_look(self) -> None:
        """A look that had begun before does not answer for it."""
        self.devices.set_card(20_000)
        self.begin()
        self.devices.is_held = True
        self.network.advance(INTERVAL)
        asked: Deferred[AgentReport] = self.watcher.look_now()
        self.network.flush()
        self.devices.held.pop().callback(self.devices.seen)
        self.network.flush()
        self.assertNoResult(asked)
        self.devices.set_card(9_000)
        self.devices.held.pop().callback(self.devices.seen)
        self.network.flush()

        assert 9_000 == self.successResultOf(asked).memory_free_mb

    def test_look_now_by_the_engine(self) -> None:
        """Where only the engine tells its memory, it is asked now."""
        self.begin()
        self.network.advance(3.0)
        before = self.asked(SYSTEM_INFO)

        report = self.run_until_done(self.watcher.look_now())

        assert "engine" == report.source
        assert before + 1 == self.asked(SYSTEM_INFO)

    def test_stop(self) -> None:
        """After the stop nothing is looked at, and no timer is left."""
        self.begin()
        self.node.faults.hang = True
        self.network.advance(INTERVAL)

        self.watcher.stopService()
        self.run_until_done(self.client.close())
        self.run_until_done(self.node.close())
        self.network.advance(0.5)

        assert [] == self.network.getDelayedCalls()

    def test_alive(self) -> None:
        """The watchdog sees whether looks still begin."""
        self.begin()
        assert self.watcher.is_alive

        self.network.clock.rightNow += LATE_LOOKS + 1

        assert not self.watcher.is_alive
