"""The JSON observer under the real twistd, which replaces sys.stdout and reports its own events."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# Logs in each way that ends up on the bus, then stops by itself once the reactor runs.
APPLICATION = """
from twisted.application.service import Application, Service
from twisted.internet import reactor
from twisted.python import log as legacy_log

from cortexd.logs import get_logger

class Talkative(Service):
    def startService(self):
        super().startService()
        log = get_logger("cortexd.live")
        log.info("node_up", node="gpu-small", prompt="hush")
        print("printed by some library")
        legacy_log.msg("legacy words")
        try:
            1 / 0
        except ZeroDivisionError:
            log.exception("poll_crashed")
        reactor.callWhenRunning(reactor.stop)

application = Application("talkative")
Talkative().setServiceParent(application)
"""


# Logs more than any pipe holds before it stops by itself.
LOUD = APPLICATION.replace(
    "reactor.callWhenRunning(reactor.stop)",
    "[log.info('line', number=n, padding='x' * 900) for n in range(9_000)]\n"
    "        reactor.callWhenRunning(reactor.stop)",
)


def twistd_command(
    folder: Path, application: str = APPLICATION, observer: str = "cortexd.logs.json_observer"
) -> list[str]:
    """Write the application into the folder and return the command line that runs it."""
    script = folder / "talkative.py"
    script.write_text(application)
    twistd = Path(sys.executable).with_name("twistd")
    return [str(twistd), "-n", "--pidfile=", "--logger", observer, "-y", str(script)]


def test_every_line_of_twistd_is_json(tmp_path: Path) -> None:
    """Under twistd each line on stdout is a JSON object with the promised fields."""
    finished = subprocess.run(  # noqa: S603 - a fixed command of this environment's own twistd
        twistd_command(tmp_path), cwd=tmp_path, capture_output=True, timeout=30, check=False
    )

    assert (finished.returncode, finished.stderr) == (0, b"")
    lines = [json.loads(line) for line in finished.stdout.splitlines()]
    assert all({"time", "level", "logger", "event"} <= line.keys() for line in lines)
    by_event = {line["event"]: line for line in lines}
    node_up = by_event["node_up"]
    assert (node_up["logger"], node_up["node"]) == ("cortexd.live", "gpu-small")
    assert node_up["prompt"] == "[redacted]"
    assert by_event["poll_crashed"]["traceback"].endswith("ZeroDivisionError: division by zero")
    assert by_event["printed by some library"]["logger"] == "stdout"
    assert by_event["legacy words"]["logger"] == "twisted"
    assert by_event["Server Shut Down."]["level"] == "info"


def test_daemon_outlives_the_reader_of_its_log(tmp_path: Path) -> None:
    """With nobody at the other end of stdout the daemon runs and stops as ever."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        finished = subprocess.run(  # noqa: S603 - as above
            twistd_command(tmp_path),
            cwd=tmp_path,
            stdout=write_end,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    finally:
        os.close(write_end)

    assert (finished.returncode, finished.stderr) == (0, b"")


@pytest.mark.parametrize("form", ["json", "text"])
def test_daemon_outlives_a_reader_that_does_not_read(tmp_path: Path, form: str) -> None:
    """A full pipe stops neither the daemon nor its end; what was not dropped stays in order."""
    command = twistd_command(tmp_path, LOUD, f"cortexd.logs.{form}_observer")
    with subprocess.Popen(  # noqa: S603 - as above
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.wait(60) == 0
        finally:
            process.kill()
        output, errors = process.communicate()

    assert errors == b""
    numbers = [int(found) for found in re.findall(rb'number"?[:=](\d+)', output)]
    assert len(numbers) > 10
    assert numbers == list(range(len(numbers)))


def test_a_reader_misses_nothing_silently(tmp_path: Path) -> None:
    """A reader finds each line, or the number of dropped lines in their place."""
    with subprocess.Popen(  # noqa: S603 - as above
        twistd_command(tmp_path, LOUD),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            output = process.stdout.read()
            assert process.wait(60) == 0
        finally:
            process.kill()
    lines = [json.loads(line) for line in output.splitlines()]
    written = sum(line["event"] == "line" for line in lines)
    dropped = sum(line["lines"] for line in lines if line["event"] == "log_lines_dropped")
    assert written + dropped >= 9_000
