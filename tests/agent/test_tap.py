import os
import sys
import tempfile
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from twisted.plugin import IPlugin, getPlugins
from twisted.trial.unittest import SynchronousTestCase

from cortexd import __version__
from cortexd.agent.tap import DEFAULT_PATH, Options

CONFIG = '[agent]\nnode = "gpu"\ngateway = "127.0.0.1:8700"\n'


class OptionsTests(SynchronousTestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.config = Path(temporary.name) / "agent.toml"
        self.config.write_text(CONFIG)
        self.output, self.complaints = StringIO(), StringIO()
        self.patch(sys, "stdout", self.output)
        self.patch(sys, "stderr", self.complaints)

    def parse(self, *arguments: str) -> Options:
        options = Options()
        options.parseOptions(arguments)
        return options

    def exit_of(self, arguments: Sequence[str]) -> tuple[object, str, str]:
        """Return status, output and complaints of options that end the process."""
        ended = self.assertRaises(SystemExit, self.parse, *arguments)
        return ended.code, self.output.getvalue(), self.complaints.getvalue()

    def test_the_file_is_read(self) -> None:
        """The option, long or short, names the file, which a reload reads again."""
        for arguments in (("--config", str(self.config)), ("-c", str(self.config))):
            options = self.parse(*arguments)
            assert "gpu" == options.config.agent.node
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir("/")
        self.config.write_text(CONFIG.replace("gpu", "other"))

        assert "other" == options.read().agent.node

    def test_default(self) -> None:
        """Without an option the file is that of the system."""
        assert "/etc/cortex/agent.toml" == DEFAULT_PATH

    def test_check(self) -> None:
        """A check prints what the file comes to."""
        status, output, _ = self.exit_of(["--check", "--config", str(self.config)])

        assert 0 == status
        first, *rest = output.splitlines()
        assert f"{self.config}: valid, the agent of gpu at 127.0.0.1:8700" == first
        assert 6 == len(rest)

    def test_check_reads_the_credentials(self) -> None:
        """A check fails in one line if the enrolment cannot be read."""
        self.config.write_text('[agent]\nenrolment = "/gone"\n')

        status, _, complaints = self.exit_of(["--check", "--config", str(self.config)])

        assert 1 == status
        assert complaints.startswith("/gone: cannot be read")
        assert 1 == complaints.count("\n")

    def test_faults(self) -> None:
        """A wrong file or a wrong option is one line and status 1."""
        self.config.write_text("[agent]\nwhat = 1\n")
        for arguments, words in (
            (["--config", str(self.config)], f"{self.config}: unknown key agent.what"),
            (["--config", "/gone"], "/gone: cannot be read"),
            (["--wrong"], "twistd cortex-agent: option --wrong not recognized"),
        ):
            self.complaints.truncate(0)
            self.complaints.seek(0)
            status, _, complaints = self.exit_of(arguments)
            assert 1 == status
            assert complaints.startswith(words), complaints
            assert 1 == complaints.count("\n")

    def test_version(self) -> None:
        """The version is cortexd's."""
        assert (0, f"cortexd {__version__}\n", "") == self.exit_of(["--version"])


class PluginTests(SynchronousTestCase):
    def test_twistd_lists_it(self) -> None:
        """Twistd knows the command, and the module that runs it."""
        plugins: Any = getPlugins(IPlugin)
        found = {
            plugin.tapname: plugin.module
            for plugin in plugins
            if getattr(plugin, "tapname", "").startswith("cortex")
        }

        assert {"cortex": "cortexd.tap", "cortex-agent": "cortexd.agent.tap"} == found
