"""What is built from this repository, and what becomes of it when it is installed."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest

from cortexd import __version__

REPOSITORY = Path(__file__).parents[2]
SECONDS = 120.0


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command of this environment's and return its standard output."""
    ended = subprocess.run(  # noqa: S603 - fixed commands only
        command, cwd=cwd, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert 0 == ended.returncode, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and of that the wheel, as `make dist` does but without the network."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, cwd=REPOSITORY)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Iterator[zipfile.ZipFile]:
    """Open the wheel."""
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_the_wheel_holds_the_packages_and_the_plugin(wheel: zipfile.ZipFile) -> None:
    """The plugin lies in Twisted's folder without making a package of it; no caches come along."""
    names = wheel.namelist()
    twisted = [name for name in names if name.startswith("twisted/")]
    assert ["twisted/plugins/cortex_plugin.py"] == twisted
    assert {
        "cortexd/py.typed",
        "cortexd/tap.py",
        "cortexd/agent/tap.py",
        "cortexd/testing/node.py",
    } <= set(names)
    assert f"cortexd-{__version__}.dist-info/licenses/LICENSE" in names
    tops = {PurePosixPath(name).parts[0] for name in names}
    assert {"cortexd", "twisted", f"cortexd-{__version__}.dist-info"} == tops
    assert [] == [name for name in names if name.endswith(("dropin.cache", ".pyc"))]


def test_the_wheel_leaves_the_messages_api_to_the_tests(wheel: zipfile.ZipFile) -> None:
    """The node in it is that of the demo: no Messages, no Responses, and under 5,000 lines."""
    sources = {name: wheel.read(name).decode() for name in wheel.namelist() if name.endswith(".py")}
    simulated = {name: text for name, text in sources.items() if "cortexd/testing/" in name}
    validator = re.compile(
        r"class \w*(Messages|Responses?)(Request|Node|Shape|Routes)\b|def signature_of\b"
    )
    imports_tests = re.compile(r"^\s*(from|import) tests\b", re.MULTILINE)

    assert [] == [name for name in simulated if "messages" in name]
    assert [] == [name for name, text in simulated.items() if validator.search(text)]
    assert [] == [name for name, text in sources.items() if imports_tests.search(text)]
    assert sum(text.count("\n") for text in simulated.values()) < 5_000


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    """Name, version, licence and what it needs are in the metadata."""
    text = wheel.read(f"cortexd-{__version__}.dist-info/METADATA").decode()
    metadata = Parser().parsestr(text)
    assert ("cortexd", __version__) == (metadata["Name"], metadata["Version"])
    assert "GPL-3.0-or-later" == metadata["License-Expression"]
    assert ">=3.11" == metadata["Requires-Python"]
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert all(">=" in line for line in required)
    assert ["nvml"] == metadata.get_all("Provides-Extra")
    assert {"twisted", "treq", "klein", "structlog", "msgspec"} <= {
        line.partition(">")[0].partition("[")[0] for line in required
    }


def test_the_sdist_holds_all_that_packagers_need(built: Path) -> None:
    """Tests, units, the shipped configuration and the documents are in the sdist."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "Makefile",
        "etc/cortex-agent.toml",
        "etc/cortex.toml",
        "tests/config/test_reading.py",
        "tests/doubles/messages_api/rules.py",
        "tests/live/test_packaging.py",
        "twisted/plugins/cortex_plugin.py",
    } <= names
    assert "contrib/systemd/cortexd.service" in names
    assert [] == [name for name in names if "__pycache__" in name or "dropin.cache" in name]


def test_an_installed_wheel_is_found_by_twistd(built: Path, tmp_path: Path) -> None:
    """In a fresh environment, with Twisted beside it, `twistd` lists the command and runs it."""
    (path,) = built.glob("*.whl")
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index",
        "--no-deps", path, cwd=tmp_path,
    )  # fmt: skip
    packages = Path(
        run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=tmp_path).strip()
    )
    # Its dependencies are ours; a path file within this folder is not followed in turn, so the
    # checkout that may be installed here in place stays out of sight.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    twistd = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"
    helped = run(python, "-c", twistd, "--help", cwd=tmp_path)
    version = run(python, "-c", twistd, "-n", "cortex", "--version", cwd=tmp_path)
    agent = run(python, "-c", twistd, "-n", "cortex-agent", "--version", cwd=tmp_path)
    origin = run(python, "-c", "import cortexd.tap; print(cortexd.tap.__file__)", cwd=tmp_path)

    for command in ("cortex ", "cortex-agent "):
        assert [line for line in helped.splitlines() if line.strip().startswith(command)]
    assert f"cortexd {__version__}\n" == version == agent
    assert Path(origin.strip()).is_relative_to(environment)
    assert (environment / "bin" / "cortexctl").exists()
