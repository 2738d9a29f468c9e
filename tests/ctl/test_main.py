import contextlib
import io
import os
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.ctl import main
from cortexd.ctl.commands import SUBCOMMANDS


class ParserTests(SynchronousTestCase):
    def usage_error(self, *argv: str) -> str:
        """Return what is said of a command line that ends in the parser, with status 2."""
        words = io.StringIO()
        with contextlib.redirect_stderr(words):
            error = self.assertRaises(SystemExit, main.make_parser().parse_args, argv)
        assert 2 == error.code
        return words.getvalue()

    def parse(self, line: str) -> dict[str, Any]:
        """Return what a command line says, without what it says by default of all commands."""
        parsed = vars(main.make_parser().parse_args(line.split()))
        return {key: parsed[key] for key in parsed if key not in ("socket", "timeout", "json")}

    def test_defaults(self) -> None:
        """Without options the socket is looked for, the wait is short, and people read."""
        arguments = main.make_parser().parse_args(["status"])
        assert (None, 10.0, False) == (arguments.socket, arguments.timeout, arguments.json)

    def test_relative_socket(self) -> None:
        """A relative socket is meant from the current directory."""
        arguments = main.make_parser().parse_args(["--socket", "x.sock", "version"])
        assert str(Path.cwd() / "x.sock") == arguments.socket

    def test_what_commands_take(self) -> None:
        """Each command line gives its command the names and options it was written with."""
        lines: dict[str, dict[str, Any]] = {
            "load org/chat": {"model": "org/chat", "node": None, "wait": False},
            "load org/chat --node a --wait": {"model": "org/chat", "node": "a", "wait": True},
            "unload org/chat": {"model": "org/chat", "node": None, "now": False},
            "unload org/chat --node a --now": {"model": "org/chat", "node": "a", "now": True},
            "pin org/chat --node a": {"model": "org/chat", "node": "a"},
            "unpin org/chat --node a": {"model": "org/chat", "node": "a"},
            "cordon a": {"node": "a"},
            "uncordon a": {"node": "a"},
            "drain a": {"node": "a", "wait": True},
            "drain a --no-wait": {"node": "a", "wait": False},
            "restart a": {"node": "a", "now": False, "cold": False, "wait": True},
            "restart a --now --cold": {"node": "a", "now": True, "cold": True, "wait": True},
            "defrag a --no-wait": {"node": "a", "now": False, "cold": False, "wait": False},
            "logs a -f -n 5": {"node": "a", "follow": True, "count": 5},
            "plan restart a": {"change": "restart", "model": "a", "node": None},
            "plan load org/chat": {"change": "load", "model": "org/chat", "node": None},
            "why org/chat": {"what": "org/chat", "count": 10},
            "why req_1 -n 3": {"what": "req_1", "count": 3},
            "events": {"follow": False, "model": None, "count": 50},
            "events -f --model org/chat --count 1": {
                "follow": True,
                "model": "org/chat",
                "count": 1,
            },
        }
        for line, expected in lines.items():
            assert {"subcommand": line.split()[0], **expected} == self.parse(line), line

    def test_json_everywhere(self) -> None:
        """Every command can print JSON."""
        names = {"load": "m", "unload": "m", "pin": "m --node n", "unpin": "m --node n"}
        names |= {"cordon": "n", "uncordon": "n", "drain": "n", "plan": "load m", "why": "m"}
        names |= {"probe": "m", "key": "list", "restart": "n", "defrag": "n", "logs": "n"}
        names |= {"agent": "list", "sleep": "n", "wake": "n"}
        for subcommand in SUBCOMMANDS:
            line = [subcommand, *names.get(subcommand, "").split(), "--json"]
            assert main.make_parser().parse_args(line).json, subcommand

    def test_before_or_after_the_command(self) -> None:
        """What every command takes may stand on either side of its name."""
        common = ["--json", "--socket", "/s", "--timeout", "5"]
        for line in ([*common, "why", "m"], ["why", "m", *common], ["why", *common, "m"]):
            arguments = main.make_parser().parse_args(line)
            assert ("m", True, "/s", 5.0) == (
                arguments.what,
                arguments.json,
                arguments.socket,
                arguments.timeout,
            )

    def test_usage(self) -> None:
        """A wrong command line ends with 2 and says what is wrong with it."""
        wrong = {
            "": "COMMAND",
            "levitate": "levitate",
            "status --jsno": "--jsno",
            "--timeout 0 status": "expected seconds above 0",
            "--timeout nan status": "expected seconds above 0",
            "--timeout inf status": "expected seconds above 0",
            "--timeout soon status": "--timeout: found soon, expected seconds above 0",
            "--socket /" + 200 * "x" + " status": "--socket",
            "load": "MODEL",
            "pin org/chat": "--node",
            "plan unload org/chat": "unload",
            "drain": "NODE",
            "events -n 0": "expected an integer of 1 or more",
            "why m -n many": "expected an integer of 1 or more",
        }
        for line, words in wrong.items():
            assert words in self.usage_error(*line.split()), line

    def test_help(self) -> None:
        """Help shows examples, the commands and every exit status."""
        text = main.make_parser().format_help()
        for words in (
            "cortexctl status --json",
            "CORTEX_SOCKET",
            "3  no daemon answers",
            *SUBCOMMANDS,
        ):
            assert words in text


class MissingSocketTests(SynchronousTestCase):
    def test_no_socket_anywhere(self) -> None:
        """Where there is no socket at all the status is 3, whatever the command."""
        self.patch(os, "environ", {"CORTEX_SOCKET": "/nowhere/control.sock"})
        for line in ("status", "load org/chat", "events -f"):
            words = io.StringIO()
            self.patch(sys, "stderr", words)
            assert main.NO_DAEMON == main.main(line.split())
            assert "cortexctl: no daemon answers" in words.getvalue()
