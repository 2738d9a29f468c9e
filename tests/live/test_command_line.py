"""The command line of `twistd cortex`: what it accepts, and how it says that it does not."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import httpx2
import pytest

from cortexd import __version__
from tests.live.daemons import TWISTD, eventually, run, running_daemon, twistd, write_config

SECONDS = 30.0
# Nobody listens there, and nobody needs to: a daemon starts before its nodes do.
NODES = {"gpu": "http://127.0.0.1:9"}


def finished(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``twistd cortex`` to its end, as a user without a configuration of their own would."""
    return subprocess.run(  # noqa: S603 - a fixed command of this environment's own twistd
        twistd(*arguments),
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": "", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def assert_gives_up(ended: subprocess.CompletedProcess[str], *words: str) -> str:
    """Assert status 1, one line on standard error with these words, and nothing else."""
    assert 1 == ended.returncode, ended
    (line,) = ended.stderr.splitlines()
    assert [] == [word for word in words if word not in line], line
    assert "Traceback" not in ended.stdout
    return line


def test_twistd_lists_it() -> None:
    """`twistd --help` has the command and what it is for."""
    helped = subprocess.run(  # noqa: S603 - as above
        [TWISTD, "--help"], capture_output=True, text=True, timeout=SECONDS, check=True
    )
    (line,) = [line for line in helped.stdout.splitlines() if line.strip().startswith("cortex ")]
    assert "One address in front of a fleet of mistral.rs nodes." in line
    assert "" == helped.stderr


def test_its_help_names_every_option(tmp_path: Path) -> None:
    """`twistd cortex --help` ends with status 0 and needs no configuration."""
    helped = finished(tmp_path, "--help")
    assert 0 == helped.returncode
    for option in ("config=", "listen=", "metrics-listen=", "control-socket=", "demo", "check"):
        assert f"--{option}" in helped.stdout


def test_it_tells_its_version(tmp_path: Path) -> None:
    """`twistd cortex --version` prints our version, not Twisted's alone."""
    asked = finished(tmp_path, "--version")
    assert (0, f"cortexd {__version__}\n") == (asked.returncode, asked.stdout)


def test_a_good_configuration_is_only_checked(tmp_path: Path) -> None:
    """`--check` reports that the file is valid, ends with status 0 and starts nothing."""
    config = write_config(tmp_path, NODES)
    checked = finished(tmp_path, "--check", "--config", str(config))
    assert (0, f"{config}: valid, 1 node\n", "") == (
        checked.returncode,
        checked.stdout,
        checked.stderr,
    )
    assert not (tmp_path / "control.sock").exists()


def test_the_shipped_configuration_is_good(tmp_path: Path) -> None:
    """The file that packages install passes its own check."""
    shipped = Path(__file__).parents[2] / "etc" / "cortex.toml"
    assert 0 == finished(tmp_path, "--check", "--config", str(shipped)).returncode


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[gateway]\nlisten = 7\n", ("gateway.listen", "7")),
        ('[gateway]\nlisten = "nowhere"\n', ("gateway.listen", '"nowhere"')),
        ("[gateway]\nlissten = 1\n", ("gateway.lissten", "did you mean gateway.listen?")),
        ("[gateway\n", ("line 1",)),
        ("", ("nodes",)),
        ('[[nodes]]\nname = "a"\nendpoint = "gpu:80"\nvram_mb = 1\n', ("nodes[0] (a).endpoint",)),
        ('[gateway]\nlisten = "\udcff"\n', ("UTF-8",)),
    ],
    ids=["type", "value", "unknown-key", "no-toml", "empty", "node", "not-utf-8"],
)
@pytest.mark.parametrize("check", [True, False], ids=["check", "start"])
def test_a_bad_configuration_is_one_line(
    tmp_path: Path, toml: str, words: tuple[str, ...], check: bool
) -> None:
    """The line names the file, the key and what was found; checked or started, the status is 1."""
    config = tmp_path / "bad.toml"
    config.write_bytes(toml.encode("utf-8", "surrogateescape"))
    arguments = [*(["--check"] if check else []), "--config", str(config)]
    assert_gives_up(finished(tmp_path, *arguments), "bad.toml", *words)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    """A file that is named and not there is said to be missing."""
    path = tmp_path / "absent.toml"
    assert_gives_up(finished(tmp_path, "--config", str(path)), str(path), "No such file")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """What cannot be read as a file is said to be so."""
    assert_gives_up(finished(tmp_path, "--config", str(tmp_path)), str(tmp_path))


def test_without_any_configuration_it_says_where_it_looked(tmp_path: Path) -> None:
    """The line names both ways out."""
    line = assert_gives_up(finished(tmp_path), "--config FILE or --demo")
    assert str(tmp_path / ".config" / "cortex" / "cortex.toml") in line


