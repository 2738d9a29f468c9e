"""Enrolling agents, revoking them, and the gateway's own certificate for their links."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agents.enrolling import Enroller, EnrolmentTerms
from cortexd.errors import OperationRefused
from cortexd.link.admission import DAMAGED, Enrolments, Kind, PeerCertificate
from cortexd.link.certificates import (
    DAY,
    HOUR,
    agent_pair,
    authority_of,
    gateway_pair,
    new_authority,
    peer_certificate,
)
from cortexd.link.enrolment import AgentEnrolment, text_of, tls_of
from cortexd.link.proofs import key_of

NOW = 1_800_000_000.0
GATEWAY = "gateway.example.com:8700"


class EnrollerTestCase(SynchronousTestCase):
    terms = EnrolmentTerms(is_open=True)

    def setUp(self) -> None:
        """Start an enroller over an empty state directory."""
        state = tempfile.TemporaryDirectory()
        self.addCleanup(state.cleanup)
        self.path = Path(state.name, "agents")
        self.clock = Clock()
        self.held: list[Callable[[], object]] = []
        self.holds = False
        self.reviews = 0
        self.enroller = self.start()

    def start(self, terms: EnrolmentTerms | None = None) -> Enroller:
        """Start one over the same directory."""
        enroller = self.make(terms)
        enroller.startService()
        self.addCleanup(enroller.stopService)
        return enroller

    def make(self, terms: EnrolmentTerms | None = None) -> Enroller:
        """Return one over the same directory that has read nothing yet."""
        enroller = Enroller(
            self.path,
            Enrolments(),
            terms or self.terms,
            self.in_thread,
            lambda: NOW + self.clock.seconds(),
            self.clock,
        )
        enroller.changed.append(self.review)
        return enroller

    def review(self) -> None:
        """Count how often the links of agents are looked at again."""
        self.reviews += 1

    def in_thread(self, call: Callable[[], Any]) -> Deferred[Any]:
        """Call at once, or when the test lets it."""
        if not self.holds:
            return maybeDeferred(call)
        done: Deferred[Any] = Deferred()
        self.held.append(lambda: maybeDeferred(call).chainDeferred(done))
        return done

    def do(self, order: Any) -> Any:
        """Return what an order returns."""
        return self.successResultOf(Deferred.fromCoroutine(order))

    def refusal(self, order: Any) -> str:
        """Return why an order is refused."""
        return str(self.failureResultOf(Deferred.fromCoroutine(order), OperationRefused).value)

    def enrol(self, node: str = "gpu1", days: int = 730, *, by_token: bool = False) -> Any:
        """Enrol a node and return what its agent needs."""
        order = self.enroller.enrol(node, GATEWAY, days, by_token=by_token)
        found: AgentEnrolment = self.do(order)[1]
        return found

    def why_not(self, enrolment: AgentEnrolment, node: str = "gpu1", later: float = 0.0) -> Any:
        """Return why an enrolment by a certificate of ours does not admit."""
        certificate = x509.load_der_x509_certificate(enrolment.tls.chain[0])
        peer = peer_certificate(certificate, is_ours=True)
        now = NOW + self.clock.seconds() + later
        return self.enroller.enrolments.check_certificate(node, peer, now)

    def token_key(self, node: str = "gpu1") -> bytes | None:
        """Return the key of a node's token now."""
        return self.enroller.enrolments.token_key(node, NOW + self.clock.seconds())


class EnrolTests(EnrollerTestCase):
    def test_by_certificate(self) -> None:
        """The file has the serial number, and the agent gets all that it needs."""
        found = self.enrol()

        assert self.why_not(found) is None
        assert self.why_not(found, later=730 * DAY)
        assert "is not for node gpu2" in self.why_not(found, "gpu2")
        assert (found.node, found.gateway) == ("gpu1", GATEWAY)
        assert found.server_name == "gateway.cortexd"
        assert self.enroller.tls is not None
        assert found.tls.authorities == self.enroller.tls.authorities
        assert found.validity == (NOW - HOUR, NOW + 730 * DAY)

    def test_by_token(self) -> None:
        """The gateway keeps the key that the token gives, and not the token."""
        found = self.enrol(by_token=True, days=2)
        assert found.token is not None

        assert self.token_key() == key_of(found.token, "gpu1")
        assert found.token not in (self.path / "agents.toml").read_text()
        self.clock.advance(2 * DAY)
        assert self.token_key() is None

    def test_a_new_enrolment_replaces_the_old_one(self) -> None:
        """It counts at once, and links are looked at again: the old one's holds no longer."""
        first, other = self.enrol(), self.enrol("gpu2")
        before = self.reviews
        second = self.enrol()

        assert "has replaced" in self.why_not(first)
        assert self.why_not(second) is None
        assert self.why_not(other, "gpu2") is None
        assert self.reviews == before + 1

        self.enrol(by_token=True)
        assert "no enrolment with a certificate" in self.why_not(second)

    def test_another_process_finds_the_same(self) -> None:
        """A new daemon over the same directory admits whom the old one has enrolled."""
        found = self.enrol()
        self.enroller.stopService()
        tls = self.enroller.tls
        self.enroller = self.start()

        assert self.why_not(found) is None
        assert self.enroller.tls == tls

    def test_orders_that_cannot_be(self) -> None:
        """Each is refused in words, and nothing has changed."""
        assert "expected 1 to 3650" in self.refusal(
            self.enroller.enrol("gpu1", GATEWAY, 0, by_token=False)
        )
        self.enroller.stopService()
        for order in (
            self.enroller.enrol("gpu1", GATEWAY, 1, by_token=True),
            self.enroller.revoke("gpu1"),
        ):
            assert "try again" in self.refusal(order)
        assert not (self.path / "agents.toml").exists()

    def test_changes_come_one_after_the_other(self) -> None:
        """Two orders at once lose nothing."""
        self.holds = True
        orders = [
            Deferred.fromCoroutine(self.enroller.enrol(node, GATEWAY, 1, by_token=True))
            for node in ("gpu1", "gpu2")
        ]
        while self.held:
            assert len(self.held) == 1
            self.held.pop()()

        for each in orders:
            self.successResultOf(each)
        assert {"gpu1", "gpu2"} == self.enroller.enrolments.by_node.keys()

    def test_no_secret_is_shown(self) -> None:
        """Neither a representation nor a file of the gateway has what the agent proves."""
        found = self.enrol(), self.enrol("gpu2", by_token=True)
        table = (self.path / "agents.toml").read_text()
        for secret in (found[0].key[60:90], found[1].token, self.token_key("gpu2")):
            assert str(secret) not in repr((found, self.enroller.tls, self.enroller.enrolments))
            assert str(secret) not in table


