"""The whole way of an agent's right to speak for its node: given, taken away, and given again."""

from __future__ import annotations

import signal
import subprocess
import tomllib
from pathlib import Path

from tests.engine.processes import engine_arguments, write_tiny_models
from tests.live.agent.fleets import CTL_SECONDS, ask, cortexctl, gauge, loaded, restarts_done
from tests.live.agent.machines import (
    ENGINE_PORT,
    LINK_PORT,
    loopback_address,
    running_machine,
    spelt,
)
from tests.live.daemons import TWISTD, Daemon, eventually, running_daemon

MODEL = "tiny/alpha"
AT_ONCE_SECONDS = 5.0
"""Much sooner than a link without signs of life ends."""


def is_up(daemon: Daemon) -> bool:
    """Tell whether the agent is connected; the log does not say so twice a minute."""
    return gauge(daemon, "cortex_agent_up", node="a") == 1


def enroll(daemon: Daemon, file: Path, *options: str) -> None:
    """Enrol the agent of node a, which makes a file."""
    command = [str(TWISTD.with_name("cortexctl")), "--socket", str(daemon.control_socket)]
    subprocess.run(  # noqa: S603 - our own client
        [*command, "agent", "enroll", "a", *options, "-o", str(file)],
        timeout=CTL_SECONDS,
        check=True,
    )


def secret_of(enrolment: Path) -> list[str]:
    """Return the lines of the key or the token in an enrolment."""
    found = tomllib.loads(enrolment.read_text())
    lines = found.get("token", found.get("key", "")).splitlines()
    secret = [line for line in lines if "-----" not in line]
    assert secret
    return secret


def test_enrolled_revoked_and_enrolled_again(tmp_path: Path) -> None:
    """With a certificate first, then with a token; neither log has anything of them."""
    agents, engine = loopback_address(LINK_PORT), loopback_address(ENGINE_PORT)
    models = {MODEL: write_tiny_models(tmp_path / "models")[MODEL]}
    file = tmp_path / "a.enrolment"
    with running_daemon(
        tmp_path,
        {"a": f"http://{spelt(engine)}"},
        extra=f'[agents]\nlisten = "{spelt(agents)}"',
        wait_until_ready=False,
    ) as daemon:
        enroll(daemon, file)
        secrets = secret_of(file)
        with running_machine(
            tmp_path, "a", agents, engine_arguments(models), enrolment=file, engine=engine
        ) as machine:
            eventually(lambda: is_up(daemon), "the greeting of the agent")
            eventually(lambda: loaded(daemon, "a") == [MODEL], "the model")
            before = machine.engine_pid
            cortexctl(daemon, "restart", "a")
            eventually(lambda: restarts_done(daemon, "a"), "the restart")
            assert machine.engine_since(before) is not None
            assert 200 == ask(daemon, MODEL).status_code

            cortexctl(daemon, "agent", "revoke", "a")
            eventually(lambda: not is_up(daemon), "the end of the link", AT_ONCE_SECONDS)
            (refusal,) = eventually(lambda: machine.lines("link_not_made"), "the refusal")
            assert "node a was revoked" in refusal["reason"]
            assert 200 == ask(daemon, MODEL).status_code

            enroll(daemon, file, "--token", "--force")
            secrets += secret_of(file)
            machine.agent.send_signal(signal.SIGHUP)
            eventually(lambda: is_up(daemon), "the greeting by the token")
        logs = daemon.log() + machine.log()
    assert [] == [secret for secret in secrets if secret in logs]
    assert "traceback" not in logs
