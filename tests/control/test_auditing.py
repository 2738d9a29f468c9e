"""Each command of the control socket changes nothing, or says in the audit trail who gave it."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.protocols import amp
from twisted.test.iosim import FakeTransport, connect
from twisted.trial.unittest import SynchronousTestCase

from cortexd.config import reading
from cortexd.control import agent_commands, contract, enrolment_commands
from cortexd.control.auditing import Users
from cortexd.control.contract import Refused
from cortexd.control.handover import HandOver
from cortexd.control.server import ControlProtocol
from cortexd.fleet.states import Observation, ReplicaState
from cortexd.link import enrolment
from cortexd.scheduling.events import Observed
from cortexd.scheduling.repairs.events import AgentJoined
from cortexd.service.daemon import daemon
from cortexd.store.journal import JournalEntry
from tests.doubles.scripted_agent import ScriptedAgent
from tests.support.control import SocketTransport, send
from tests.test_reassembly import STARTED_AT, TEXT, Reactor

READ: Mapping[type[amp.Command], Mapping[str, Any]] = {
    contract.Version: {},
    contract.ListNodes: {"offset": 0},
    contract.ListReplicas: {"node": "a", "offset": 0},
    contract.ListLeases: {"offset": 0},
    contract.ListModels: {"offset": 0},
    contract.ListReloaded: {"offset": 0},
    contract.PlanReload: {"offset": 0},
    contract.ListKeys: {"offset": 0},
    contract.ListUsage: {"offset": 0, "days": 1},
    contract.PlanLoad: {"model": "org/new"},
    contract.Why: {"what": "org/new", "offset": 0},
    contract.Events: {"after": 0, "limit": 100},
    enrolment_commands.ListEnrolments: {"offset": 0},
    agent_commands.ListAgents: {"offset": 0},
    agent_commands.PlanRestart: {"node": "a"},
    agent_commands.ShowRestart: {"node": "a"},
    agent_commands.ReadLog: {"node": "a", "lines": 10},
}
"""The commands that change nothing, with arguments that succeed."""

CHANGE: Mapping[type[amp.Command], tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    contract.LoadModel: (
        {"model": "org/new"},
        {"command": "load", "model": "org/new", "node": "b"},
    ),
    contract.ProbeModel: (
        {"model": "org/chat"},
        {"command": "probe", "model": "org/chat", "nodes": ["a"]},
    ),
    contract.PinModel: (
        {"model": "org/chat", "node": "a"},
        {"command": "pin", "model": "org/chat", "node": "a"},
    ),
    contract.UnpinModel: (
        {"model": "org/chat", "node": "a"},
        {"command": "unpin", "model": "org/chat", "node": "a"},
    ),
    contract.CordonNode: ({"node": "b"}, {"command": "cordon", "node": "b"}),
    contract.UncordonNode: ({"node": "b"}, {"command": "uncordon", "node": "b"}),
    contract.Reload: ({}, {"command": "reload", "changes": 1}),
    contract.AddKey: (
        {"key": {"name": "alice"}},
        {"command": "key add", "key": "alice", "scopes": ["infer", "read"]},
    ),
    contract.RotateKey: (
        {"name": "carol", "keep_old": 60.0},
        {"command": "key rotate", "key": "carol", "keep_old_seconds": 60.0},
    ),
    contract.RevokeKey: ({"name": "carol"}, {"command": "key revoke", "key": "carol"}),
    enrolment_commands.EnrolAgent: (
        {"node": "a", "by_token": True, "days": 2, "gateway": "gateway.example.com:8700"},
        {"command": "agent enroll", "node": "a", "admits": "token", "days": 2},
    ),
    enrolment_commands.RevokeAgent: ({"node": "a"}, {"command": "agent revoke", "node": "a"}),
    contract.UnloadModel: (
        {"model": "org/chat", "node": "a", "now": True},
        {"command": "unload", "model": "org/chat", "node": "a", "now": True},
    ),
    agent_commands.SleepNode: ({"node": "c"}, {"command": "sleep", "node": "c"}),
    agent_commands.WakeNode: ({"node": "d"}, {"command": "wake", "node": "d"}),
    agent_commands.RestartNode: (
        {"node": "a", "now": True, "defrag": True},
        {"command": "defrag", "node": "a", "now": True},
    ),
}
"""The commands that change something, with arguments that succeed, and what the audit trail has."""

SLEEPERS = "".join(
    f'[[nodes]]\nname = "{name}"\nendpoint = "http://10.0.1.{number}:8080"\nvram_mb = 9\n'
    'power = { wake = "00:1b:21:3a:4f:5e", suspend = ["true"] }\n'
    for number, name in enumerate("cd", 1)
)
"""Nodes that may sleep; the second one does not answer."""

OTHERS = {
    HandOver: "only a daemon that replaces this one gives it, in the course of a restart",
    amp.StartTLS: "it belongs to AMP",
    agent_commands.MoreLog: "it goes on with what ReadLog began on the same connection",
}
"""The commands that no operator gives."""


class AuditTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.keys_file = Path(folder.name, "keys.toml")
        self.text = TEXT.replace("/var/lib/cortex", folder.name)
        self.text += SLEEPERS
        self.text += f'[auth]\nkeys_file = "{self.keys_file}"\n'
        config = reading.parse(self.text, "test")
        made = daemon(
            config, Reactor(), {}, lambda: STARTED_AT, None, lambda: reading.parse(self.text, "f")
        )
        self.parts = parts = made.parts
        parts.recorder.startService()
        self.addCleanup(parts.recorder.stopService)
        parts.enroller.startService()
        self.addCleanup(parts.enroller.stopService)
        made.reloader.startService()
        self.addCleanup(made.reloader.stopService)
        self.reloader = made.reloader
        for node, states in (
            ("a", {"org/chat": ReplicaState.LOADED}),
            ("b", {"org/new": ReplicaState.UNLOADED}),
            ("c", {}),
        ):
            parts.dispatcher.dispatch(Observed(node, Observation(1, states), 0.0))
        agent = ScriptedAgent("a")
        parts.control_factory.agents.add(agent)
        parts.dispatcher.dispatch(AgentJoined("a", agent.abilities))
        self.connection, other_end = socket.socketpair()
        self.addCleanup(other_end.close)
        self.addCleanup(self.connection.close)
        self.actor = Users().actor(os.geteuid())

    def ask(self, command: type[amp.Command], **arguments: Any) -> Deferred[Any]:
        client = amp.AMP()
        server = self.parts.control_factory.buildProtocol(None)
        assert server is not None
        transport = SocketTransport(server, self.connection)
        pump = connect(server, transport, client, FakeTransport(client, isServer=False))
        answered = send(client, command, **arguments)
        pump.flush()
        transport.loseConnection()
        pump.flush()
        return answered

    def audited(self) -> list[JournalEntry]:
        """Return the audit trail."""
        return [each for each in self.parts.recorder.entries(0, 1000) if each.kind == "audit"]

    def test_every_command_is_in_a_table(self) -> None:
        """A new command must say whether it changes anything."""
        protocol: Any = ControlProtocol
        answered = {command for command, _ in protocol._commandDispatch.values()}
        assert {*READ, *CHANGE, *OTHERS} == answered

    def test_what_changes_nothing_leaves_no_entry(self) -> None:
        """A list, a plan and a question are not audited."""
        for command, arguments in READ.items():
            self.successResultOf(self.ask(command, **arguments))
        assert [] == self.audited()

    def test_what_changes_something_leaves_an_entry(self) -> None:
        """It has who gave the command, and what was changed."""
        self.successResultOf(self.ask(contract.AddKey, key={"name": "carol"}))
        for command, (arguments, expected) in CHANGE.items():
            if command is contract.Reload:
                self.text = self.text.replace("vram_mb = 1000", "vram_mb = 1001", 1)
            before = len(self.audited())
            self.successResultOf(self.ask(command, **arguments))

            [entry] = self.audited()[before:]
            found = {"node": entry.node, "model": entry.model, **entry.fields}
            found = {key: value for key, value in found.items() if value is not None}
            assert {**expected, "actor": self.actor} == found

    def test_what_is_refused(self) -> None:
        """It changes nothing, and only the reload leaves an entry: it says why in the journal."""
        for command, arguments in (
            (contract.PinModel, {"model": "org/none", "node": "a"}),
            (contract.RevokeKey, {"name": "nobody"}),
            (contract.AddKey, {"key": {"name": "a b"}}),
            (enrolment_commands.EnrolAgent, {"node": "none"}),
            (enrolment_commands.EnrolAgent, {"node": "a", "gateway": "nowhere"}),
            (enrolment_commands.RevokeAgent, {"node": "none"}),
        ):
            self.failureResultOf(self.ask(command, **arguments), Refused)
        assert [] == self.audited()

        self.text = "wrong"
        self.failureResultOf(self.ask(contract.Reload), Refused)
        [entry] = self.audited()
        assert ("reload", self.actor) == (entry.fields["command"], entry.fields["actor"])
        assert "not valid TOML" in str(entry.fields["refused"])

    def test_a_signal(self) -> None:
        """A reload by SIGHUP is audited too, with the signal for the user."""
        self.reloader.hang_up()
        self.text = "wrong"
        self.reloader.hang_up()

        done, refused = (each.fields for each in self.audited())
        assert {"actor": "signal SIGHUP", "command": "reload", "changes": 0} == done
        assert "not valid TOML" in str(refused["refused"])

    def test_no_secret_of_a_key(self) -> None:
        """Neither the journal nor a list has the text, the id or the hash of a key."""
        text = self.successResultOf(self.ask(contract.AddKey, key={"name": "carol"}))["text"]
        listed = self.successResultOf(self.ask(contract.ListKeys, offset=0))["items"]
        carol = self.parts.ring.keys["carol"]

        assert text.startswith("sk-cortex-")
        shown = repr((listed, self.parts.recorder.entries(0, 1000)))
        assert "carol" in shown
        for secret in (text[-20:], carol.id, carol.hash[-20:]):
            assert secret not in shown

    def test_no_secret_of_an_agent(self) -> None:
        """Neither the journal, nor a list, nor the state has what an agent proves itself with."""
        answers = [
            self.successResultOf(
                self.ask(
                    enrolment_commands.EnrolAgent,
                    node=node,
                    by_token=by_token,
                    gateway="gateway.example.com:8700",
                )
            )["enrolment"]
            for node, by_token in (("a", True), ("b", False))
        ]
        found = [enrolment.read(answer, "answer") for answer in answers]
        listed = self.successResultOf(self.ask(enrolment_commands.ListEnrolments, offset=0))
        shown = repr((listed, self.parts.recorder.entries(0, 1000)))

        assert "agent enroll" in shown
        for secret in (found[0].token, (found[1].key or "")[40:90]):
            assert secret
            assert secret not in shown


class UsersTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.passwd = Path(folder.name, "passwd")
        self.passwd.write_text("root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n")
        self.waiting: list[Deferred[str]] = []

    def in_thread(self, call: Callable[[], str]) -> Deferred[str]:
        """Wait for the test: a directory in the network may be slow."""
        asking: Deferred[str] = Deferred()
        self.waiting.append(asking)
        return asking

    def test_own_users(self) -> None:
        """Their names are known at once, and nothing else is asked."""
        users = Users(self.in_thread, self.passwd)
        assert "uid 1000 (alice)" == users.actor(1000)
        assert [] == self.waiting

    def test_users_of_a_directory(self) -> None:
        """The number stands alone until the directory answers, which is asked once at a time."""
        users = Users(self.in_thread, self.passwd)
        users.meet(7)
        assert "uid 7" == users.actor(7)
        self.waiting.pop().errback(KeyError("uid not found: 7"))
        assert "uid 7" == users.actor(7)
        self.waiting.pop().callback("carol")
        assert "uid 7 (carol)" == users.actor(7)
        assert [] == self.waiting

    def test_without_a_file(self) -> None:
        """A machine without such a file has numbers, and no error."""
        users = Users(lambda call: fail(KeyError("7")), self.passwd / "none")
        assert "uid 7" == users.actor(7)