class RevokeTests(EnrollerTestCase):
    def test_a_revoked_node(self) -> None:
        """Links are looked at again at once, and nothing from before admits it any more."""
        found = self.enrol()
        self.enrol("gpu2", by_token=True)
        before = self.reviews
        for node in ("gpu1", "gpu2"):
            self.do(self.enroller.revoke(node))

        assert "was revoked" in self.why_not(found)
        assert self.token_key("gpu2") is None
        assert self.reviews == before + 2

    def test_it_can_be_enrolled_again(self) -> None:
        """At once: the new enrolment is from after the revocation."""
        first = self.enrol()
        self.do(self.enroller.revoke("gpu1"))
        second = self.enrol()
        self.clock.advance(2)

        assert self.why_not(second) is None
        assert "was revoked" in self.why_not(first)

        self.do(self.enroller.revoke("gpu1"))
        self.enrol(by_token=True)
        assert self.token_key() is not None

    def test_a_clock_that_went_back(self) -> None:
        """An earlier revocation does not replace a later one."""
        self.clock.advance(100)
        self.do(self.enroller.revoke("gpu1"))
        self.clock.rightNow = 0.0
        self.do(self.enroller.revoke("gpu1"))

        assert self.enroller.enrolments.revoked["gpu1"] == NOW + 100

    def test_another_process_knows_it(self) -> None:
        """The revocation is in the file."""
        found = self.enrol()
        self.do(self.enroller.revoke("gpu1"))
        self.enroller.stopService()
        self.enroller = self.start()

        assert "was revoked" in self.why_not(found)


class FileTests(EnrollerTestCase):
    def damage(self) -> None:
        """Break the file, and let the enroller look at it."""
        (self.path / "agents.toml").write_text("[[agents")
        self.clock.advance(HOUR)

    def test_a_damaged_file_admits_nobody(self) -> None:
        """No link holds then, the status says why, and a reload takes the file once it is whole."""
        found = self.enrol()
        text = (self.path / "agents.toml").read_text()
        before = self.reviews
        self.damage()

        assert self.why_not(found) == DAMAGED
        assert self.reviews > before
        [notice] = self.enroller.notices()
        assert notice.startswith("no agent is admitted: ")
        assert "not valid TOML" in notice
        assert "nothing was changed" in self.refusal(self.enroller.revoke("gpu1"))
        assert "not valid TOML" in self.refusal(self.enroller.listed())

        (self.path / "agents.toml").write_text(text)
        self.successResultOf(self.enroller.reconfigure(self.terms))
        assert self.why_not(found) is None
        assert self.enroller.notices() == []

    def test_until_it_is_read_nobody_is_admitted(self) -> None:
        """It may have a revocation, and must not admit whom it excludes."""
        enroller = self.make()
        foreign = PeerCertificate(frozenset({"gpu1"}), 1, NOW - 1, NOW + DAY, is_ours=False)
        assert enroller.enrolments.check_certificate("gpu1", foreign, NOW) == DAMAGED

        enroller.startService()
        self.addCleanup(enroller.stopService)
        assert enroller.enrolments.check_certificate("gpu1", foreign, NOW) is None

    def test_changes_by_hand(self) -> None:
        """A reload takes them, and links are looked at again; comments stay."""
        self.enrol(by_token=True)
        self.enrol("gpu2", by_token=True)
        before = self.reviews
        file = self.path / "agents.toml"
        head, _, rest = file.read_text().rpartition("\n[[agents]]\n")
        assert 'node = "gpu2"' in rest
        file.write_text(f"# ours\n{head}")
        self.successResultOf(self.enroller.reconfigure(self.terms))

        assert self.token_key("gpu2") is None
        assert self.reviews == before + 1
        self.enrol("gpu3")
        assert file.read_text().startswith("# ours\n")

    def test_an_enrolment_that_ends(self) -> None:
        """The links are looked at again every hour, as is the file."""
        self.enrol(by_token=True, days=1)
        before = self.reviews
        self.clock.advance(HOUR)
        assert self.reviews > before

    def test_what_expires(self) -> None:
        """The status warns thirty days ahead."""
        self.enrol(days=31)
        self.enrol("gpu2", days=40, by_token=True)
        self.clock.advance(2 * DAY)
        now = NOW + self.clock.seconds()
        warnings = [each.validity.warning(now, each.advice) for each in self.enroller.shown()]

        assert [
            "the gateway's certificate for agents",
            "the enrolment of node gpu1",
            "the enrolment of node gpu2",
        ] == [each.whose for each in self.enroller.shown()]
        assert (warnings[0], warnings[2]) == (None, None)
        assert "expires in 29 days" in (warnings[1] or "")


