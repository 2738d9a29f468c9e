"""The JSON observer under the real twistd, which replaces sys.stdout and reports its own events."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


def twistd_command(folder: Path) -> list[str]:
    """Write the application into the folder and return the command line that runs it."""
    script = folder / "talkative.py"
    script.write_text(APPLICATION)
    twistd = Path(sys.executable).with_name("twistd")
    observer = "cortexd.logs.json_observer"
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
