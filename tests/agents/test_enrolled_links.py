"""Links of agents that were enrolled, revoked, and enrolled again, over TLS in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from cortexd.agent.identity import reach_of
from cortexd.agents.enrolling import Enroller, EnrolmentTerms
from cortexd.config.agent_settings import OwnSettings
from cortexd.link.certificates import authority_of, gateway_pair, new_authority
from cortexd.link.dialling import Dialler
from cortexd.link.enrolment import text_of, tls_of
from tests.agents.links import PORT, YEAR, LinkTestCase

DAY = 86_400.0


class EnrolledTestCase(LinkTestCase):
    def setUp(self) -> None:
        """Let an enroller say who is admitted."""
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.enroller = Enroller(
            self.folder / "agents",
            self.enrolments,
            EnrolmentTerms(is_open=True),
            lambda call: maybeDeferred(call),
            # OpenSSL has the machine's clock, in which what was made after this is not valid yet.
            lambda: self.now + self.clock.seconds() - 1000,
            self.clock,
        )
        self.enroller.attach(self.site)
        self.enroller.startService()

    def finish(self) -> None:
        """End the enroller, and then the rest."""
        self.enroller.stopService()
        super().finish()

    def enroll(self, node: str = "a", *, by_token: bool = False) -> Path:
        """Enrol a node and return the file that its agent gets."""
        order = self.enroller.enrol(node, f"127.0.0.1:{PORT}", 730, by_token=by_token)
        _, given = self.do(order)
        file = self.folder / f"{node}.enrolment"
        file.write_text(text_of(given))
        return file

    def do(self, order: Any) -> Any:
        """Return what an order returns, after all have heard of it."""
        result = self.successResultOf(Deferred.fromCoroutine(order))
        self.network.flush()
        return result

    def start(self, file: Path) -> Dialler:
        """Start an agent as its file says."""
        address, identity = reach_of(OwnSettings(enrolment=str(file)))
        assert address == ("127.0.0.1", PORT)
        return self.dial(identity)


class EnrolledTests(EnrolledTestCase):
    def test_the_course_of_a_node(self) -> None:
        """It is admitted by what it was enrolled with last, and by nothing after a revocation."""
        first = self.start(self.enroll())
        other = self.start(self.enroll("b"))
        assert (True, True) == (first.is_connected, other.is_connected)

        self.do(self.enroller.revoke("a"))
        assert (False, True) == (first.is_connected, other.is_connected)
        self.network.advance(60)
        assert "node a was revoked on" in first.reason
        first.stopService()

        second = self.start(self.enroll())
        assert second.is_connected
        third = self.start(self.enroll(by_token=True))
        assert (False, True) == (second.is_connected, third.is_connected)

    def test_a_renewed_certificate(self) -> None:
        """Links that are open stay, and new ones get the new one."""
        link = self.start(self.enroll())
        before = self.enroller.tls
        self.successResultOf(
            self.enroller.reconfigure(EnrolmentTerms(is_open=True, names=("gw.example.com",)))
        )
        self.network.flush()

        assert self.enroller.tls != before
        assert link.is_connected
        assert self.start(self.enroll("b")).is_connected

    def test_a_damaged_file(self) -> None:
        """All agents are dropped until a reload finds it whole; then they come back themselves."""
        link = self.start(self.enroll())
        table = self.folder / "agents" / "agents.toml"
        text = table.read_text()
        table.write_text("[[agents")
        self.successResultOf(self.enroller.reconfigure(EnrolmentTerms(is_open=True)))
        self.network.flush()
        assert not link.is_connected
        self.network.advance(60)
        assert "cannot read its enrolments" in link.reason

        table.write_text(text)
        self.successResultOf(self.enroller.reconfigure(EnrolmentTerms(is_open=True)))
        self.network.advance(60)
        assert link.is_connected

    def test_the_operator_s_own_authority(self) -> None:
        """A change to it drops the agents that ours has signed; a token of ours still serves."""
        link = self.start(self.enroll())
        authority = authority_of(new_authority(self.now))
        pair = gateway_pair(authority, [], self.now)
        files = tls_of(pair.certificate, pair.key, authority.pem)
        self.successResultOf(self.enroller.reconfigure(EnrolmentTerms(is_open=True, files=files)))
        self.network.flush()

        assert not link.is_connected
        assert self.start(self.enroll("b", by_token=True)).is_connected

    def test_a_stolen_enrolment(self) -> None:
        """It speaks for its own node alone."""
        text = self.enroll("a", by_token=True).read_text()
        file = self.folder / "stolen.enrolment"
        file.write_text(text.replace('node = "a"', 'node = "b"'))
        self.enroll("b", by_token=True)

        assert "proof of the token does not hold" in self.start(file).reason

    def test_a_clock_that_runs_behind(self) -> None:
        """A gateway that has just made its authority is taken by an agent some hours behind."""
        certificate = self.enroller.validity
        assert certificate is not None
        assert certificate.not_before <= self.now - 0.9 * DAY
        assert certificate.not_after >= self.now + 0.9 * YEAR
