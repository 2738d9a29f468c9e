import gc
import os
import sys
import tempfile
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.plugin import IPlugin, getPlugins
from twisted.trial.unittest import SynchronousTestCase

from cortexd import __version__
from cortexd.config.settings import GatewaySettings
from cortexd.tap import FLEET_SECONDS, NEVER, YOUNG_OBJECTS, Options, settle_collector
from tests.doubles.certificates import write_certificate

NODE = '[[nodes]]\nname = "a"\nendpoint = "http://10.0.0.1:8080"\nvram_mb = 1000\n'


class OptionsTests(SynchronousTestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.config = self.folder / "cortex.toml"
        self.config.write_text('[gateway]\nlisten = "127.0.0.1:8001"\n' + NODE)
        self.output, self.complaints = StringIO(), StringIO()
        self.patch(sys, "stdout", self.output)
        self.patch(sys, "stderr", self.complaints)
        self.patch(os, "environ", {"HOME": str(self.folder)})

    def parse(self, *arguments: str) -> Options:
        options = Options()
        options.parseOptions(arguments)
        return options

    def gateway(self, *arguments: str) -> GatewaySettings:
        settings = self.parse(*arguments).config
        assert settings is not None
        return settings.gateway

    def exit_of(self, arguments: Sequence[str]) -> tuple[object, str, str]:
        """Return status, output and complaints of options that end the process."""
        ended = self.assertRaises(SystemExit, self.parse, *arguments)
        return ended.code, self.output.getvalue(), self.complaints.getvalue()

    def test_the_file_is_read(self) -> None:
        """The option, long or short, names the file."""
        for arguments in (("--config", str(self.config)), ("-c", str(self.config))):
            assert "127.0.0.1:8001" == self.gateway(*arguments).listen

    def test_options_come_before_the_file(self) -> None:
        """Each may be spelt like the file's key or in the way of options."""
        for dash in "-_":
            gateway = self.gateway(
                f"--config={self.config}",
                "--listen=127.0.0.1:1",
                f"--metrics{dash}listen=127.0.0.1:2",
                f"--control{dash}socket",
                "/run/own_socket.sock",
            )
            assert ("127.0.0.1:1", "127.0.0.1:2", "/run/own_socket.sock") == (
                gateway.listen,
                gateway.metrics_listen,
                gateway.control_socket,
            )

    def test_a_value_keeps_its_underscores(self) -> None:
        """Only names of options are respelt, not what they are given."""
        gateway = self.gateway(f"--config={self.config}", "--control_socket=/run/my_own/a_b.sock")

        assert "/run/my_own/a_b.sock" == gateway.control_socket

    def test_an_unknown_option_ends_the_process(self) -> None:
        """One line names the option; the status is 1 with every version of Twisted."""
        status, output, complaints = self.exit_of(["--lissten=x"])

        assert (1, "") == (status, output)
        assert "twistd cortex: option --lissten not recognized (see --help)\n" == complaints

    def test_the_demo_needs_no_file(self) -> None:
        """It keeps the overrides for the demo's own configuration."""
        options = self.parse("--demo", "--listen=127.0.0.1:1")

        assert options.config is None
        assert {"listen": "127.0.0.1:1"} == options.overrides

    def test_the_demo_takes_no_file(self) -> None:
        """Nor anything to check: one line and status 1."""
        for arguments in (["--demo", f"--config={self.config}"], ["--demo", "--check"]):
            status, _, complaints = self.exit_of(arguments)
            assert 1 == status
            assert complaints.endswith("leave out --config and --check\n")

    def test_a_check_ends_with_what_it_found(self) -> None:
        """Status 0 and the number of nodes; nothing goes to standard error."""
        assert (0, f"{self.config}: valid, 1 node\n", "") == self.exit_of(
            ["--check", "--config", str(self.config)]
        )

    def test_a_check_of_listeners(self) -> None:
        """It shows until when the certificate is valid, and what is open."""
        pem = self.folder / "gateway.pem"
        write_certificate(pem, (-1, 100.5))
        keys = f'listen = ":8001"\ntls_certificate = "{pem}"\ntls_key = "{pem}"'
        self.config.write_text(f"[gateway]\n{keys}\n{NODE}")
        status, output, complaints = self.exit_of(["--check", "--config", str(self.config)])
        assert (0, "") == (status, complaints)
        valid, certificate, warning = output.splitlines()
        assert f"{self.config}: valid, 1 node" == valid
        assert certificate.startswith("gateway.listen: certificate valid until ")
        assert certificate.endswith("(100 days)")
        assert warning.startswith('warning: open: gateway.listen = ":8001" admits every client')

    def test_a_check_of_a_broken_certificate(self) -> None:
        """It is a mistake like any other."""
        keys = 'tls_certificate = "/nowhere"\ntls_key = "/nowhere"'
        self.config.write_text(f"[gateway]\n{keys}\n{NODE}")
        status, output, complaints = self.exit_of(["--check", "--config", str(self.config)])
        words = "gateway.tls_certificate: /nowhere: cannot be read (No such file or directory)"
        assert (1, "", f"{self.config}: {words}\n") == (status, output, complaints)

    def test_a_check_of_files_for_agents_and_nodes(self) -> None:
        """They are read as at a start, and it shows until when the gateway's is valid."""
        pem = self.folder / "agents.pem"
        write_certificate(pem, (-1, 300.5))
        files = "\n".join(f'{key} = "{pem}"' for key in ("certificate", "key", "ca"))
        self.config.write_text(f'[agents]\nlisten = "127.0.0.1:1"\n{files}\n{NODE}')
        status, output, complaints = self.exit_of(["--check", "--config", str(self.config)])
        assert (0, "") == (status, complaints)
        assert output.splitlines()[1].startswith("agents.listen: certificate valid until ")

        write_certificate(pem, (-2, -1))
        _, output, _ = self.exit_of(["--check", "--config", str(self.config)])
        assert "warning: the gateway's certificate for agents has expired 24 hours ago" in output
        pem.unlink()
        status, _, complaints = self.exit_of(["--check", "--config", str(self.config)])
        words = f"agents.ca: {pem} cannot be read (No such file or directory)"
        assert (1, f"{self.config}: {words}\n") == (status, complaints)

        self.config.write_text(NODE.replace("http:", "https:") + '\nca_file = "/nowhere"\n')
        status, _, complaints = self.exit_of(["--check", "--config", str(self.config)])
        assert 1 == status
        assert "ca_file: /nowhere cannot be read" in complaints

    def test_a_check_of_keys(self) -> None:
        """It counts them, and warns of a file that others read."""
        keys = self.folder / "keys.toml"
        self.config.write_text(f'[auth]\nkeys_file = "{keys}"\n{NODE}')
        keys.write_text("")
        keys.chmod(0o644)
        status, output, complaints = self.exit_of(["--check", "--config", str(self.config)])
        assert (0, "") == (status, complaints)
        _, count, nobody, warning = output.splitlines()
        assert "auth.keys_file: 0 keys" == count
        assert nobody.startswith(f"warning: {keys} has no keys")
        assert warning.startswith(f"warning: every user may read {keys}")

    def test_a_check_of_faulty_keys(self) -> None:
        """They are a mistake like any other."""
        keys = self.folder / "keys.toml"
        self.config.write_text(f'[auth]\nkeys_file = "{keys}"\n{NODE}')
        keys.write_text("[[keys]]\n")
        status, output, complaints = self.exit_of(["--check", "--config", str(self.config)])
        words = f"{self.config}: {keys}: keys[0].name: missing, expected 1 to 64 characters"
        assert (1, "", True) == (status, output, complaints.startswith(words))

    def test_a_mistake_is_one_line(self) -> None:
        """Status 1, with the file and the key."""
        self.config.write_text("[gateway]\nlisten = 7\n" + NODE)

        status, output, complaints = self.exit_of(["--config", str(self.config)])

        assert (1, "") == (status, output)
        assert complaints.startswith(f"{self.config}: gateway.listen: ")
        assert 1 == complaints.count("\n")

    def test_a_mistake_on_the_command_line_is_told_apart(self) -> None:
        """What the command line gave is named, for the file may be innocent."""
        _, _, complaints = self.exit_of([f"--config={self.config}", "--metrics_listen=7"])

        assert "gateway.metrics_listen" in complaints
        assert complaints.endswith("(the command line gives --metrics-listen)\n")

    def test_without_any_file_it_says_where_it_looked(self) -> None:
        """The paths are those of cortexd.config.paths."""
        self.patch(os, "getuid", lambda: 1000)

        status, _, complaints = self.exit_of([])

        assert 1 == status
        assert f"{self.folder}/.config/cortex/cortex.toml or /etc/cortex" in complaints
        assert "--config FILE or --demo" in complaints

    def test_the_users_own_file_is_found(self) -> None:
        """The first candidate that exists is read."""
        self.patch(os, "getuid", lambda: 1000)
        own = self.folder / ".config" / "cortex"
        own.mkdir(parents=True)
        (own / "cortex.toml").write_text('[gateway]\nlisten = "127.0.0.1:8002"\n' + NODE)

        assert "127.0.0.1:8002" == self.gateway().listen

    def test_it_tells_its_version(self) -> None:
        """Ours; Twisted's own comes from twistd."""
        assert (0, f"cortexd {__version__}\n", "") == self.exit_of(["--version"])


class PluginTests(SynchronousTestCase):
    def test_twistd_finds_it(self) -> None:
        """One record by the name of cortex leads to this module."""
        records: list[Any] = [
            plugin for plugin in getPlugins(IPlugin) if getattr(plugin, "tapname", "") == "cortex"
        ]

        (record,) = records
        assert "cortexd.tap" == record.module
        assert record.options is Options


class CollectorTests(SynchronousTestCase):
    def test_what_is_there_is_left_alone(self) -> None:
        """From then on it is not looked through, and what is new is so less often.

        A large fleet, which the first polls make known, is left alone too.
        """
        clock = Clock()
        before = gc.get_threshold()
        self.addCleanup(gc.set_threshold, *before)
        self.addCleanup(gc.unfreeze)

        settle_collector(clock)

        at_start = gc.get_freeze_count()
        assert at_start > 10_000
        assert (YOUNG_OBJECTS, before[1], NEVER) == gc.get_threshold()

        fleet = [[number] for number in range(10_000)]
        clock.advance(FLEET_SECONDS)
        assert gc.get_freeze_count() > at_start + len(fleet) // 2  # some others ended meanwhile
        assert (YOUNG_OBJECTS, *before[1:]) == gc.get_threshold()
