"""The process that translates large bodies, a real one."""

import operator
import os
import resource
import signal
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.bulk import jobs
from cortexd.bulk.child import RENEWED_BYTES
from cortexd.bulk.process import Crashed, Process
from cortexd.dialects.routes import chat
from cortexd.errors import BadRequest, BodyTooLarge, Overloaded

BODY = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}'
MEBIBYTE = 1024 * 1024


class ProcessTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.process = Process(MEBIBYTE, os.environ)
        self.addCleanup(self.process.close)

    def do(self, job: Any, *arguments: Any) -> Any:
        return self.process.do(job, list(arguments))

    def test_it_reads_and_answers(self) -> None:
        """It starts with its first job, and goes on with the next."""
        assert self.process.pid is None
        for _ in range(2):
            head = self.do(jobs.read, chat.read_request, False, BODY % (b"a" * MEBIBYTE))
            assert ("m", False) == (head.model, head.streams)
            self.process.clear()

    def test_it_inherits_no_socket_and_ignores_signals_for_the_daemon(self) -> None:
        """A terminal signals all processes of the daemon, whose requests still need this one."""
        self.do(jobs.clear)
        pid = self.process.pid
        assert pid is not None
        opened = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
        self.do(jobs.clear)

        assert [] == [each for each in opened if each.startswith("socket:")]
        assert pid == self.process.pid

    def test_errors_arrive_as_they_are(self) -> None:
        """With the field that they name; a mistake of ours comes with its traceback."""
        with self.assertRaises(BadRequest) as raised:
            self.do(jobs.read, chat.read_request, False, b'{"model":"m"}')
        assert "messages" == raised.exception.param
        with self.assertRaises(Crashed) as crashed:
            self.do(jobs.call, len, 1)
        assert "TypeError" in str(crashed.exception)

    def test_after_its_death_the_next_job_begins_anew(self) -> None:
        """The request at its death gets an error that says what happened."""
        self.do(jobs.clear)
        pid = self.process.pid
        assert pid is not None
        self.process.end()
        with self.assertRaises(Overloaded) as raised:
            self.do(jobs.clear)
        self.do(jobs.clear)

        assert "ended by signal 9" in raised.exception.message
        assert raised.exception.retry_after is not None
        assert pid != self.process.pid

    def test_memory_is_limited(self) -> None:
        """A job that needs too much fails, and not the machine."""
        with self.assertRaises(BodyTooLarge) as raised:
            self.do(jobs.call, bytes, 1 << 34)
        assert "memory" in raised.exception.message
        self.do(jobs.clear)

    def test_a_process_that_has_grown_ends_after_its_request(self) -> None:
        """Its memory goes back to the system."""
        self.do(jobs.call, operator.mul, b"a", RENEWED_BYTES)
        pid = self.process.pid
        self.process.clear()
        self.do(jobs.clear)

        assert pid != self.process.pid

    def test_one_that_cannot_start_is_said_so(self) -> None:
        """The request fails, and nothing else."""
        self.patch(__import__("sys"), "executable", "/nowhere/python")
        with self.assertRaises(Overloaded) as raised:
            self.do(jobs.clear)
        assert "cannot be used: No such file" in raised.exception.message

    def test_a_start_without_enough_descriptors_keeps_none(self) -> None:
        """Where only one of the two files in memory can be opened, that one is closed again."""
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, limits[1]))
        try:
            with self.assertRaises(Overloaded):
                self.do(jobs.clear)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        with self.assertRaises(OSError):
            os.fstat(lowest)
