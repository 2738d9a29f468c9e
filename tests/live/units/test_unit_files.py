"""The units of ``contrib/systemd`` before systemd's own checks."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.engine.processes import REPOSITORY

UNITS = REPOSITORY / "contrib" / "systemd"
ANALYZE = shutil.which("systemd-analyze")
CHECK_SECONDS = 60

pytestmark = pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")


def copied(folder: Path, unit: str, *drop_ins: str) -> Path:
    """Copy a unit, with programs that exist on any machine; return its path."""
    text = (UNITS / unit).read_text()
    (folder / unit).write_text(re.sub(r"^(Exec\w+=)/\S+", r"\1/bin/true", text, flags=re.MULTILINE))
    for name in drop_ins:
        (folder / name).parent.mkdir()
        shutil.copy(UNITS / name, folder / name)
    return folder / unit


def analyzed(*arguments: str, folder: Path) -> str:
    """Return what systemd-analyze prints; it must succeed."""
    assert ANALYZE is not None
    done = subprocess.run(  # noqa: S603 - a fixed command
        [ANALYZE, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=CHECK_SECONDS,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("unit", "drop_ins", "most_exposed"),
    [
        ("cortex-agent.service", [], 2.0),
        ("cortex-agent.service", ["cortex-agent.service.d/supervised.conf"], 4.0),
        ("mistralrs.service", [], 3.5),
    ],
)
def test_a_unit_is_understood_and_confined(
    tmp_path: Path, unit: str, drop_ins: list[str], most_exposed: float
) -> None:
    """Systemd has no complaint about any line, and rates the exposure as low."""
    path = copied(tmp_path, unit, *drop_ins)
    assert "" == analyzed("verify", "--man=no", str(path), folder=tmp_path)

    rating = analyzed("security", "--offline=yes", "--no-pager", f"./{unit}", folder=tmp_path)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", rating)
    assert found is not None, rating
    assert float(found[1]) <= most_exposed


def test_a_wrong_unit_is_not(tmp_path: Path) -> None:
    """The check would see a key that systemd does not know."""
    path = copied(tmp_path, "cortex-agent.service")
    path.write_text(path.read_text().replace("WatchdogSec=", "WatchdogSeconds="))
    with pytest.raises(AssertionError):
        assert "" == analyzed("verify", "--man=no", str(path), folder=tmp_path)