def test_the_users_own_configuration_is_found(tmp_path: Path) -> None:
    """Without --config the file in the user's configuration folder is read."""
    folder = tmp_path / ".config" / "cortex"
    folder.mkdir(parents=True)
    config = write_config(folder, NODES)
    checked = finished(tmp_path, "--check")
    assert (0, f"{config}: valid, 1 node\n") == (checked.returncode, checked.stdout)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--listen", "nowhere"], ("gateway.listen", '"nowhere"', "--listen")),
        (["--metrics_listen=7"], ("gateway.metrics_listen", '"7"', "--metrics-listen")),
        (
            ["--control-socket", "relative"],
            ("gateway.control_socket", '"relative"', "--control-socket"),
        ),
        (["--demo"], ("--demo", "--config")),
    ],
    ids=["listen", "metrics", "socket", "demo"],
)
def test_a_bad_option_is_one_line(
    tmp_path: Path, arguments: list[str], words: tuple[str, ...]
) -> None:
    """A value of the command line is checked like one of the file, and named as given."""
    config = write_config(tmp_path, NODES)
    assert_gives_up(finished(tmp_path, "--config", str(config), *arguments), *words)


def test_an_unknown_option_is_a_mistake(tmp_path: Path) -> None:
    """What no option is called ends with a status that is not 0, and without a traceback."""
    ended = finished(tmp_path, "--lissten", "x")
    assert 0 != ended.returncode
    assert "lissten" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("key", ["listen", "metrics_listen"])
def test_a_port_in_use_is_one_line(tmp_path: Path, key: str) -> None:
    """The line names the key, its value and the reason; the daemon does not run on deaf."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = write_config(tmp_path, NODES, {key: address})
        ended = finished(tmp_path, "--config", str(config))
    assert_gives_up(ended, f"gateway.{key} = '{address}'", "Address already in use")


def test_a_foreign_address_is_one_line(tmp_path: Path) -> None:
    """The daemon cannot listen on an address of another machine."""
    config = write_config(tmp_path, NODES, {"listen": "192.0.2.1:8000"})
    assert_gives_up(finished(tmp_path, "--config", str(config)), "gateway.listen", "192.0.2.1")


def test_systemds_socket_without_systemd_is_one_line(tmp_path: Path) -> None:
    """A socket that systemd was to hand over, and has not, is named by its key."""
    config = write_config(tmp_path, NODES, {"listen": "systemd:domain=INET:name=http"})
    assert_gives_up(finished(tmp_path, "--config", str(config)), "gateway.listen", "systemd:")


def test_a_control_socket_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    """Where the control socket's folder cannot be made, the line names the path."""
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "control.sock"
    config = write_config(tmp_path, NODES, {"control_socket": str(path)})
    assert_gives_up(finished(tmp_path, "--config", str(config)), str(path))


def test_a_second_daemon_on_the_control_socket_is_one_line(tmp_path: Path) -> None:
    """A daemon that lives keeps its control socket, and the second one says whose it is."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with running_daemon(first, NODES, wait_until_ready=False) as daemon:
        config = write_config(second, NODES, {"control_socket": str(daemon.control_socket)})
        ended = finished(second, "--config", str(config))
        assert_gives_up(ended, str(daemon.control_socket), str(daemon.process.pid))
        assert daemon.runs()


def test_the_command_line_comes_before_the_file(tmp_path: Path) -> None:
    """--listen, --metrics_listen and --control-socket are taken instead of the file's values."""
    nowhere = {"listen": "192.0.2.1:1", "metrics_listen": "192.0.2.1:2"}
    config = write_config(tmp_path, NODES, {**nowhere, "control_socket": "/proc/no/socket"})
    control = tmp_path / "other.sock"
    arguments = [
        "--config",
        str(config),
        "--listen=127.0.0.1:0",
        "--metrics_listen",
        "127.0.0.1:0",
        "--control-socket",
        str(control),
    ]
    with run(arguments, tmp_path) as process:
        pattern = re.compile(r'"address":"(127\.0\.0\.1:\d+)"')
        log = tmp_path / "stdout"

        def listeners() -> list[str]:
            found = pattern.findall(log.read_text())
            return found if len(found) == 2 else []

        metrics, clients = eventually(listeners, "listening")
        assert 200 == httpx2.get(f"http://{clients}/health").status_code
        assert 200 == httpx2.get(f"http://{metrics}/metrics").status_code
        eventually(control.is_socket, "the control socket")
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(SECONDS)
    assert "" == (tmp_path / "stderr").read_text()


def test_a_unix_socket_can_be_listened_on(tmp_path: Path) -> None:
    """Clients behind a proxy on the same machine need no port."""
    path = tmp_path / "http.sock"
    config = write_config(tmp_path, NODES, {"listen": f"unix:{path}"})
    with run(["--config", str(config)], tmp_path) as process:
        eventually(path.is_socket, "the socket")
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path))) as client:
            assert 200 == client.get("http://cortex/health").status_code
            assert 404 == client.get("http://cortex/nothing").status_code
            assert 400 == client.post("http://cortex/v1/chat/completions").status_code
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(SECONDS)
    assert "Traceback" not in (tmp_path / "stdout").read_text()
