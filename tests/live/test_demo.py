"""The demo: one command, and what it prints to try is true."""

from __future__ import annotations

import getopt
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.live.daemons import TWISTD, eventually

SECONDS = 30.0


@dataclass(frozen=True)
class Demo:
    """The demo, running: its process, the folder it was started in, and what it has printed."""

    process: subprocess.Popen[bytes]
    folder: Path

    def output(self) -> str:
        """Return standard output until now."""
        return (self.folder / "stdout").read_text()

    def commands(self) -> list[str]:
        """Return the commands that the banner says to try, once it is there in full."""
        assert self.process.poll() is None, (self.folder / "stderr").read_text()
        head, end, _ = self.output().partition("Ctrl-C stops it.")
        lines = (line.strip() for line in head.splitlines())
        return [line for line in lines if re.match(r"curl |CORTEX_SOCKET=", line)] if end else []

    def own_folder(self) -> Path:
        """Return the folder that the banner says its files are in."""
        (found,) = re.findall(r"Its files are in (\S+)\. ", self.output())
        return Path(found)


@pytest.fixture(params=[()], ids=["plain"])
def demo(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Demo]:
    """Run `twistd -n cortex --demo`, as the Makefile does, with temporary files in a folder.

    Its name is short: the path of a socket in it may have 107 bytes.
    """
    folder = tmp_path_factory.mktemp("demo")
    options = [option.format(folder=folder) for option in request.param]
    temporary = folder / "tmp"
    temporary.mkdir()
    with (
        (folder / "stdout").open("wb") as output,
        (folder / "stderr").open("wb") as complaints,
        subprocess.Popen(  # noqa: S603 - a fixed command of this environment's own twistd
            [TWISTD, "--nodaemon", "--pidfile=", "cortex", "--demo", *options],
            cwd=folder,
            env={**os.environ, "TMPDIR": str(temporary), "HOME": str(folder)},
            stdout=output,
            stderr=complaints,
        ) as process,
    ):
        try:
            running = Demo(process, folder)
            eventually(running.commands, "the banner")
            yield running
        finally:
            if process.poll() is None:
                process.kill()


def opened(curl: str, **changes: str) -> AbstractContextManager[httpx2.Response]:
    """Send what a curl command line would, which need not be installed here.

    ``changes`` are made to the data's text, old by new.
    """
    command, *arguments = shlex.split(curl)
    options, (url, *data) = getopt.gnu_getopt(arguments, "Nd:")
    assert ("curl", []) == (command, data)
    sent = dict(options).get("-d")
    if sent is None:
        return httpx2.stream("GET", url, timeout=SECONDS)
    for old, new in changes.items():
        sent = sent.replace(old, new)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    return httpx2.stream("POST", url, content=sent.encode(), headers=form, timeout=SECONDS)


def fetched(curl: str) -> str:
    """Return what a curl command line would print."""
    with opened(curl) as answer:
        text = answer.read().decode()
    assert 200 == answer.status_code, text
    return text


def printed(command: str) -> str:
    """Return what a command prints that begins with a variable, as a person copies it."""
    variable, *arguments = shlex.split(command)
    name, _, value = variable.partition("=")
    ended = subprocess.run(  # noqa: S603 - our own client, as the banner says
        arguments,
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (0, "") == (ended.returncode, ended.stderr), ended
    return ended.stdout


def test_everything_it_prints_works_until_ctrl_c(demo: Demo) -> None:
    """Models are listed, the chat streams, the metrics and the client see it; it ends clean."""
    models, chat, metrics, status = demo.commands()
    eventually(lambda: "acme/chat-8b" in fetched(models), "the first poll")

    assert chat.startswith("curl -N ")
    events = [line for line in fetched(chat).splitlines() if line.startswith("data: ")]
    assert "data: [DONE]" == events[-1]
    assert len(events) > 3

    counted = re.compile(r'cortex_requests_total\{[^}]*model="acme/chat-8b"')
    eventually(lambda: counted.search(fetched(metrics)), "the count of the chat")
    told = printed(status)
    names = ("gpu-large", "gpu-medium", "gpu-small")
    assert [] == [name for name in names if name not in told]

    own_folder = demo.own_folder()
    assert own_folder.is_dir()
    assert own_folder.is_relative_to(demo.folder)
    demo.process.send_signal(signal.SIGINT)
    assert 0 == demo.process.wait(SECONDS)
    assert not own_folder.exists()
    assert [] == list((demo.folder / "tmp").iterdir())
    assert {"stdout", "stderr", "tmp"} == {path.name for path in demo.folder.iterdir()}
    assert "Traceback" not in demo.output()
    assert "" == (demo.folder / "stderr").read_text()


@pytest.mark.parametrize("listen", ["nowhere", "192.0.2.1:8000"])
def test_a_demo_that_cannot_start_leaves_nothing(tmp_path: Path, listen: str) -> None:
    """An address that cannot be used is one line and status 1, and no folder stays behind."""
    ended = subprocess.run(  # noqa: S603 - as above
        [TWISTD, "--nodaemon", "--pidfile=", "cortex", "--demo", "--listen", listen],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert 1 == ended.returncode
    (line,) = ended.stderr.splitlines()
    assert "gateway.listen" in line
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("demo", [("--control-socket", "{folder}/c.sock")], indirect=True)
def test_options_of_the_command_line_are_in_the_banner(demo: Demo) -> None:
    """The control socket that was asked for is printed, and the demo's own folder all the same."""
    assert f"CORTEX_SOCKET={demo.folder}/c.sock " in demo.commands()[3]
    assert demo.folder != demo.own_folder()
    demo.process.send_signal(signal.SIGINT)
    assert 0 == demo.process.wait(SECONDS)
    assert not demo.own_folder().exists()


def test_a_stream_holds_the_end_up_until_it_is_whole(demo: Demo) -> None:
    """At Ctrl-C the simulated nodes outlive the streams they serve."""
    models, chat, *_ = demo.commands()
    eventually(lambda: "acme/chat-8b" in fetched(models), "the first poll")
    with opened(chat, hi="word " * 60) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        demo.process.send_signal(signal.SIGINT)
        rest = [line for line in lines if line]
    assert "data: [DONE]" == rest[-1]
    assert 0 == demo.process.wait(SECONDS)