class CertificateTests(EnrollerTestCase):
    def test_it_is_renewed(self) -> None:
        """Whoever shows it hears of the new one; agents trust the same authority."""
        heard: list[object] = []
        self.enroller.renewed.append(lambda: heard.append(self.enroller.tls))
        before = self.enroller.tls
        assert before is not None
        self.clock.pump([DAY] * 246)

        [after] = heard
        assert after == self.enroller.tls != before
        assert self.enroller.tls is not None
        assert self.enroller.tls.authorities == before.authorities
        self.successResultOf(self.enroller.reconfigure(EnrolmentTerms(is_open=True, names=("gw",))))
        assert len(heard) == 2

    def test_a_folder_that_cannot_be_written(self) -> None:
        """The gateway goes on without agents, and the status says why."""
        self.enroller.stopService()
        (self.path / "ca-key.pem").unlink()
        self.enroller = self.start()

        assert self.enroller.tls is None
        [notice] = self.enroller.notices()
        assert notice.startswith("the gateway's certificate for agents: ")
        assert "ca-key.pem is missing" in notice
        assert "ca-key.pem is missing" in self.refusal(
            self.enroller.enrol("gpu1", GATEWAY, 1, by_token=False)
        )

    def test_without_a_listener(self) -> None:
        """Nothing is made before it is needed; an agent can be enrolled beforehand."""
        self.enroller.stopService()
        self.path = self.path.parent / "other"
        self.enroller = self.start(EnrolmentTerms())
        assert not self.path.exists()
        assert self.enroller.notices() == []
        assert self.do(self.enroller.listed()) == {}

        self.enrol(by_token=True)
        assert self.do(self.enroller.listed())["gpu1"].kind is Kind.TOKEN


class ForeignTests(EnrollerTestCase):
    authority = authority_of(new_authority(NOW))
    pair = gateway_pair(authority, [], NOW)
    terms = EnrolmentTerms(is_open=True, files=tls_of(pair.certificate, pair.key, authority.pem))

    def test_the_operator_s_own_files(self) -> None:
        """They are what agents see, and nothing of ours is made."""
        assert not self.enroller.is_ours
        assert self.enroller.tls == self.terms.files
        assert self.enroller.validity is not None
        assert not self.path.exists()

    def test_enrolling(self) -> None:
        """A certificate must come from the operator's authority; a token is ours to make."""
        refused = self.refusal(self.enroller.enrol("gpu1", GATEWAY, 1, by_token=False))
        assert "[agents] ca" in refused
        assert "--token" in refused

        found = self.enrol(by_token=True)
        assert self.token_key() is not None
        assert found.server_name == "gateway.cortexd"
        assert text_of(found).count(self.authority.pem) == 1

    def test_revoking(self) -> None:
        """Certificates from before admit nobody any more, later ones do."""
        pair = agent_pair(self.authority, "gpu1", NOW - HOUR, NOW + DAY)
        certificate = x509.load_pem_x509_certificate(pair.certificate.encode())
        peer = peer_certificate(certificate, is_ours=False)
        check = self.enroller.enrolments.check_certificate
        assert check("gpu1", peer, NOW) is None
        assert self.enroller.enrolments.expiries == {"gpu1": NOW + DAY}
        self.do(self.enroller.revoke("gpu1"))

        assert "was revoked" in str(check("gpu1", peer, NOW))
        assert self.enroller.enrolments.expiries == {}

    def test_other_files(self) -> None:
        """After a reload with other files, whoever shows them hears of it."""
        heard: list[object] = []
        self.enroller.renewed.append(lambda: heard.append(self.enroller.tls))
        self.successResultOf(self.enroller.reconfigure(EnrolmentTerms(is_open=True)))

        assert self.enroller.is_ours
        assert heard == [None, self.enroller.tls]
        assert self.enroller.tls is not None
